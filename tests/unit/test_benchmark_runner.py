"""How a benchmark counts and times, on a model whose every step takes a known time."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chatglm_backend.benchmark.counted_prompts import CountedPrompts
from chatglm_backend.benchmark.runner import BenchmarkPlan, Machine, run_plan, run_prompts, thread_counts
from chatglm_backend.cli.app import main
from chatglm_backend.engine.engine import Engine
from chatglm_backend.engine.options import EngineOptions
from chatglm_backend.errors import RequestError
from chatglm_backend.models.adapter import Adapter
from tests.engine_fakes import FakeModel

MACHINE = Machine("fake", "vnni", 2, 1_000_000_000, lambda: 10.0)


def fake(**changes: Any) -> FakeModel:
    """Return a model that reads any prompt in 4 s and makes a token of every sequence in 0.5 s."""
    return FakeModel(unit_s=1.0, decode_s=0.5, **changes)


def measure(plan: BenchmarkPlan, model: FakeModel | None = None) -> tuple[Any, ...]:
    """Run a plan on the fake model and its clock."""
    chosen: Any = model or fake()
    return run_plan(chosen, plan, MACHINE, clock=chosen.clock)


def test_one_sequence_is_timed_by_the_definitions() -> None:
    """TTFT 4 s for 8 tokens, then 2 tok/s; the share is bytes per token × speed / bandwidth."""
    (run,) = measure(BenchmarkPlan(prompt_tokens=(8,), new_tokens=5, repeats=2))
    assert (run.ttft_s, run.prefill_tok_s, run.decode_tok_s) == (4.0, 2.0, 2.0)
    assert (run.itl_p50_ms, run.itl_p95_ms) == (500.0, 500.0)
    assert (run.read_bandwidth_gb_s, run.bandwidth_share) == (10.0, 0.2)
    assert (run.prompt_tokens, run.new_tokens, run.batch, run.draft_tokens) == (8, 5, 1, 0)


def test_bandwidth_is_the_better_of_before_and_after() -> None:
    """A neighbour that slows one of the two readings does not raise the share."""
    for readings in ([4.0, 10.0], [10.0, 4.0]):
        machine = Machine("fake", "vnni", 2, 1_000_000_000, iter(readings).__next__)
        model: Any = fake()
        (run,) = run_plan(model, BenchmarkPlan(prompt_tokens=(8,), new_tokens=5, repeats=1), machine, clock=model.clock)
        assert (run.read_bandwidth_gb_s, run.bandwidth_share) == (10.0, 0.2)


def test_three_sequences_count_together() -> None:
    """Decode speed is the total of the batch; no share of the bandwidth is claimed for it."""
    (run,) = measure(BenchmarkPlan(prompt_tokens=(8,), new_tokens=5, batches=(3,), repeats=1))
    assert (run.decode_tok_s, run.itl_p50_ms, run.bandwidth_share) == (6.0, 500.0, None)


@pytest.mark.parametrize("batch", [1, 3])
def test_every_sequence_makes_all_its_tokens(batch: int) -> None:
    """No stop id ends a run: one token from reading, the rest from decoding."""
    model: Any = fake()
    engine = Engine(model, CountedPrompts(model.config), EngineOptions(draft_tokens=0), clock=model.clock)
    run_prompts(engine, [f"8/{i}" for i in range(batch)], 6, model.clock)
    assert model.rows_decoded == batch * 5
    assert engine.idle


def test_one_entry_for_each_length_and_batch() -> None:
    """In the order asked for."""
    plan = BenchmarkPlan(prompt_tokens=(8, 16), new_tokens=3, batches=(1, 2), repeats=1)
    runs = measure(plan)
    assert [(run.prompt_tokens, run.batch) for run in runs] == [(8, 1), (8, 2), (16, 1), (16, 2)]


def test_fine_tunes_are_measured_in_turn_with_the_base() -> None:
    """Every repeat asks the base, then each fine-tune; an entry for each, in that order."""
    asked: list[str] = []

    class Noting(FakeModel):
        def new_cache(self, capacity: int, adapter: Any = None) -> Any:
            asked.append(adapter.name if adapter else "")
            return super().new_cache(capacity, adapter)

    model: Any = Noting()
    plan = BenchmarkPlan(prompt_tokens=(8,), new_tokens=3, batches=(1, 2), repeats=2)
    runs = run_plan(model, plan, MACHINE, {"poet": Adapter("poet", "1")}, clock=model.clock)
    assert [(run.batch, run.adapter) for run in runs] == [(1, ""), (1, "poet"), (2, ""), (2, "poet")]
    assert asked[-12:] == ["", "poet"] * 2 + ["", "", "poet", "poet"] * 2


def test_a_prompt_that_does_not_fit_is_an_error() -> None:
    """The model's limit is said, not exceeded."""
    with pytest.raises(RequestError, match="256"):
        measure(BenchmarkPlan(prompt_tokens=(300,), new_tokens=3))


@pytest.mark.parametrize(("most", "counts"), [(1, (1,)), (2, (1, 2)), (6, (1, 2, 4, 6)), (8, (1, 2, 4, 8))])
def test_sweeps_double_the_threads(most: int, counts: tuple[int, ...]) -> None:
    """Powers of two, and the most that there are."""
    assert thread_counts(most) == counts


WRONG = (
    "--synthetic nonsense", "--synthetic chatglm-7b", "--prompt-tokens many", "--prompt-tokens none",
    "--prompt-tokens 0", "--prompt-tokens 1", "--batch 0", "--batch 1,-2", "--new-tokens 1", "--draft-tokens -1",
    "--kernel magic", "--threads 0", "--json-out no/such/folder/out.json", "--plot no/such/folder/out.png",
)  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_wishes_are_exit_code_2(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A sentence before anything is loaded, and one JSON document where it was asked for."""
    for form in ([], ["--json"]):
        assert main(["benchmark", *wrong.split(), *form]) == 2
        told = capsys.readouterr()
        assert (json.loads(told.out)["ok"] is False) if form else (told.out == "")
        assert told.err.strip()
        assert "Traceback" not in told.err
