"""Figures for people."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatglm_backend import units
from chatglm_backend.sentences import LANGUAGES, load_texts

SIZES = {
    0: "0 B", 12: "12 B", 1500: "1.50 kB", 40_000: "40.0 kB", 999_900: "1.00 MB", 33_000_000: "33.0 MB",
    500_000_000: "500 MB", 3_300_000_000: "3.30 GB", 2e12: "2.00 TB",
}  # fmt: skip
TIMES = {
    0: "<1 ms", 0.00004: "<1 ms", 0.0123: "12.3 ms", 0.9999: "1.00 s", 7.25: "7.25 s", 119.4: "119 s", 119.7: "2 min",
    125.3: "2 min 5 s", 7199.7: "2 h", 7500: "2 h 5 min",
}  # fmt: skip
FORECASTS = {0.2: "1 s", 7.25: "7 s", 200: "3 min 20 s", 7200: "2 h", 90_000: "25 h"}
DIGITS = {
    0: "0", 0.00004: "<0.001", 0.00421: "0.00421", 0.5: "0.500", 9.999: "10.0", 12.34: "12.3", 99.96: "100",
    123.4: "123", 6200.0: "6200",
}  # fmt: skip
CLOCKS = {7.9: "0:07", 750: "12:30", 3723: "1:02:03"}
RATES = {0.04: "0.0400 tok/s", 7.25: "7.25 tok/s", 88.0: "88.0 tok/s"}
WORTH = {"ms": 0.001, "s": 1, "min": 60, "h": 3600, "B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "tok/s": 1}


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (units.digits, DIGITS),
        (units.size, SIZES),
        (units.seconds, TIMES),
        (units.whole_seconds, FORECASTS),
        (units.rate, RATES),
        (units.clock_time, CLOCKS),
    ],
)
def test_three_digits_and_never_a_nought_that_is_none(write: Callable[[float], str], said: dict[float, str]) -> None:
    """What is small keeps its digits instead of becoming 0.0, and nothing is 0; GB are 10⁹ bytes; the unit suits."""
    assert {value: write(value) for value in said} == said


@pytest.mark.parametrize(
    ("write", "least", "most"),
    [(units.seconds, 0.001, 1e7), (units.whole_seconds, 100, 1e7), (units.size, 100, 9e14), (units.rate, 0.001, 1e5)],
)
@given(data=st.data())
def test_what_is_said_is_what_was_measured(
    data: st.DataObject, write: Callable[[float], str], least: float, most: float
) -> None:
    """Every figure reads back to within half a hundredth, and never begins with noughts that mean nothing."""
    value = data.draw(st.floats(least, most))
    said = write(value)
    parts = re.findall(r"([\d.]+) ([a-zA-Z/]+)", said)
    assert " ".join(map(" ".join, parts)) == said
    assert sum(float(number) * WORTH[unit] for number, unit in parts) == pytest.approx(value, rel=0.0051)
    assert not any(float(number) == 0 for number, _ in parts)


def test_of_several_the_middle_is_said_and_how_far_they_go() -> None:
    """Where all of them read alike, one is enough."""
    assert units.spread(units.seconds, [0.5, 0.02, 1.0]) == "500 ms (20.0 ms – 1.00 s)"
    assert units.spread(units.digits, [3.0001, 3.0, 3.0]) == "3.00"


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_sentence_chooses_digits_of_its_own(language: str) -> None:
    """A figure comes into a sentence in words: no template rounds, which would make 0.0 of what is small."""
    texts = load_texts(language)
    assert [code for code in texts.codes if re.search(r"\{\w+:[^}]*f\}", texts(code))] == []
