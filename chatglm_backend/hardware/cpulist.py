"""CPU lists as the kernel, taskset and numactl write them: ``0-3,8``."""

from __future__ import annotations

from collections.abc import Iterable

_LIMIT = 1 << 16


def parse_cpulist(text: str) -> tuple[int, ...]:
    """Return the numbers of a list such as ``0-3,8``, sorted; parts that are no numbers are skipped."""
    numbers: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.strip().partition("-")
        if not first.isdecimal() or (last and not last.isdecimal()):
            continue
        low, high = int(first), int(last or first)
        if low <= high < _LIMIT:
            numbers.update(range(low, high + 1))
    return tuple(sorted(numbers))


def format_cpulist(numbers: Iterable[int]) -> str:
    """Return the shortest list that names exactly these CPUs, for example ``0-3,8``."""
    parts: list[str] = []
    ordered = sorted(set(numbers))
    start = 0
    for index, number in enumerate(ordered):
        if index + 1 < len(ordered) and ordered[index + 1] == number + 1:
            continue
        parts.append(str(number) if ordered[start] == number else f"{ordered[start]}-{number}")
        start = index + 1
    return ",".join(parts)
