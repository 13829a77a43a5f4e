"""The shared types refuse nonsense and say which field is wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from chatglm_backend.core import CancelToken, FinishReason, GenerationParams, GenerationRequest, Message
from chatglm_backend.errors import InvalidRequest


@pytest.mark.parametrize("stop", [("",), ["a"]])
def test_stop_texts_are_checked(stop: object) -> None:
    """Numbers are checked with their specification; stop texts are not empty."""
    with pytest.raises(InvalidRequest) as caught:
        GenerationParams(stop=stop)  # type: ignore[arg-type]
    assert caught.value.fields["field"] == "stop"


def test_temperature_zero_is_greedy() -> None:
    """Temperature 0 is legal and means the most likely token."""
    assert GenerationParams(temperature=0.0).greedy
    assert not GenerationParams(temperature=0.7).greedy


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: GenerationRequest("r"),
        lambda: GenerationRequest("r", prompt="a", messages=(Message("user", "b"),)),
        lambda: Message("robot", "x"),
        lambda: Message("user", 3),
    ],
)
def test_request_takes_a_prompt_or_messages(wrong: Callable[[], object]) -> None:
    """Exactly one of the two; only the four roles exist, and content is text."""
    with pytest.raises(InvalidRequest):
        wrong()
    assert GenerationRequest("r", prompt="").prompt == ""


def test_what_nobody_means_to_say_is_cleaned_away() -> None:
    """A PDF's page breaks and NULs, a terminal's colours and titles; tabs and line breaks stay, wherever said."""
    said = "\x1b]0;title\x07\x1b[1;31mr\0ed\x1b[0m\fnext\tpage\r\n\x7f😀"
    clean = "red\nnext\tpage\r\n😀"
    assert GenerationRequest("r", prompt=said).prompt == clean
    assert Message("user", said).content == clean


def test_first_cancel_reason_wins() -> None:
    """A later cancel does not change why the answer ended."""
    token = CancelToken()
    assert not token.cancelled
    token.cancel(FinishReason.TIMEOUT)
    token.cancel()
    assert token.cancelled
    assert token.reason is FinishReason.TIMEOUT
