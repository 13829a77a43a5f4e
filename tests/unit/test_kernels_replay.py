"""A replayed step of one row or several gives the bits that the forward pass itself gives, whatever came between."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from chatglm_backend.int4.kernel import KernelName
from chatglm_backend.int4.kernels.choose import build_kernel
from chatglm_backend.int4.kernels.ops import CompiledOps
from chatglm_backend.int4.kernels.product import CompiledKernel
from chatglm_backend.int4.kernels.team import Team
from chatglm_backend.int4.kernels.variants import host_cpu, usable_variants
from chatglm_backend.int4.synthetic import SyntheticTensors
from chatglm_backend.int4.weights import Int4Weights
from chatglm_backend.models.adapter import Adapter, Delta
from chatglm_backend.models.base import Feed, build_model
from chatglm_backend.models.config import Family, ModelConfig
from chatglm_backend.models.decoder import Decoder
from chatglm_backend.models.kv_cache import GROWTH_BLOCK, KVCache
from chatglm_backend.models.layout import tensor_specs
from chatglm_backend.models.low_rank import low_rank
from tests.small_models import GMASK, SOP, read_prompt, small_config

FAMILIES: tuple[Family, ...] = ("chatglm", "chatglm2")
FIRST, OTHER = (5, 6, 7, 8, 9, GMASK, SOP), (30, 31, GMASK, SOP)
# products are shared between threads, and heads fit the compiled attention
SHARED = {"num_layers": 3, "hidden_size": 512, "num_heads": 8, "head_dim": 64, "ffn_hidden_size": 1024}


@pytest.fixture(scope="module", params=[*FAMILIES, "chatglm2 in 8 bits"])
def model(request: pytest.FixtureRequest, compiled: Path) -> Decoder:
    """Return a model of random INT4 weights with the compiled operations."""
    family, *eight = request.param.split(maxsplit=1)
    return built(compiled, small_config(family, **SHARED), torch.int8 if eight else torch.float16)


def compiled_kernel(compiled: Path) -> CompiledKernel:
    """Build the widest variant for this CPU."""
    variants = usable_variants(host_cpu())
    if not variants:
        pytest.skip("this CPU has no AVX2")
    kernel = build_kernel(2, compiled, only=variants[0].name)
    assert kernel is not None
    return kernel


def built(
    compiled: Path,
    config: ModelConfig,
    kv_dtype: torch.dtype = torch.float16,
    products: CompiledKernel | KernelName | None = None,
) -> Decoder:
    """Build a model for this CPU."""
    kernel = products if isinstance(products, CompiledKernel) else compiled_kernel(compiled)
    ops = CompiledOps(kernel.team, usable_variants(host_cpu())[0], compiled)
    made = build_model(config, Int4Weights(SyntheticTensors(config), products or kernel), ops=ops, kv_dtype=kv_dtype)
    assert isinstance(made, Decoder)
    return made


def started(model: Decoder, ids: Sequence[int], capacity: int = 600, adapter: Adapter | None = None) -> KVCache:
    """Return a cache that holds the prompt."""
    cache = model.new_cache(capacity, adapter)
    read_prompt(model, ids, cache)
    return cache


def lora(config: ModelConfig, name: str, rank: int) -> Adapter:
    """Return a fine-tune of random factors beside every product, and of a bias beside the queries'."""
    generator = torch.Generator().manual_seed(rank)
    deltas = {}
    for spec in tensor_specs(config):
        if spec.kind == "linear":
            out, in_ = spec.shape
            a, b = (torch.randn(shape, generator=generator) * 0.1 for shape in ((rank, in_), (out, rank)))
            bias = torch.randn(out, generator=generator) * 0.1 if "query_key_value" in spec.name else None
            deltas[spec.name.removesuffix(".weight")] = Delta(low_rank(a, b, 1.0), bias)
    return Adapter(name, name, deltas)


def step(model: Decoder, token: int, cache: KVCache, *, replays: bool) -> Tensor:
    """Decode one token, replayed from a recording or not."""
    model.replays = replays
    return model.decode([Feed((token,), cache)])


