"""What must not change the result: batches, several ids at once, pauses, truncation, prefix reuse."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from chatglm_backend.errors import InvalidRequest
from chatglm_backend.models.base import ChatModel, Feed, build_model
from chatglm_backend.models.config import Family
from chatglm_backend.models.kv_cache import GROWTH_BLOCK, KVCache
from chatglm_backend.models.weights import DenseWeights
from chatglm_backend.service.needs import kv_bytes
from chatglm_backend.settings import Settings
from tests.small_models import GMASK, SOP, random_tensors, read_prompt, small_config

FAMILIES: tuple[Family, ...] = ("chatglm", "chatglm2")
FIRST_PROMPT = (5, 6, 7, 8, 9, 10, 11, GMASK, SOP)
OTHER_PROMPT = (30, 31, 32, GMASK, SOP)


def model_of(family: Family, *, kv_dtype: torch.dtype = torch.float32) -> ChatModel:
    """Build a small random model."""
    config = small_config(family)
    return build_model(config, DenseWeights(random_tensors(config)), kv_dtype=kv_dtype)


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest) -> ChatModel:
    """A small random model of each kind."""
    return model_of(request.param)


def started(model: ChatModel, ids: tuple[int, ...]) -> KVCache:
    """Return a cache that holds the prompt."""
    cache = model.new_cache(64)
    read_prompt(model, ids, cache)
    return cache


def test_a_batch_gives_each_sequence_what_it_gets_alone(model: ChatModel) -> None:
    """Rows of several sequences, of different lengths, do not see one another."""
    alone = [
        model.decode([Feed((3, 4), started(model, FIRST_PROMPT))]),
        model.decode([Feed((8,), started(model, OTHER_PROMPT))]),
    ]
    feeds = [Feed((3, 4), started(model, FIRST_PROMPT)), Feed((8,), started(model, OTHER_PROMPT))]
    torch.testing.assert_close(model.decode(feeds), torch.cat(alone))
    assert [feed.cache.length for feed in feeds] == [len(FIRST_PROMPT) + 2, len(OTHER_PROMPT) + 1]


def test_several_ids_at_once_equal_one_by_one(model: ChatModel) -> None:
    """Draft tokens are causal among themselves."""
    single = started(model, FIRST_PROMPT)
    one_by_one = torch.cat([model.decode([Feed((token,), single)]) for token in (3, 4, 5)])
    torch.testing.assert_close(model.decode([Feed((3, 4, 5), started(model, FIRST_PROMPT))]), one_by_one)


@pytest.mark.parametrize("max_rows", [1, 4, 5])
def test_a_paused_and_sliced_prefill_equals_a_straight_one(model: ChatModel, max_rows: int) -> None:
    """Other sequences may read and decode between any two units."""
    straight = read_prompt(model, FIRST_PROMPT, model.new_cache(64))
    busy = started(model, OTHER_PROMPT)
    cache, other = model.new_cache(64), model.new_cache(64)
    prefill = model.prefill(FIRST_PROMPT, cache, max_rows=max_rows)
    beside = model.prefill(OTHER_PROMPT, other, max_rows=2)
    progress = []
    while not prefill.advance():
        progress.append(prefill.done)
        model.decode([Feed((7,), busy)])
        beside.advance()
    assert progress == sorted(progress)
    assert progress[-1] < prefill.done == prefill.total == cache.length
    torch.testing.assert_close(prefill.logits, straight)


def test_only_the_rows_asked_for_have_logits(model: ChatModel) -> None:
    """One row by default; more rows end with the same one."""
    one = read_prompt(model, FIRST_PROMPT, model.new_cache(64))
    three = read_prompt(model, FIRST_PROMPT, model.new_cache(64), logit_rows=3)
    with pytest.raises(ValueError, match="not read"):
        _ = model.prefill(FIRST_PROMPT, model.new_cache(64)).logits
    assert (one.shape, three.shape) == ((1, 96), (3, 96))
    torch.testing.assert_close(three[-1:], one)


def test_rejected_tokens_leave_no_trace(model: ChatModel) -> None:
    """After truncating, the next token's logits are as if the others had never been fed."""
    expected = model.decode([Feed((3,), started(model, FIRST_PROMPT))])
    cache = started(model, FIRST_PROMPT)
    model.decode([Feed((50, 51, 52), cache)])
    cache.truncate(len(FIRST_PROMPT))
    torch.testing.assert_close(model.decode([Feed((3,), cache)]), expected)


@pytest.mark.parametrize("units", [0, 1, 3])
def test_an_abandoned_prefill_leaves_the_cache_usable(model: ChatModel, units: int) -> None:
    """Cancelling at any unit changes nothing for the next prompt in the same cache."""
    cache = model.new_cache(64)
    dropped = model.prefill(FIRST_PROMPT, cache, max_rows=4)
    for _ in range(units):
        dropped.advance()
    assert cache.length == 0
    torch.testing.assert_close(
        read_prompt(model, OTHER_PROMPT, cache), read_prompt(model, OTHER_PROMPT, model.new_cache(64))
    )


def test_a_reused_prefix_equals_a_fresh_prompt() -> None:
    """ChatGLM2 and 3 may copy what two prompts have in common and read only the rest."""
    model = model_of("chatglm2")
    prompt = (1, 2, 3, 4, 5, 60, 61, 62)
    fresh = read_prompt(model, prompt, model.new_cache(64))
    cache = model.new_cache(64)
    cache.copy_prefix_from(started(model, (1, 2, 3, 4, 5, 70, 71)), 5)
    torch.testing.assert_close(read_prompt(model, prompt[5:], cache), fresh)
    assert cache.length == len(prompt)


