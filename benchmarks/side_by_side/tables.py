"""The tables of a comparison, line by line as they are measured.

The first system is ours; every ratio is ours over the other's, so below 1 is better for times and above 1
for speeds. Knows systems as :class:`Asked` only.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Any, Protocol


class Asked(Protocol):
    """A system that measures itself when asked."""

    @property
    def name(self) -> str:
        """What the table calls it."""

    def ask(self, **order: int) -> dict[str, Any]:
        """One measurement."""


def model_table(systems: Sequence[Asked], prompts: Sequence[int], new_tokens: int, rounds: int) -> Iterator[str]:
    """Whole answers: time to first token and decode speed by prompt length."""
    yield "| prompt tokens | system | TTFT s | ratio | prefill tok/s | decode tok/s | ratio | spread of decode |"
    yield "|---|---|---|---|---|---|---|---|"
    for system in systems:
        system.ask(prompt_tokens=min(prompts), new_tokens=4)
    for length in prompts:
        found: dict[str, list[dict[str, Any]]] = {system.name: [] for system in systems}
        for _ in range(rounds):
            for system in systems:
                found[system.name].append(system.ask(prompt_tokens=length, new_tokens=new_tokens))
        ours = found[systems[0].name]
        for name, answers in found.items():
            ttft, ttft_ratio = _median_and_ratio(ours, answers, "ttft_s")
            decode, decode_ratio = _median_and_ratio(ours, answers, "decode_tok_s")
            spread = [answer["decode_tok_s"] for answer in answers]
            yield (
                f"| {length} | {name} | {ttft:.2f} | {ttft_ratio:.2f} | {length / ttft:.0f} "
                f"| {decode:.2f} | {decode_ratio:.2f} | {min(spread):.2f}-{max(spread):.2f} |"
            )


def product_table(systems: Sequence[Asked], rows: Sequence[int], flop_per_row: int, rounds: int) -> Iterator[str]:
    """One matrix's product by activation rows. An answer's ``seconds`` hold one number a matrix."""
    yield "| rows | system | ms | GFLOP/s | the first is faster by | spread, ms |"
    yield "|---|---|---|---|---|---|"
    for count in rows:
        found: dict[str, list[float]] = {system.name: [] for system in systems}
        for _ in range(rounds):
            for system in systems:
                found[system.name] += system.ask(rows=count)["seconds"]
        ours = statistics.median(found[systems[0].name])
        for name, seconds in found.items():
            median = statistics.median(seconds)
            yield (
                f"| {count} | {name} | {1e3 * median:.2f} | {flop_per_row * count / median / 1e9:.0f} "
                f"| {median / ours:.2f}× | {1e3 * min(seconds):.2f}-{1e3 * max(seconds):.2f} |"
            )


def _median_and_ratio(
    ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]], key: str
) -> tuple[float, float]:
    """The median of theirs, and the median of the rounds' ratios of ours to theirs."""
    ratios = [mine[key] / other[key] for mine, other in zip(ours, theirs, strict=True)]
    return statistics.median(other[key] for other in theirs), statistics.median(ratios)
