"""What breaks while people are served: a layer, the worker's thread, the model's files."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from api_site import Site, serving, wait_for

from chatglm_backend.core import ModelState
from chatglm_backend.errors import ChatGLMError
from chatglm_backend.service import Service
from chatglm_backend.settings import Settings
from tests.tiny import build_checkpoint

pytestmark = pytest.mark.model
BOOM = "a secret of the layer's"


def loaded(service: Service) -> None:
    """Load to the end, whatever that is."""
    service.load()
    service.wait_ready(90)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small model's original folder."""
    return build_checkpoint(tmp_path / "original" / "chatglm2-6b", "chatglm2", shards=1)


@pytest.fixture
def site(folder: Path) -> Iterator[Site]:
    """The endpoint in front of it."""
    settings = Settings(model=str(folder), threads=1, drain_seconds=5)
    service = Service(settings)
    loaded(service)
    with serving(service, settings) as running:
        yield running
    service.close()


def engine_of(site: Site) -> Any:
    """The engine at work."""
    return site.service._loaded.worker._engines[""]


def writing(engine: Any) -> int:
    """How many sequences have read their prompt."""
    return sum(not sequence.reading for sequence in engine._sequences)


def ask(site: Site, prompt: str, tokens: int = 60) -> str:
    """A greedy completion, streamed. Raises what the client's library raises."""
    with site.client() as client:
        stream = client.completions.create(model="x", prompt=prompt, max_tokens=tokens, temperature=0, stream=True)
        return "".join(chunk.choices[0].text for chunk in stream)


class Asking(threading.Thread):
    """Asks beside others; ``text`` or ``error`` is there once joined."""

    def __init__(self, site: Site, prompt: str) -> None:
        super().__init__(daemon=True)
        self.text, self.error = "", ""
        self._site, self._prompt = site, prompt
        self.start()

    def run(self) -> None:
        """Ask."""
        try:
            self.text = ask(self._site, self._prompt)
        except openai.APIError as error:
            self.error = f"{error.code}: {error}"


def gather(site: Site, prompts: list[str], before_they_go_on: Callable[[], object]) -> list[Asking]:
    """Ask all at once, held back until all of them decode together."""
    engine, step, gate = engine_of(site), engine_of(site).step, threading.Event()

    def held() -> Any:
        gate.wait(20 if writing(engine) == len(prompts) else 0.05)  # slowly, lest one ends before the last is there
        return step()

    engine.step = held
    asking = [Asking(site, prompt) for prompt in prompts]
    assert wait_for(lambda: writing(engine) == len(prompts), 20)
    engine.step = step
    before_they_go_on()
    gate.set()
    return asking


def test_an_exception_in_a_layer_ends_one_request_and_the_others_go_on(site: Site) -> None:
    """It is told so, without the exception's own words; the others' texts are those that they get alone."""
    prompts = ["The quick", "brown fox", "jumps over"]
    alone = [ask(site, prompt) for prompt in prompts]
    layer = engine_of(site)._model.layers[1]
    finish, calls = type(layer).finish, iter([True, True])  # the batch, then its first alone

    def failing(self: Any, residual: Any, attended: Any, rows: Any) -> Any:
        if self is layer and next(calls, False):
            raise RuntimeError(BOOM)
        return finish(self, residual, attended, rows)

    with pytest.MonkeyPatch.context() as patch:
        asking = gather(site, prompts, lambda: patch.setattr(type(layer), "finish", failing))
        for one in asking:
            one.join(30)
    failed = [one for one in asking if one.error]
    assert len(failed) == 1
    assert failed[0].error.startswith("engine_failure: The engine failed on this request (RuntimeError)")
    assert BOOM not in failed[0].error
    assert [one.text for one in asking if not one.error] == [
        text for one, text in zip(asking, alone, strict=True) if not one.error
    ]
    assert ask(site, prompts[0]) == alone[0]
    assert httpx.get(f"{site.url}/ready").status_code == 200


def test_a_dead_worker_is_told_readiness_turns_red_and_loading_again_helps(site: Site) -> None:
    """Everybody who waits gets an error, the process lives, and nothing must be restarted but the model."""
    before = ask(site, "The quick", 8)

    def gone() -> Any:
        raise MemoryError(BOOM)

    engine_of(site).step = gone
    for one in [Asking(site, "brown fox"), Asking(site, "jumps over")]:
        one.join(30)
        assert "engine_failure" in one.error
        assert BOOM not in one.error
    ready = httpx.get(f"{site.url}/ready")
    assert (ready.status_code, ready.json()) == (503, {"status": "failed"})
    assert httpx.get(f"{site.url}/health").status_code == 200
    with pytest.raises(openai.InternalServerError):
        ask(site, "The quick", 8)
    loaded(site.service)
    assert httpx.get(f"{site.url}/ready").status_code == 200
    assert ask(site, "The quick", 8) == before


def test_files_that_vanish_do_not_disturb_those_who_are_served(site: Site, folder: Path, tmp_path: Path) -> None:
    """What is mapped stays; loading again says what is missing; with the files back it works."""
    before = ask(site, "The quick")
    folder.rename(tmp_path / "elsewhere")
    shutil.rmtree(os.environ["CHATGLM_CACHE"])
    assert ask(site, "The quick") == before
    with pytest.raises(ChatGLMError, match="chatglm2-6b"):
        loaded(site.service)
    ready = httpx.get(f"{site.url}/ready")
    assert (ready.status_code, ready.json()) == (503, {"status": "failed"})
    (tmp_path / "elsewhere").rename(folder)
    loaded(site.service)
    assert ask(site, "The quick") == before


@pytest.mark.parametrize("missing", ["pytorch_model.bin", "tokenizer.model", "config.json"])
def test_one_missing_file_is_named(folder: Path, tmp_path: Path, missing: str) -> None:
    """In a status, not a traceback; the file back in its place, the same service loads."""
    (folder / missing).rename(tmp_path / "hidden")
    service = Service(Settings(model=str(folder), threads=1))
    with pytest.raises(ChatGLMError, match=missing):
        loaded(service)
    assert service.status().state is ModelState.FAILED
    (tmp_path / "hidden").rename(folder / missing)
    loaded(service)
    service.close()
