"""The same weights on another kernel, for one request among others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chatglm_backend.core import CancelToken, Completed, Event, GenerationParams, GenerationRequest
from chatglm_backend.engine.engine import Engine, EngineOptions
from chatglm_backend.errors import InvalidRequest
from tests.engine_fakes import ByteTokenizer, FakeModel, script_row, text_of

ASK = GenerationRequest("r", prompt="hi", params=GenerationParams(max_new_tokens=12))


def _engine(options: EngineOptions | None = None) -> tuple[Engine, FakeModel, FakeModel, list[str]]:
    own, other = FakeModel(row=script_row(b"own", 2)), FakeModel(row=script_row(b"other", 2))
    made: list[str] = []

    def make() -> FakeModel:
        made.append("bigdl")
        return other

    engine = Engine(own, ByteTokenizer(), options or EngineOptions(draft_tokens=0), others={"bigdl": make})
    return engine, own, other, made


def test_two_kernels_answer_side_by_side_each_in_its_own_batches() -> None:
    """Each request runs on the model that it asked for, and both end."""
    engine, own, other, _ = _engine()
    texts: dict[str, list[Event]] = {"own": [], "bigdl": []}
    first = engine.start(replace(ASK, request_id="own"), CancelToken(), 0.0)
    second = engine.start(replace(ASK, request_id="bigdl", kernel="bigdl"), CancelToken(), 0.0)
    while not (first.finished and second.finished):
        for sequence, event in engine.step():
            texts[sequence.request.request_id].append(event)  # type: ignore[arg-type]
    assert {name: text_of(events) for name, events in texts.items()} == {"own": "own", "bigdl": "other"}
    assert "decode2" not in own.log + other.log


def test_the_other_model_is_made_once_and_only_when_wanted() -> None:
    """Whoever never compares pays nothing."""
    engine, _, _, made = _engine()
    list(engine.generate(ASK))
    assert made == []
    for _ in range(2):
        list(engine.generate(replace(ASK, kernel="bigdl")))
    assert made == ["bigdl"]


def test_a_comparison_reads_its_whole_prompt_and_leaves_nothing_behind() -> None:
    """Neither kernel continues from what the other computed."""
    engine, *_ = _engine(EngineOptions(draft_tokens=0))
    asked = replace(ASK, prompt="hi" * 40)
    cached = []
    for kernel in ("bigdl", "", "bigdl", ""):
        last = list(engine.generate(replace(asked, kernel=kernel)))[-1]
        assert isinstance(last, Completed)
        cached.append(last.usage.cached_tokens > 0)
    assert cached == [False, False, False, True]


def test_a_kernel_that_is_not_offered_is_refused_before_it_waits() -> None:
    """The sentence names what there is."""
    engine, *_ = _engine()
    with pytest.raises(InvalidRequest, match="bigdl"):
        engine.prepare(replace(ASK, kernel="abacus"))
