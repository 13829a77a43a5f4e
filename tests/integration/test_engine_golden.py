"""The engine over the small golden checkpoints of all families."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest
import torch

from chatglm_backend.checkpoint.mapping import HeldTensors
from chatglm_backend.core import CancelToken, GenerationParams, GenerationRequest, PromptChances, TokenEvent
from chatglm_backend.engine.engine import Engine
from chatglm_backend.engine.options import EngineOptions
from chatglm_backend.int4.select import KernelChoice, select_kernel
from chatglm_backend.int4.weights import Int4Weights
from chatglm_backend.models.base import ChatModel, Feed, build_model
from chatglm_backend.models.kv_cache import KVCache
from chatglm_backend.models.weights import DenseWeights
from chatglm_backend.tokenizers.base import EncodedPrompt
from tests.engine_fakes import ByteTokenizer
from tests.golden_folders import (
    DIFFERENT,
    FOLDERS,
    dense_tensors,
    golden_cases,
    golden_config,
    packed_tensors,
    rel_error,
)
from tests.small_models import read_prompt

pytestmark = pytest.mark.model

PLAIN = EngineOptions(draft_tokens=0, prefix_cache_bytes=0)
REUSING = EngineOptions(draft_tokens=0)
DRAFTING = EngineOptions(draft_tokens=8, prefix_cache_bytes=0)
SAMPLED = {"temperature": 0.8, "top_p": 0.8, "seed": 3}


class NumberTokenizer(ByteTokenizer):
    """Prompts are ids written as numbers, and so are answers."""

    stop_ids: frozenset[int] = frozenset()

    def encode_prompt(self, prompt: str, prompt_format: str) -> EncodedPrompt:
        """Read the ids."""
        del prompt_format
        return EncodedPrompt(tuple(map(int, prompt.split())), prompt)

    def stream(self) -> Any:
        """Write the ids."""
        return NumberDecoder()


class NumberDecoder:
    """One number after the other."""

    def add(self, token_id: int) -> str:
        """Write an id."""
        return f"{token_id} "

    def finish(self) -> str:
        """Nothing is held back."""
        return ""


@lru_cache(maxsize=8)
def model_of(name: str, kind: str) -> ChatModel:
    """Return a golden model, dense in fp32 or in INT4 with the kernel and operations of this machine."""
    if kind == "dense":
        return build_model(golden_config(name), DenseWeights(dense_tensors(name)), kv_dtype=torch.float32)
    tensors = HeldTensors(packed_tensors(name))
    choice = chosen_kernel()
    return build_model(golden_config(name), Int4Weights(tensors, choice.kernel), ops=choice.ops)


@lru_cache(maxsize=1)
def chosen_kernel() -> KernelChoice:
    """Return what users get on this machine, compiled once for all tests."""
    return select_kernel("auto")


def engine_of(name: str, kind: str = "dense", options: EngineOptions = PLAIN) -> Engine:
    """Return an engine over a golden model."""
    return Engine(model_of(name, kind), NumberTokenizer(), options)


def ask(ids: Sequence[int], number: int = 0, tokens: int = 24, **params: Any) -> GenerationRequest:
    """Return a request with a prompt of these ids."""
    return GenerationRequest(
        f"r{number}",
        prompt=" ".join(map(str, ids)),
        params=GenerationParams(max_new_tokens=tokens, **params),
        ignore_stop_ids=True,
    )


def tokens_of(events: Any) -> list[int]:
    """Return the token ids of a stream."""
    return [event.token_id for event in events if isinstance(event, TokenEvent)]


def prompts_of(name: str) -> list[list[int]]:
    """Return the prompts of a folder that leave room for an answer."""
    limit = golden_config(name).context_limit
    return [case.input_ids for case in golden_cases(name) if len(case.input_ids) + 40 <= limit]


def together(engine: Engine, requests: Sequence[GenerationRequest]) -> list[list[int]]:
    """Run requests that join one step after the other."""
    told: dict[Any, list[Any]] = {}
    waiting = list(requests)
    while waiting or not engine.idle:
        if waiting:
            told[engine.start(waiting.pop(0), CancelToken(), 0.0)] = []
        for sequence, result in engine.step():
            told[sequence].append(result)
    return [tokens_of(events) for events in told.values()]


@pytest.mark.parametrize("name", FOLDERS)
def test_greedy_answers_are_the_authors(name: str) -> None:
    """The engine's tokens in fp32 are the recorded ones, stop ids ignored."""
    for case in golden_cases(name):
        assert tokens_of(engine_of(name).generate(ask(case.input_ids))) == case.greedy_ids


