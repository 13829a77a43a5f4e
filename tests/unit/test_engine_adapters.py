"""Fine-tunes in the engine: who gets which, what their rows take, and whose kept prefixes they reuse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from chatglm_backend.core import CancelToken, Completed, GenerationParams, GenerationRequest
from chatglm_backend.engine.engine import Engine
from chatglm_backend.errors import UnknownAdapter
from chatglm_backend.models.adapter import Adapter, Delta, Prefix
from chatglm_backend.models.base import Feed
from tests.engine_fakes import ByteTokenizer, FakeModel

ROWS = 7
PREFIX = Adapter("poet", "1", prefix=Prefix((torch.zeros(1, ROWS, 8),) * 2, (torch.zeros(1, ROWS, 8),) * 2))
LORA = Adapter("lawyer", "2", {"some.product": Delta()})


class NotingModel(FakeModel):
    """Notes whose rows a step has, in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.orders: list[list[str]] = []

    def decode(self, feeds: Sequence[Feed]) -> Tensor:
        """One step."""
        self.orders.append([feed.cache.adapter.name if feed.cache.adapter else "" for feed in feeds])
        return super().decode(feeds)


def engine_with(*adapters: Adapter) -> Engine:
    """An engine over a fake model that remembers ids."""
    engine = Engine(FakeModel(), ByteTokenizer())
    engine.adapters = {adapter.name: adapter for adapter in adapters}
    return engine


def request(adapter: str, number: int = 0) -> GenerationRequest:
    """One request of one visitor; all have the same prompt."""
    params = GenerationParams(max_new_tokens=24)
    return GenerationRequest(f"{adapter}{number}", prompt="a prompt long enough", adapter=adapter, params=params)


def cached_tokens(engine: Engine, wanted: GenerationRequest) -> int:
    """How many tokens of the prompt were reused."""
    last = list(engine.generate(wanted))[-1]
    assert isinstance(last, Completed)
    return last.usage.cached_tokens


def test_prefix_rows_count_for_memory_and_not_for_tokens() -> None:
    """Admission reserves them; the context's limit and the usage know nothing of them."""
    engine = engine_with(PREFIX, LORA)
    plain, prefixed, changed = (engine.prepare(request(name)) for name in ("", "poet", "lawyer"))
    assert prefixed.kv_bytes - plain.kv_bytes == ROWS * 10
    assert (prefixed.within(1).kv_bytes, plain.within(plain.kv_bytes - 10)) == (prefixed.kv_bytes, plain)
    all_that_fits = replace(request("poet"), params=GenerationParams(max_new_tokens=10**6))
    most = engine.prepare(all_that_fits)
    less = most.within(most.kv_bytes - 25)
    assert (most.max_new_tokens - less.max_new_tokens, most.kv_bytes - less.kv_bytes) == (3, 30)
    assert (changed.kv_bytes, changed.prompt_ids, prefixed.prompt_ids) == (
        plain.kv_bytes,
        plain.prompt_ids,
        plain.prompt_ids,
    )
    assert prefixed.max_new_tokens == plain.max_new_tokens


def test_a_removed_fine_tune_leaves_no_prefixes() -> None:
    """They hold it, and nobody can ask for them; whoever is answered with it goes on. Others' stay."""
    engine = engine_with(LORA)
    cached_tokens(engine, request(""))
    cached_tokens(engine, request("lawyer"))
    running = engine.generate(request("lawyer", 1))
    next(running)
    engine.adapters = {}
    assert isinstance(list(running)[-1], Completed)
    assert len(engine.prefix_cache) == 1
    assert cached_tokens(engine, request("")) > 0


def test_an_unknown_fine_tune_is_refused_with_the_names_that_are_there() -> None:
    """Also one that was removed a moment ago."""
    engine = engine_with(PREFIX)
    with pytest.raises(UnknownAdapter, match="poet"):
        engine.prepare(request("lawyer"))
    engine.adapters = {}
    with pytest.raises(UnknownAdapter):
        engine.prepare(request("poet"))


def test_a_kept_prefix_serves_only_the_fine_tune_that_made_it() -> None:
    """The same visitor, the same prompt: the base's keys are of no use to a fine-tune, nor one's to another."""
    engine = engine_with(PREFIX, LORA)
    for name in ("", "poet", "lawyer"):
        assert cached_tokens(engine, request(name)) == 0
        assert cached_tokens(engine, request(name, 2)) > 0


def test_whoever_runs_keeps_a_fine_tune_that_is_removed() -> None:
    """Removing one ends nobody's answer."""
    engine = engine_with(LORA)
    events = engine.generate(request("lawyer"))
    next(events)
    engine.adapters = {}
    assert isinstance(list(events)[-1], Completed)


def test_rows_of_one_fine_tune_lie_side_by_side() -> None:
    """So that a step has one side path for each fine-tune, whoever came first."""
    model = NotingModel()
    engine = Engine(model, ByteTokenizer())
    engine.adapters = {"poet": PREFIX, "lawyer": LORA}
    names = ("poet", "", "lawyer", "poet")
    started = [engine.start(request(name, i), CancelToken(), 0.0) for i, name in enumerate(names)]
    while not all(sequence.finished for sequence in started):
        engine.step()
    assert max(model.orders, key=len) == ["", "lawyer", "poet", "poet"]
