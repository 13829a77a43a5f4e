"""Figures for people."""

from __future__ import annotations

import pytest

from chatglm_backend import units


def test_three_digits_and_never_a_nought_that_is_none() -> None:
    """What is small keeps its digits instead of becoming 0.0; nothing is 0."""
    found = [units.digits(value) for value in (0, 0.00421, 0.5, 9.999, 12.34, 99.96, 123.4, 6200.0)]
    assert found == ["0", "0.00421", "0.500", "10.0", "12.3", "100", "123", "6200"]


@pytest.mark.parametrize(
    ("nbytes", "said"),
    [
        (0, "0 B"),
        (12, "12 B"),
        (1500, "1.50 kB"),
        (40_000, "40.0 kB"),
        (999_900, "1.00 MB"),
        (33_000_000, "33.0 MB"),
        (500_000_000, "500 MB"),
        (3_300_000_000, "3.30 GB"),
    ],
)
def test_sizes(nbytes: int, said: str) -> None:
    """GB are 10⁹ bytes; the unit suits the size."""
    assert units.size(nbytes) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [(0, "0 s"), (0.00004, "0.0400 ms"), (0.0123, "12.3 ms"), (0.9999, "1.00 s"), (7.25, "7.25 s"), (125.3, "125 s")],
)
def test_times(value: float, said: str) -> None:
    """Below a second in milliseconds."""
    assert units.seconds(value) == said


def test_rates() -> None:
    """A slow model is not said to make nothing."""
    assert [units.rate(value) for value in (0.04, 7.25, 88.0)] == ["0.0400 tok/s", "7.25 tok/s", "88.0 tok/s"]
