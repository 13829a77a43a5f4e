"""Choosing tokens, checked against transformers' logits processors."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from chatglm_backend.core import GenerationParams
from chatglm_backend.engine.sampler import Sampler, keep_candidates
from chatglm_backend.errors import EngineFailure


def logits_of(seed: int, vocab: int = 3000, spread: float = 3.0) -> torch.Tensor:
    """Return random logits."""
    return torch.randn(vocab, generator=torch.Generator().manual_seed(seed)) * spread


@pytest.mark.parametrize("spread", [0.01, 3.0])
@pytest.mark.parametrize("min_p", [0.0, 0.05, 0.97, 1.0])
@pytest.mark.parametrize(
    ("top_k", "top_p"), [(0, 1.0), (0, 0.7), (0, 0.999), (50, 1.0), (50, 0.8), (1, 0.5), (0, 0.0), (9999, 0.9)]
)
def test_the_kept_tokens_are_those_of_transformers(top_k: int, top_p: float, min_p: float, spread: float) -> None:
    """The same tokens survive, with the same probabilities, for sharp and flat logits."""
    process = pytest.importorskip("transformers.generation.logits_process")
    logits = logits_of(1, spread=spread)
    theirs = process.TemperatureLogitsWarper(0.8)(None, logits[None].clone())
    if top_k:
        theirs = process.TopKLogitsWarper(top_k)(None, theirs)
    if top_p < 1.0:
        theirs = process.TopPLogitsWarper(top_p)(None, theirs)
    if min_p:
        theirs = process.MinPLogitsWarper(min_p)(None, theirs)
    expected = theirs[0].softmax(-1)
    ids, kept = keep_candidates(((logits - logits.max()) / 0.8).exp(), top_k=top_k, top_p=top_p, min_p=min_p)
    ours = torch.zeros_like(logits)
    ours[torch.arange(len(logits)) if ids is None else ids] = kept / kept.sum()
    # A token on the very edge of the nucleus may fall either way by rounding.
    assert int(((ours > 0) != (expected > 0)).sum()) <= (1 if spread < 1 else 0)
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-3)


def test_repetition_penalty_is_that_of_transformers() -> None:
    """Prompt and generated tokens count, negative logits are multiplied."""
    process = pytest.importorskip("transformers.generation.logits_process")
    sampler = Sampler(GenerationParams(repetition_penalty=1.7), [3, 5, 5, 9])
    history = [3, 5, 5, 9]
    penalty = process.RepetitionPenaltyLogitsProcessor(1.7)
    for seed in range(20):
        logits = logits_of(seed, vocab=40)
        expected = int(penalty(torch.tensor([history]), logits[None].clone())[0].argmax())
        assert expected == sampler.choose(logits)
        history.append(expected)


def test_bias_and_penalties_are_openais() -> None:
    """Logits with the bias, minus a penalty for having come and one for each time; the prompt does not count."""
    bias = ((2, -100.0), (7, 1.5))
    params = GenerationParams(presence_penalty=0.7, frequency_penalty=0.4, repetition_penalty=1.3, logit_bias=bias)
    sampler, counts, seen = Sampler(params, [3, 5]), torch.zeros(12), {3, 5}
    for seed in range(40):
        logits = logits_of(seed, vocab=12, spread=1.0)
        expected = logits.clone()
        expected[[2, 7]] += torch.tensor([-100.0, 1.5])
        for token in seen:
            expected[token] *= 1.3 if expected[token] < 0 else 1 / 1.3
        expected -= 0.7 * (counts > 0) + 0.4 * counts
        token = sampler.choose(logits)
        assert token == int(expected.argmax())
        counts[token] += 1
        seen.add(token)
    assert counts[2] == 0
    assert len(seen) > 8


def test_draws_follow_the_probabilities() -> None:
    """Over many draws each token comes as often as it should, and impossible ones never."""
    sampler = Sampler(GenerationParams(temperature=1.0, seed=7), [])
    logits = torch.tensor([0.5, 0.2, 0.3, 0.0]).log()
    counts = Counter(sampler.choose(logits) for _ in range(4000))
    assert counts[3] == 0
    assert pytest.approx([counts[i] / 4000 for i in range(3)], abs=0.03) == [0.5, 0.2, 0.3]


def test_min_p_leaves_out_what_is_too_unlikely() -> None:
    """After temperature, by its share of the likeliest: at 0.45 three of these stay, and 1 leaves the likeliest."""
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    for min_p, left in ((0.45, {0, 1, 2}), (1.0, {0})):
        sampler = Sampler(GenerationParams(temperature=1.0, min_p=min_p, seed=7), [])
        assert {sampler.choose(logits) for _ in range(300)} == left
    flat = Sampler(GenerationParams(temperature=4.0, min_p=0.45, seed=7), [])
    assert {flat.choose(logits) for _ in range(300)} == {0, 1, 2, 3}


def test_a_negative_seed_is_a_seed_and_none_is_chance() -> None:
    """Clients of the endpoint may send any 64-bit number; no seed means chance, not a fixed one."""
    seeds = (-5, -5, -6, *[None] * 8)
    samplers = [Sampler(GenerationParams(temperature=5.0, seed=seed), []) for seed in seeds]
    one, two, other, *unseeded = [[sampler.choose(logits_of(i)) for i in range(5)] for sampler in samplers]
    assert one == two != other
    assert any(draws != unseeded[0] for draws in unseeded)


def test_the_same_seed_draws_the_same() -> None:
    """Each request's generator is its own: another request in between changes nothing."""
    params = GenerationParams(temperature=0.9, top_p=0.9, seed=11)
    alone, shared, other = (Sampler(params, []) for _ in range(3))
    first = [alone.choose(logits_of(i)) for i in range(20)]
    second = []
    for i in range(20):
        other.choose(logits_of(100 + i))
        second.append(shared.choose(logits_of(i)))
    assert first == second


@pytest.mark.parametrize("params", [GenerationParams(), GenerationParams(temperature=0.7, top_p=0.9, seed=1)])
def test_nan_is_impossible_and_infinity_certain(params: GenerationParams) -> None:
    """Broken numbers do not crash: NaN is never chosen, infinity is the largest number."""
    nan, inf = float("nan"), float("inf")
    assert Sampler(params, []).choose(torch.tensor([nan, -inf, 1.0, nan])) == 2
    assert Sampler(params, []).choose(torch.tensor([nan, inf, 1.0, -inf])) == 1


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_nothing_possible_is_a_clear_failure(value: float, temperature: float) -> None:
    """A row without a single usable number ends the request."""
    with pytest.raises(EngineFailure):
        Sampler(GenerationParams(temperature=temperature), []).choose(torch.full((5,), value))


def test_a_tiny_temperature_is_greedy() -> None:
    """No overflow on the way to zero; the logits are left as they were: the model may own the memory."""
    logits = logits_of(4)
    before = logits.clone()
    assert int(logits.argmax()) == Sampler(GenerationParams(temperature=1e-40, seed=3), []).choose(logits)
    usual = GenerationParams(temperature=0.7, top_k=5, top_p=0.5, repetition_penalty=1.3, seed=0)
    Sampler(usual, [1, 2]).choose(logits)
    assert torch.equal(before, logits)
    ids, _ = keep_candidates(torch.tensor([0.2, 0.3, 0.3, 0.1]), top_k=1, top_p=1.0)  # ties are all kept
    assert ids is not None
    assert {1, 2} == set(ids.tolist())