def test_replayed_tokens_have_the_same_bits(model: Decoder) -> None:
    """Two sequences in turn, past the point where their memory grows and moves."""
    pairs = [(started(model, ids), started(model, ids)) for ids in (FIRST, OTHER)]
    for number in range(GROWTH_BLOCK + 10):
        for plain, replayed in pairs if number < 5 or number > GROWTH_BLOCK - 10 else pairs[:1]:
            token = (7 * number + 3) % 90
            expected = step(model, token, plain, replays=False)
            assert torch.equal(step(model, token, replayed, replays=True), expected), number
    for layer in range(model.config.num_layers):
        for plain, replayed in pairs:
            for mine, theirs in zip(plain.read(layer, plain.length), replayed.read(layer, plain.length), strict=True):
                assert torch.equal(mine, theirs)


def steps(model: Decoder, caches: Sequence[KVCache], counts: Sequence[int], first: int, *, replays: bool) -> Tensor:
    """Feed so many ids to each cache and keep the first of them, as where the others were wrong drafts."""
    model.replays = replays
    lengths = [cache.length for cache in caches]
    feeds = [Feed(tuple(range(first, first + count)), cache) for cache, count in zip(caches, counts, strict=True)]
    logits = model.decode(feeds)
    for cache, length in zip(caches, lengths, strict=True):
        cache.truncate(length + 1)
    return logits


@pytest.mark.parametrize("counts", [(n,) for n in range(2, 10)] + [(1, 1), (1,) * 8, (1, 3, 1), (2, 5)])
def test_replayed_steps_of_several_rows_have_the_same_bits(model: Decoder, counts: tuple[int, ...]) -> None:
    """Drafts of one sequence, batches, and both; the same recording is then turned to sequences in another order."""
    prompts = [(*range(10, 13 + place), *FIRST) for place in range(len(counts))]
    plain, replayed = ([started(model, ids) for ids in prompts] for _ in range(2))
    for number in range(4):
        expected = steps(model, plain, counts, 20 + number, replays=False)
        assert torch.equal(steps(model, replayed, counts, 20 + number, replays=True), expected), number
        if set(counts) == {1}:
            plain, replayed = plain[::-1], replayed[::-1]
    for layer in range(model.config.num_layers):
        for mine, theirs in zip(plain, replayed, strict=True):
            pairs = zip(mine.read(layer, mine.length), theirs.read(layer, theirs.length), strict=True)
            assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize(
    ("whose", "counts"),
    [
        ("A", (3,)),
        ("AA", (1, 1)),
        ("AAAA", (1, 1, 2, 1)),
        (" AA", (1, 1, 1)),
        ("AAB", (1, 2, 1)),
        ("  AB", (1, 3, 1, 1)),
    ],
    ids=repr,
)
def test_replayed_steps_of_fine_tunes_have_the_same_bits(
    model: Decoder, calls: list[str], whose: str, counts: tuple[int, ...]
) -> None:
    """One fine-tune's visitors, and a mixture with others and the base: as computed step by step, and as if alone."""
    tunes = {name: lora(model.config, name, rank) for name, rank in (("A", 8), ("B", 3))}
    prompts = [(*range(10, 13 + place), *FIRST) for place in range(len(counts))]
    plain, replayed, alone = (
        [started(model, ids, adapter=tunes.get(name)) for ids, name in zip(prompts, whose, strict=True)]
        for _ in range(3)
    )
    base = [started(model, ids) for ids in prompts]
    for number in range(3):
        expected = steps(model, plain, counts, 20 + number, replays=False)
        calls.clear()
        assert torch.equal(steps(model, replayed, counts, 20 + number, replays=True), expected), number
        assert calls == ["play"] or number == 0
        each = [steps(model, [one], [n], 20 + number, replays=True) for one, n in zip(alone, counts, strict=True)]
        assert torch.equal(torch.cat(each), expected)
        assert not torch.equal(steps(model, base, counts, 20 + number, replays=True), expected)