@pytest.mark.parametrize("kept", [len(FIRST_PROMPT) - 1, len(FIRST_PROMPT), len(FIRST_PROMPT) + 2])
@pytest.mark.parametrize("max_rows", [1, 4, 64])
def test_a_first_family_prompt_is_reused_from_its_end_on(kept: int, max_rows: int) -> None:
    """ChatGLM-6B: <sop> or what follows it is read behind a copy of the rest, as if all were read anew."""
    model = model_of("chatglm")
    ids = (*FIRST_PROMPT, 20, 21, 22, 23)
    cache = model.new_cache(64)
    cache.copy_prefix_from(started(model, (*FIRST_PROMPT, 20, 21, 40)), kept)
    found = read_prompt(model, ids[kept:], cache, max_rows=max_rows)
    torch.testing.assert_close(found, read_prompt(model, ids, model.new_cache(64)))


def test_a_first_family_prompt_is_never_cut() -> None:
    """ChatGLM-6B's prompt tokens see later ones."""
    model = model_of("chatglm")
    cache = started(model, FIRST_PROMPT)
    with pytest.raises(ValueError, match="depend"):
        cache.truncate(3)
    with pytest.raises(ValueError, match="depend"):
        model.new_cache(64).copy_prefix_from(cache, 3)
    cache.truncate(0)
    torch.testing.assert_close(
        read_prompt(model, OTHER_PROMPT, cache), read_prompt(model, OTHER_PROMPT, model.new_cache(64))
    )


@pytest.mark.parametrize("ids", [(5, 6, GMASK), (5, 6, SOP)])
def test_a_first_family_prompt_needs_its_control_ids(ids: tuple[int, ...]) -> None:
    """Without <sop> or a mask token the positions are undefined."""
    model = model_of("chatglm")
    with pytest.raises(InvalidRequest):
        model.prefill(ids, model.new_cache(64))


def test_unusable_feeds_are_refused() -> None:
    """No ids, the same cache twice, no prompt yet, no room."""
    model = model_of("chatglm2")
    cache = started(model, (1, 2))
    for feeds in ([], [Feed((), cache)], [Feed((1,), cache), Feed((2,), cache)], [Feed((1,), model.new_cache(8))]):
        with pytest.raises(ValueError, match=r"feed|starts with"):
            model.decode(feeds)
    with pytest.raises(ValueError, match="do not fit"):
        model.decode([Feed((1,) * 63, cache)])
    with pytest.raises(ValueError, match="context"):
        model.new_cache(601)


@pytest.mark.parametrize(
    ("family", "dtype", "expected"),
    [
        ("chatglm", torch.float16, 2 * 2 * 4 * 16 * 2),
        ("chatglm2", torch.float16, 2 * 2 * 2 * 16 * 2),
        ("chatglm2", torch.float32, 2 * 2 * 2 * 16 * 4),
        ("chatglm", torch.int8, 2 * 2 * 4 * (16 + 4)),
    ],
)
def test_the_stated_bytes_per_token_are_the_memory_taken(family: Family, dtype: torch.dtype, expected: int) -> None:
    """Keys and values × layers × groups × head size × bytes; nbytes is what the tensors really hold."""
    model = model_of(family, kv_dtype=dtype)
    assert kv_bytes(model.config, Settings(kv_dtype=str(dtype).removeprefix("torch."))) == expected
    cache = model.new_cache(600)
    assert (cache.bytes_per_token, cache.nbytes) == (expected, 0)
    read_prompt(model, FIRST_PROMPT, cache)
    held = sum(tensor.untyped_storage().nbytes() for layer in range(2) for tensor in cache.read(layer, cache.length))
    assert cache.nbytes == held == GROWTH_BLOCK * expected


def test_a_growing_cache_keeps_what_it_holds() -> None:
    """Past a block's end the answer goes on as with all the room at once."""
    model = model_of("chatglm2")
    grown, roomy = model.new_cache(600), model.new_cache(600)
    roomy.reserve(600)
    prompt = tuple(range(90)) * 2 + tuple(range(74))
    read_prompt(model, prompt, grown)
    read_prompt(model, prompt, roomy)
    before = grown.nbytes
    for token in (5, 6, 7, 8):
        found, expected = model.decode([Feed((token,), grown)]), model.decode([Feed((token,), roomy)])
        torch.testing.assert_close(found, expected)
    assert before == GROWTH_BLOCK * grown.bytes_per_token < grown.nbytes <= roomy.nbytes


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float16, 5e-3), (torch.int8, 2e-2)])
def test_fewer_bits_of_keys_and_values_stay_close(dtype: torch.dtype, bound: float) -> None:
    """Halving the cache's memory, twice, costs little accuracy."""
    exact = read_prompt(model_of("chatglm2"), FIRST_PROMPT, model_of("chatglm2").new_cache(64))
    half = model_of("chatglm2", kv_dtype=dtype)
    found = read_prompt(half, FIRST_PROMPT, half.new_cache(64))
    assert float((found - exact).norm() / exact.norm()) < bound


@pytest.mark.parametrize("units", [0, 1, 3, None])
def test_a_cache_is_free_as_soon_as_nobody_reads_into_it(model: ChatModel, units: int | None) -> None:
    """Also when its prefill was dropped on the way: a circle of references would keep it until Python looks for one."""
    cache = model.new_cache(64)
    prefill = model.prefill(FIRST_PROMPT, cache, max_rows=2)
    gc.disable()
    try:
        if units is None:
            while not prefill.advance():
                pass
            model.decode([Feed((3,), cache)])
        else:
            for _ in range(units):
                prefill.advance()
        gone = weakref.ref(cache.read(0, 1)[0]._base)
        del cache, prefill
        assert gone() is None
    finally:
        gc.enable()
