"""Figures for people."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from chatglm_backend import units

SIZES = {
    0: "0 B", 12: "12 B", 1500: "1.50 kB", 40_000: "40.0 kB", 999_900: "1.00 MB", 33_000_000: "33.0 MB",
    500_000_000: "500 MB", 3_300_000_000: "3.30 GB",
}  # fmt: skip
TIMES = {0: "0 s", 0.00004: "0.0400 ms", 0.0123: "12.3 ms", 0.9999: "1.00 s", 7.25: "7.25 s", 125.3: "125 s"}
DIGITS = {
    0: "0", 0.00421: "0.00421", 0.5: "0.500", 9.999: "10.0", 12.34: "12.3", 99.96: "100", 123.4: "123", 6200.0: "6200",
}  # fmt: skip
CLOCKS = {7.9: "0:07", 750: "12:30", 3723: "1:02:03"}
RATES = {0.04: "0.0400 tok/s", 7.25: "7.25 tok/s", 88.0: "88.0 tok/s"}


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (units.digits, DIGITS),
        (units.size, SIZES),
        (units.seconds, TIMES),
        (units.rate, RATES),
        (units.clock_time, CLOCKS),
    ],
)
def test_three_digits_and_never_a_nought_that_is_none(write: Callable[[float], str], said: dict[float, str]) -> None:
    """What is small keeps its digits instead of becoming 0.0, and nothing is 0; GB are 10⁹ bytes; the unit suits."""
    assert {value: write(value) for value in said} == said