@pytest.mark.parametrize("params", [{}, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("kind", ["dense", "auto"])
@pytest.mark.parametrize("name", DIFFERENT)
def test_batched_is_as_alone(name: str, kind: str, params: dict[str, Any]) -> None:
    """Requests that run together say what each says alone with the same seed."""
    requests = [ask(ids, number, **params) for number, ids in enumerate(prompts_of(name) * 2)]
    alone = [tokens_of(engine_of(name, kind).generate(request)) for request in requests]
    assert together(engine_of(name, kind), requests) == alone


@pytest.mark.parametrize("kind", ["dense", "auto"])
@pytest.mark.parametrize("name", DIFFERENT)
def test_drafts_change_no_token(name: str, kind: str) -> None:
    """With draft tokens the same answer, and on small models there are some."""
    drafted = 0
    for ids in prompts_of(name):
        request = ask(ids, tokens=40)
        events = list(engine_of(name, kind, DRAFTING).generate(request))
        drafted += events[-1].usage.draft_tokens
        assert tokens_of(events) == tokens_of(engine_of(name, kind).generate(request))
    assert drafted > 0


@pytest.mark.parametrize("name", [name for name in DIFFERENT if golden_config(name).family != "chatglm"])
def test_a_prompts_probabilities_are_those_of_its_tokens_fed_one_by_one(name: str) -> None:
    """However many are read at a time; the answer behind it is the same."""
    ids = max(prompts_of(name), key=len)[:24]
    told: list[Any] = []
    for rows in (5, 128):
        engine = engine_of(name, options=replace(PLAIN, prefill_rows=rows))
        events = list(engine.generate(replace(ask(ids, tokens=4, logprobs=1), prompt_chances=True)))
        assert tokens_of(events) == tokens_of(engine.generate(ask(ids, tokens=4)))
        told.append(next(event.chances for event in events if isinstance(event, PromptChances)))
    model = model_of(name, "dense")
    cache = model.new_cache(len(ids))
    rows_of_each = [read_prompt(model, ids[:1], cache), *(model.decode([Feed((token,), cache)]) for token in ids[1:])]
    for chances in told:
        assert [own.token_id for own, *_ in chances] == ids
        assert chances[0][0].logprob is None
        for (own, likeliest), row in zip(chances[1:], rows_of_each, strict=False):
            expected = row[-1].log_softmax(-1)
            assert own.logprob == pytest.approx(float(expected[own.token_id]), abs=1e-4)
            assert likeliest.logprob == pytest.approx(float(expected.max()), abs=1e-4)


@pytest.mark.parametrize("name", DIFFERENT)
def test_probabilities_are_a_plain_log_softmax(name: str) -> None:
    """Of the authors' own logits behind the prompt, and with drafts those of the model fed token by token."""
    case = next(case for case in golden_cases(name) if len(case.input_ids) + 24 <= golden_config(name).context_limit)
    events = list(engine_of(name, options=DRAFTING).generate(ask(case.input_ids, logprobs=2)))
    told = [event for event in events if isinstance(event, TokenEvent)]
    model = model_of(name, "dense")
    cache = model.new_cache(len(case.input_ids) + len(told))
    rows = [read_prompt(model, case.input_ids, cache), *(model.decode([Feed((one.token_id,), cache)]) for one in told)]
    assert rel_error(rows[0][-1], case.prefill_logits[-1]) < 1e-4
    for event, row in zip(told, rows, strict=False):
        expected = row[-1].log_softmax(-1)
        for one in event.chances:
            assert one.logprob == pytest.approx(float(expected[one.token_id]), abs=1e-4)
        assert (event.chances[0].token_id, event.chances[1].token_id) == (event.token_id, int(expected.argmax()))


@pytest.mark.parametrize("kind", ["dense", "auto"])
@pytest.mark.parametrize("name", DIFFERENT)
def test_reuse_changes_no_token(name: str, kind: str) -> None:
    """A follow-up says the same with reused K/V; ChatGLM-6B reuses a whole prompt, and of the answer what is kept."""
    engine = engine_of(name, kind, REUSING)
    first = max(prompts_of(name), key=len)
    answer = tokens_of(engine.generate(ask(first, tokens=8)))
    again, further = [*first], [*first, *answer, *first[2:6]]
    for second, known in ((again, len(first) - 1), (further, len(first) + len(answer))):
        events = list(engine.generate(ask(second, tokens=16)))
        assert tokens_of(events) == tokens_of(engine_of(name, kind).generate(ask(second, tokens=16)))
        assert events[-1].usage.cached_tokens == known


@pytest.mark.parametrize("name", [name for name in DIFFERENT if not name.startswith("chatglm-6b")])
def test_reused_keys_and_values_give_the_same_bits(name: str) -> None:
    """In INT4 the logits behind a prompt are the same bits, wherever the reused part of it ends.

    Also where that part was written token by token, as an answer is: no row's arithmetic depends on its neighbours.
    """
    model, ids = model_of(name, "auto"), max(prompts_of(name), key=len)
    whole = model.new_cache(len(ids))
    expected = read_prompt(model, ids, whole)
    spoken = model.new_cache(len(ids))
    read_prompt(model, ids[:3], spoken)
    for token in ids[3:]:
        model.decode([Feed((token,), spoken)])
    for source in (whole, spoken):
        for length in (1, 2, 5, len(ids) - 4, len(ids) - 1):
            cache = model.new_cache(len(ids))
            cache.copy_prefix_from(source, length)
            assert torch.equal(read_prompt(model, ids[length:], cache), expected), length


@pytest.mark.parametrize("name", DIFFERENT)
def test_rows_do_not_feel_their_neighbours(name: str) -> None:
    """In INT4 a row's logits are the same bits alone, in a batch of 16, and as one of 9 draft tokens."""
    model, ids = model_of(name, "auto"), prompts_of(name)[0]
    fed = [5, 77, 123, 9, 5, 77, 123, 9, 31]

    def cache_of() -> KVCache:
        cache = model.new_cache(len(ids) + len(fed))
        read_prompt(model, ids, cache)
        return cache

    alone = cache_of()
    single = torch.cat([model.decode([Feed((token,), alone)]) for token in fed])
    assert torch.equal(model.decode([Feed(tuple(fed), cache_of())]), single)
    batch = model.decode([Feed((fed[0],), cache_of()) for _ in range(16)])
    assert torch.equal(batch, single[:1].expand(16, -1))
