"""The same weights on another kernel: a second engine beside the first."""

from __future__ import annotations

from dataclasses import replace

from chatglm_backend.core import CancelToken, Completed, GenerationParams, GenerationRequest
from chatglm_backend.engine.engine import Engine
from chatglm_backend.engine.options import EngineOptions
from chatglm_backend.service.kernels import ComparisonEngine
from tests.engine_fakes import ByteTokenizer, FakeModel, script_row, text_of

ASK = GenerationRequest("r", prompt="hi", params=GenerationParams(max_new_tokens=12))


def engines() -> tuple[Engine, ComparisonEngine, list[str]]:
    """Return an engine, one beside it on another model, and a list of what was made."""
    made: list[str] = []

    def make() -> FakeModel:
        made.append("bigdl")
        return FakeModel(row=script_row(b"other", 2))

    own = Engine(FakeModel(row=script_row(b"own", 2)), ByteTokenizer(), EngineOptions(draft_tokens=0))
    return own, ComparisonEngine(own, ByteTokenizer(), make), made


def answer(engine: Engine | ComparisonEngine, request: GenerationRequest) -> tuple[str, int]:
    """The text of an answer, and how many tokens of its prompt were not read anew."""
    sequence = engine.start(request, CancelToken(), 0.0, engine.prepare(request))
    events = []
    while not sequence.finished:
        events += [event for _, event in engine.step()]
    assert isinstance(events[-1], Completed)
    return text_of(events), events[-1].usage.cached_tokens


def test_each_engine_answers_with_its_own_model() -> None:
    """Neither takes part in the other's steps."""
    own, other, _ = engines()
    assert [answer(own, ASK), answer(other, ASK)] == [("own", 0), ("other", 0)]


def test_the_other_engine_is_made_once_and_only_when_wanted() -> None:
    """Whoever never compares pays nothing."""
    own, other, made = engines()
    answer(own, ASK)
    assert made == []
    for _ in range(2):
        answer(other, ASK)
    assert made == ["bigdl"]


def test_a_comparison_reads_its_whole_prompt_and_leaves_nothing_behind() -> None:
    """Neither kernel continues from what the other computed."""
    own, other, _ = engines()
    asked = replace(ASK, prompt="hi" * 40)
    assert [answer(engine, asked)[1] > 0 for engine in (other, own, other, own)] == [False, False, False, True]