@pytest.mark.parametrize(("whose", "replayed"), [("AA", True), ("A ", False)])
def test_an_output_layer_of_some_rows_is_not_replayed(
    compiled: Path, calls: list[str], whose: str, replayed: bool
) -> None:
    """Torch puts its logits among the others', which no recording knows; where all rows have it, none are moved."""
    kernel, config = compiled_kernel(compiled), small_config("chatglm2", **SHARED)
    model = built(compiled, config, products=kernel)
    own = Int4Weights(SyntheticTensors(config, seed=5), kernel).linear("transformer.output_layer")
    tunes = {"A": Adapter("A", "A", output=own)}
    caches, others = ([started(model, FIRST, adapter=tunes.get(name)) for name in whose] for _ in range(2))
    for token in (20, 21, 22):
        expected = steps(model, caches, (1, 1), token, replays=False)
        calls.clear()
        assert torch.equal(steps(model, others, (1, 1), token, replays=True), expected)
    assert (calls == ["play"]) is replayed


def test_recordings_share_the_memory_that_results_lie_in(compiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the step of the most rows any other kind of step is recorded without more of it."""
    model = built(compiled, small_config("chatglm2", **SHARED))
    tune, made, empty = lora(model.config, "A", 8), [0], torch.empty
    caches = [
        started(model, (*range(10, 14 + place), *FIRST), adapter=tune if place > 3 else None) for place in range(8)
    ]

    def counting(*sizes: int, **options: Any) -> Tensor:
        made[0] += 1
        return empty(*sizes, **options)

    monkeypatch.setattr(torch, "empty", counting)
    steps(model, caches, [2] * 8, 3, replays=True)
    assert made[0] > 0
    made[0] = 0
    for first in range(4):
        for last in range(4, 9):
            steps(model, caches[first:last], [1] * (last - first), 3, replays=True)
    assert made[0] == 0


def test_recordings_go_with_their_fine_tune(compiled: Path) -> None:
    """Its factors are freed once nobody holds it; a recording of others is played on."""
    model = built(compiled, small_config("chatglm2", **SHARED))
    tunes = [lora(model.config, name, rank) for name, rank in (("A", 8), ("B", 3))]
    caches = [started(model, FIRST, adapter=tune) for tune in (None, *tunes)]
    for first in range(3):
        for last in range(first + 1, 4):
            steps(model, caches[first:last], [1] * (last - first), 3, replays=True)
    removed = [weakref.ref(delta.low_rank.down) for delta in tunes.pop(0).deltas.values() if delta.low_rank]
    del caches[1]
    assert removed
    assert not any(factors() is not None for factors in removed)
    for cache in caches:
        steps(model, [cache], [1], 3, replays=True)
        assert model.settled


def test_what_another_thread_does_is_not_in_a_recording() -> None:
    """It takes no memory of the recording's pool, and spoils nothing."""
    team, pool = Team(1), {64: [torch.empty(64)]}
    with team.recording(pool) as recording, ThreadPoolExecutor(1) as other:
        taken = other.submit(team.empty, 1, 64).result()
        other.submit(team.keep, taken).result()
        other.submit(team.spoil).result()
        assert recording.whole
        assert recording.kept == []
        assert team.empty(1, 64).data_ptr() == pool[64][0].data_ptr() != taken.data_ptr()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the calls of the threads, as they come."""
    calls: list[str] = []
    for name in ("_do", "play"):
        original = getattr(Team, name)
        monkeypatch.setattr(
            Team, name, lambda self, *args, name=name, original=original: (calls.append(name), original(self, *args))[1]
        )
    return calls


@pytest.mark.parametrize("counts", [(1,), (4,), (1, 1, 1), (2, 1)])
def test_a_replayed_step_is_one_call(model: Decoder, calls: list[str], counts: tuple[int, ...]) -> None:
    """After the first one, the threads are called once a step of the model: no part of it is done on its own."""
    caches = [started(model, FIRST) for _ in counts]
    steps(model, caches, counts, 3, replays=True)
    calls.clear()
    steps(model, caches, counts, 30, replays=True)
    assert calls == ["play"]


def test_prompts_and_batches_in_between_disturb_nothing(model: Decoder) -> None:
    """Larger work reuses and replaces the buffers of ordinary calls, never those of the recording."""
    plain, replayed = started(model, FIRST), started(model, FIRST)
    for number in range(6):
        started(model, (*[10 + place % 60 for place in range(40 * number)], *FIRST))
        model.decode([Feed((8, 9), started(model, OTHER)), Feed((3,), started(model, FIRST))])
        expected = step(model, 20 + number, plain, replays=False)
        assert torch.equal(step(model, 20 + number, replayed, replays=True), expected)


def test_truncated_sequences_go_on_from_where_they_were_cut(model: Decoder) -> None:
    """As after a wrong draft token."""
    cache = started(model, FIRST)
    first = step(model, 11, cache, replays=True)
    step(model, 12, cache, replays=True)
    cache.truncate(len(FIRST))
    assert torch.equal(step(model, 11, cache, replays=True), first)


def test_no_bit_depends_on_others_or_on_what_was_reused(model: Decoder) -> None:
    """Several ids of several sequences in one step; and a sequence that goes on from a copy of its beginning."""
    alone = [model.decode([Feed((token,), cache)]) for cache in (started(model, FIRST),) for token in (8, 9)]
    alone += [model.decode([Feed((3,), started(model, OTHER))])]
    feeds = [Feed((8, 9), started(model, FIRST)), Feed((3,), started(model, OTHER))]
    assert torch.equal(model.decode(feeds), torch.cat(alone))
    whole, reused = model.new_cache(600), model.new_cache(600)
    longer = (*FIRST, *range(20, 60))
    expected = read_prompt(model, longer, whole, max_rows=5)
    reused.copy_prefix_from(whole, len(longer) - 3)
    assert torch.equal(read_prompt(model, longer[-3:], reused), expected)
    assert torch.equal(step(model, 4, reused, replays=False), step(model, 4, whole, replays=False))


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({}, {"kv_dtype": torch.float32}),
        ({}, {"products": "exact"}),
        ({"head_dim": 24}, {}),
    ],
    ids=["torch handles 32-bit caches", "a recording lacks other kernels' products", "the compiled attention is wider"],
)
def test_what_cannot_be_replayed_is_computed_step_by_step(
    monkeypatch: pytest.MonkeyPatch, compiled: Path, changes: dict[str, int], options: dict[str, Any]
) -> None:
    """Nothing is recorded, and the result is the forward pass's."""
    model = built(compiled, small_config("chatglm2", **SHARED | changes), **options)
    monkeypatch.setattr(Team, "play", lambda *_: pytest.fail("replayed"))
    plain, other = started(model, FIRST), started(model, FIRST)
    for token in (3, 4, 5):
        expected = step(model, token, plain, replays=False)
        assert torch.equal(step(model, token, other, replays=True), expected)


def test_memory_that_moved_half_way_is_not_taken_for_the_old(model: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Growing fails in the middle; a token of the same sequence then reads and writes where its layers lie now."""
    plain, replayed = started(model, FIRST), started(model, FIRST)
    step(model, 3, plain, replays=False)
    step(model, 3, replayed, replays=True)
    before, empty, left = replayed.identity, torch.empty, [3]

    def failing(*args: object, **kwargs: object) -> Tensor:
        left[0] -= 1
        if left[0] == 0:
            raise MemoryError
        return empty(*args, **kwargs)  # type: ignore[call-overload, no-any-return]

    with monkeypatch.context() as patched:
        patched.setattr(torch, "empty", failing)
        with pytest.raises(MemoryError):
            replayed.reserve(GROWTH_BLOCK + 1)
    assert replayed.identity is not before
    assert torch.equal(step(model, 4, replayed, replays=True), step(model, 4, plain, replays=False))


def test_a_model_is_free_as_soon_as_nobody_holds_it(compiled: Path) -> None:
    """Nothing in it refers to the whole of it, so its weights do not wait for Python to look for circles."""
    model = built(compiled, small_config("chatglm2", **SHARED))
    cache = started(model, FIRST)
    for token in (3, 4):
        step(model, token, cache, replays=True)
    held = weakref.ref(model)
    gc.disable()
    try:
        del model
        assert held() is None
    finally:
        gc.enable()


def test_a_recording_writes_only_into_memory_of_its_own(model: Decoder, compiled: Path) -> None:
    """Buffers that grew while it was made are still its own: whatever was freed and given to others stays as it is."""
    fresh = built(compiled, model.config)
    cache = started(fresh, FIRST)
    step(fresh, 3, cache, replays=True)
    others = [np.full(size, 77, np.uint8) for size in (32, 64, 512, 1024, 2048, 4096, 8192) * 40]
    for token in range(4):
        step(fresh, token, cache, replays=True)
    assert all(bool((other == 77).all()) for other in others)
