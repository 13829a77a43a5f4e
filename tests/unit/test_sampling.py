"""The specification of sampling: what it says holds for settings, terminal, endpoint and page alike."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import pytest
from pydantic import ValidationError

from chatglm_backend.api.schemas import ChatRequest
from chatglm_backend.cli.app import main
from chatglm_backend.core import GenerationParams
from chatglm_backend.errors import ConfigError, InvalidRequest
from chatglm_backend.sampling import SamplingField, sampling_fields
from chatglm_backend.sentences import LANGUAGES, load_texts
from chatglm_backend.settings import Settings, load_settings, spec
from chatglm_backend.ui.options import page_settings

pytest.importorskip("gradio")
from starlette.testclient import TestClient

from chatglm_backend.testing import scripted_service
from chatglm_backend.ui.sampling import SamplingControls
from tests.gradio_loop import in_loop
from webui import create_app

every_number = pytest.mark.parametrize("found", sampling_fields().values(), ids=lambda found: found.name)


def controls_of(settings: Settings, **starts: float) -> SamplingControls:
    """A page with all controls."""
    controls = SamplingControls(load_texts("en"), settings, "cg-{}", starts)
    controls.add()
    return controls


def asked_of_endpoint(name: str, value: object) -> GenerationParams:
    """The parameters of a request with one number."""
    field = {"max_new_tokens": "max_tokens"}.get(name, name)
    body = ChatRequest.model_validate({"messages": [{"role": "user", "content": "hi"}], field: value})
    return body.params(Settings())


def set_on_page(name: str, value: Any) -> GenerationParams:
    """The parameters of a page where one control was moved."""
    controls = controls_of(Settings())
    values = {one: component.value for one, component in zip(sampling_fields(), controls.components, strict=True)}
    return controls.params(list({**values, name: value}.values()))


@every_number
def test_bounds_are_the_same_everywhere(found: SamplingField, capsys: pytest.CaptureFixture[str]) -> None:
    """Both ends are taken, and what lies beyond is refused, whichever way it comes."""
    name = found.name
    for value in (found.low, found.high):
        assert getattr(GenerationParams(**{name: value}), name) == value  # type: ignore[arg-type]
        assert getattr(load_settings({name: str(value)}, {}).sampling(), name) == value
        assert getattr(page_settings([f"{spec(name).flags[0]}={value}"]), name) == value
        assert getattr(asked_of_endpoint(name, value), name) == value
        assert getattr(set_on_page(name, value), name) == value
    for value in (found.low - 1, found.high + 1, 10**400, math.nan, math.inf):
        with pytest.raises(InvalidRequest) as caught:
            GenerationParams(**{name: value})  # type: ignore[arg-type]
        assert caught.value.fields["field"] == name
        with pytest.raises(ConfigError):
            load_settings({name: value}, {})
        with pytest.raises(ValidationError):
            asked_of_endpoint(name, value)
        with pytest.raises(InvalidRequest):
            set_on_page(name, value)
        assert main(["generate", f"{spec(name).flags[-1]}={value}"]) == 2
        err = capsys.readouterr().err
        assert f"{name} (from the command line)" in err or f"'{spec(name).flags[0]}'" in err


@every_number
def test_whole_numbers_are_whole(found: SamplingField) -> None:
    """Half of a token is refused; a switch is no number."""
    for value in (True, "1", *([1.5] if found.kind == "int" else [])):
        with pytest.raises(InvalidRequest):
            GenerationParams(**{found.name: value})  # type: ignore[arg-type]


@every_number
def test_the_terminal_and_the_page_explain_it(found: SamplingField, capsys: pytest.CaptureFixture[str]) -> None:
    """One help text, one default; a label in every language; a slider within the bounds."""
    for command in ("generate", "chat"):
        main([command, "--help"])
        out = " ".join(capsys.readouterr().out.split())
        assert all(flag in out for flag in spec(found.name).flags)
        assert f"{found.help} " in out
    assert (spec(found.name).default, spec(found.name).help) == (found.default, found.help)
    assert all(load_texts(language)(found.label) for language in LANGUAGES)
    if found.slider:
        low, high, step = found.slider
        assert found.low <= low < low + step <= high <= found.high


def test_chat_states_one_limit(capsys: pytest.CaptureFixture[str]) -> None:
    """A conversation's default, and not the other commands' beside it."""
    main(["chat", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert "Most tokens of an answer. Default: 512." in out
    assert out.count("512") == 1
    assert "Default: 32." not in out


def test_an_untouched_page_asks_for_what_is_set() -> None:
    """Every setting arrives, also one beyond the slider's usual range; a control may start elsewhere."""
    settings = Settings(max_new_tokens=4000, temperature=3.5, top_p=0.5, top_k=300, min_p=0.1, seed=7)
    controls = controls_of(settings)
    assert controls.params([component.value for component in controls.components]) == settings.sampling()
    assert controls_of(settings, temperature=0.8).components[1].value == 0.8


def test_what_has_no_control_is_as_set() -> None:
    """A page with fewer controls keeps the settings for the rest; an empty seed is a new one each time."""
    controls = SamplingControls(load_texts("zh"), Settings(top_k=9, seed=7), "cg-{}", prefix="A: ")
    controls.add("temperature")
    controls.add("seed")
    assert [component.label[:3] for component in controls.components] == ["A: ", "A: "]
    assert asdict(controls.params([1.0, None])) == asdict(GenerationParams(temperature=1, top_k=9, seed=None))
    assert controls.params([None, 3.0]).seed == 3


def test_every_page_that_asks_is_given_every_number() -> None:
    """No page and no button drops one: a handler that gets one control of a group gets them all."""
    app = in_loop(lambda: create_app(scripted_service(), Settings(history=False)))
    config = TestClient(app, base_url="http://127.0.0.1:7860").get("/en/config").json()
    groups: dict[str, dict[str, int]] = {}
    for component in config["components"]:
        place = component["props"].get("elem_id") or ""
        for name in sampling_fields():
            if f"-{name.replace('_', '-')}" in place:
                groups.setdefault(place.replace(name.replace("_", "-"), "*"), {})[name] = component["id"]
    assert set(groups) == {"cg-*", "cg-chat-*", "cg-compare-*-a", "cg-compare-*-b"}
    for place, controls in groups.items():
        assert set(controls) == set(sampling_fields()), place
        inputs = [set(event["inputs"]) & set(controls.values()) for event in config["dependencies"]]
        asking = [given for given in inputs if given]
        assert asking, place
        assert all(given == set(controls.values()) for given in asking), place
