"""Stop strings in streamed text."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatglm_backend.engine.stop import StopFilter

_TEXT = st.text(alphabet="abc", max_size=40)
_STOPS = st.lists(st.text(alphabet="abc", min_size=1, max_size=5), max_size=4)


def stream(pieces: list[str], stops: list[str]) -> tuple[str, bool]:
    """Feed piece by piece and flush."""
    stop = StopFilter(stops)
    out = "".join(stop.feed(piece) for piece in pieces)
    stopped = stop.stopped
    return out + stop.flush(), stopped


def expected(text: str, stops: list[str]) -> tuple[str, bool]:
    """The slow definition: the first end of any stop string, the longest of those that end there."""
    for end in range(1, len(text) + 1):
        lengths = [len(s) for s in stops if text[:end].endswith(s)]
        if lengths:
            return text[: end - max(lengths)], True
    return text, False


@given(text=_TEXT, stops=_STOPS, cuts=st.lists(st.integers(0, 40), max_size=8))
def test_any_cut_gives_the_same_as_the_whole_text(text: str, stops: list[str], cuts: list[int]) -> None:
    """However tokens cut the text, it ends at the same character, and never holds a stop string."""
    places = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    pieces = [text[a:b] for a, b in itertools.pairwise(places)]
    out, stopped = stream(pieces, stops)
    assert expected(text, stops) == (out, stopped)
    assert not any(stop in out for stop in stops)


def test_a_possible_beginning_is_held_back() -> None:
    """Nothing of a stop string is shown before it is known not to be one."""
    stop = StopFilter(["END"])
    assert [stop.feed("xE"), stop.feed("N"), stop.feed("y")] == ["x", "", "ENy"]


@pytest.mark.parametrize(("pieces", "out"), [(["aaab"], "a"), (["a", "a", "a", "b"], "a")])
def test_overlapping_beginnings_are_found(pieces: list[str], out: str) -> None:
    """A stop string that begins inside a failed beginning of itself is found."""
    assert (out, True) == stream(pieces, ["aab"])


def test_nothing_comes_after_a_stop() -> None:
    """Text behind the stop string is dropped, also in later pieces."""
    assert stream(["hi|there", "more"], ["|"]) == ("hi", True)
