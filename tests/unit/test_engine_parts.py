"""Timing, draft tokens and the prefix cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from chatglm_backend.core import Timing
from chatglm_backend.engine.draft import Drafter, PromptLookup, StepCosts
from chatglm_backend.engine.prefix_cache import PrefixCache, common_prefix
from chatglm_backend.engine.timing import RequestTimer, percentile
from chatglm_backend.models.positions import PositionPlan
from tests.engine_fakes import FakeCache, FakeClock


def cache_of(*ids: int) -> Any:
    """Return a cache that holds these ids."""
    cache = FakeCache(len(ids) + 5)
    cache.append(ids)
    return cache


def drafter(ids: list[int]) -> Drafter:
    """Return a drafter that looks drafts up in these ids."""
    return Drafter(PromptLookup(ids), max_tokens=8)


def prefix_cache(max_bytes: int = 10_000) -> PrefixCache:
    """Return an empty prefix cache over fake caches of 10 bytes a token."""
    new_cache: Any = FakeCache
    return PrefixCache(new_cache, max_bytes=max_bytes, min_tokens=2)


def test_timing_follows_its_definitions() -> None:
    """Queue wait, TTFT, prefill and decode rates and ITL come from the injected clock."""
    clock = FakeClock()
    timer = RequestTimer(clock, 0.0)
    clock.now = 2.0
    timer.work_begins()
    clock.now = 6.0
    timer.prompt_read()
    for moment in (6.0, 6.5, 7.0, 8.0):
        clock.now = moment
        timer.token()
    clock.now = 9.0
    timing = replace(timer.finish(evaluated_prompt_tokens=8), itl_p95_ms=None)
    assert timing == Timing(2.0, 6.0, 4.0, prefill_tok_s=2.0, decode_tok_s=1.5, itl_p50_ms=500.0, total_s=9.0)


def test_nothing_measured_is_none() -> None:
    """A request that was cancelled at once has no rates."""
    assert RequestTimer(FakeClock(), 0.0).finish(evaluated_prompt_tokens=5) == Timing()


def test_percentiles_interpolate() -> None:
    """Half-way between two values is their middle."""
    assert [percentile([1.0, 2.0], 0.5), percentile([1.0, 2.0], 1.0), percentile([], 0.5)] == [1.5, 2.0, None]


@pytest.mark.parametrize(
    ("seen", "size", "draft"),
    [
        ([1, 2, 3, 4, 9, 1, 2], 2, (3, 4)),
        ([7, 7, 7, 7], 6, (7,) * 6),  # a run of one token is taken to go on, longer than the run seen
        ([8, 1, 2, 3, 9, 1, 2, 4, 8, 1, 2], 1, (3,)),  # the longest match, though it is older
        ([1, 2, 3, 0, 1, 2, 3, 9, 1, 2, 4, 6, 1, 2], 2, (3, 9)),  # the most frequent, then the later one
        ([1, 2, 3, 0, 1, 2, 4, 9, 1, 2], 1, (4,)),  # of two as frequent the later one
        ([1, 2, 3, 0, 1, 2, 4, 9, 1, 2, 5, 6, 1, 2], 1, ()),  # of three different ones none
        ([1, 2, 3], 8, ()),
        ([], 8, ()),
    ],
)
def test_lookup_proposes_what_followed_before(seen: list[int], size: int, draft: tuple[int, ...]) -> None:
    """After '1 2' came '3 4' last time; nothing seen, nothing proposed; no room, no draft."""
    assert PromptLookup(seen).propose(size) == draft
    assert Drafter(PromptLookup(seen), max_tokens=8).propose(0, lambda _: 1.0) == ()


@pytest.mark.parametrize(("cost", "most"), [(0.0, 140), (0.05, 24), (1.0, 4)])
def test_wrong_drafts_become_rare_where_they_cost(cost: float, most: int) -> None:
    """Over 256 hopeless steps few are made, and fewer where a row costs more."""
    lookup = drafter([5] * 10)
    proposed = 0
    for _ in range(256):
        lookup.append(5)
        draft = lookup.propose(8, lambda extra: 1.0 + cost * extra)
        proposed += len(draft)
        lookup.verdict(len(draft), 0)
    assert proposed <= most


def even_tokens(token: int) -> bool:
    """Whether a token is even: an answer that is copied every other time."""
    return token % 2 == 0


@pytest.mark.parametrize("cost", [0.01, 0.05, 0.3, 1.0])
@pytest.mark.parametrize("right", [lambda _: False, even_tokens, lambda token: token < 40, lambda token: token > 40])
def test_drafts_never_cost_more_than_three_percent(cost: float, right: Callable[[int], bool]) -> None:
    """At no moment of an answer have all steps taken 3 percent longer than a step a token, whatever turns out wrong."""
    lookup = drafter([5] * 10)
    tokens, spent = 0, 0.0
    while tokens < 300:
        lookup.append(5)
        tokens += 1
        draft = lookup.propose(8, lambda extra: 1.0 + cost * extra)
        accepted = len(draft) if draft and right(tokens) else 0
        for _ in range(accepted):
            lookup.append(5)
        tokens += accepted
        lookup.verdict(len(draft), accepted)
        spent += 1.0 + cost * len(draft)
        assert spent <= 1.03 * tokens + 1e-9


def test_right_drafts_become_long() -> None:
    """Where all are right and a row costs little, the limit is reached soon."""
    lookup = drafter([5] * 10)
    sizes = []
    for _ in range(12):
        lookup.append(5)
        draft = lookup.propose(8, lambda extra: 1.0 + 0.05 * extra)
        lookup.verdict(len(draft), len(draft))
        sizes.append(len(draft))
    assert sizes[-1] == 8


def test_costs_are_learnt_by_rows() -> None:
    """Unknown sizes follow the nearest known one; without time there is no cost."""
    costs = StepCosts()
    assert (costs.reach(1), costs.ratio(1, 4)) == (0, 1.0)
    costs.record(1, 1, 2.0)
    costs.record(1, 3, 3.0)
    assert (costs.reach(1), costs.ratio(1, 0), costs.ratio(1, 2), costs.ratio(1, 4)) == (4, 1.0, 1.5, 2.0)
    assert costs.reach(2) == 0


def test_a_disturbed_measurement_is_not_taken_for_the_cost_of_drafts() -> None:
    """A step of two draft tokens cannot cost more than two steps more, nor less than a step without."""
    costs = StepCosts()
    costs.record(1, 1, 1.0)
    costs.record(1, 3, 50.0)
    assert costs.ratio(1, 2) == 3.0
    costs.record(2, 2, 5.0)
    costs.record(2, 3, 1.0)
    assert costs.ratio(2, 1) == 1.0


def test_common_prefix_counts_equal_tokens() -> None:
    """Up to the first difference or the shorter end."""
    assert [
        common_prefix((1, 2, 3), (1, 2, 4)),
        common_prefix((1, 2, 3), (1, 2, 3, 4)),
        common_prefix((1,), (2,)),
    ] == [2, 3, 0]


def test_a_known_prefix_is_copied_but_for_one_token() -> None:
    """The longest match wins, and the last token is always left to evaluate."""
    known = prefix_cache()
    known.keep("ada", (1, 2, 3, 9), cache_of(1, 2, 3, 9))
    known.keep("ada", (1, 2, 3, 4, 5), cache_of(1, 2, 3, 4, 5))
    target: Any = FakeCache(10)
    assert known.fill("ada", (1, 2, 3, 4, 5), target) == 4
    assert target.ids == [1, 2, 3, 4]


def test_the_least_recently_used_goes_first() -> None:
    """The bound in bytes holds, and use protects."""
    known = prefix_cache(max_bytes=70)
    known.keep("ada", (1, 1, 1), cache_of(1, 1, 1))
    known.keep("ada", (2, 2, 2), cache_of(2, 2, 2))
    known.fill("ada", (1, 1, 1, 7), FakeCache(9))  # type: ignore[arg-type]
    known.keep("ada", (3, 3, 3), cache_of(3, 3, 3))
    found = [known.fill("ada", (i, i, i, 7), FakeCache(9)) for i in (1, 2, 3)]  # type: ignore[arg-type]
    assert found == [3, 0, 3]
    assert known.nbytes <= 70


def test_nobody_is_served_from_what_another_visitor_sent() -> None:
    """A quicker answer would tell one visitor what another has written."""
    known = prefix_cache()
    known.keep("ada", (1, 2, 3, 4), cache_of(1, 2, 3, 4))
    found = [known.fill(owner, (1, 2, 3, 4, 5), FakeCache(9)) for owner in ("ben", "ada")]  # type: ignore[arg-type]
    assert found == [0, 4]
    known.keep("ben", (1, 2, 3, 4, 5), cache_of(1, 2, 3, 4, 5))
    assert len(known) == 2


def test_a_longer_turn_replaces_its_beginning() -> None:
    """A conversation takes one entry, not one a turn."""
    known = prefix_cache()
    known.keep("ada", (1, 2, 3), cache_of(1, 2, 3))
    known.keep("ada", (1, 2, 3, 4), cache_of(1, 2, 3, 4))
    known.keep("ada", (1, 2), cache_of(1, 2))
    assert len(known) == 1


def test_tokens_that_see_one_another_are_reused_whole_or_not_at_all() -> None:
    """ChatGLM-6B: the prompt up to its end, here 9, again or with more of an answer; another prompt takes its place."""
    known = prefix_cache()
    first = cache_of(1, 2, 3, 9, 5, 6)
    first.plan = PositionPlan(context=3, mask=2)
    known.keep("ada", (1, 2, 3, 9, 5, 6), first)
    for wanted, reused in (((1, 2, 3, 9), 3), ((1, 2, 3, 9, 5, 7), 5), ((1, 2, 3, 4, 9), 0), ((1, 2, 9), 0)):
        cache: Any = FakeCache(9)
        assert known.fill("ada", wanted, cache) == cache.length == reused
        assert cache.plan == (first.plan if reused else PositionPlan())
    second = cache_of(1, 2, 9)
    second.plan = PositionPlan(context=2, mask=1)
    known.keep("ada", (1, 2, 9), second)
    assert (len(known), known.fill("ada", (1, 2, 9), FakeCache(9))) == (1, 2)  # type: ignore[arg-type]
