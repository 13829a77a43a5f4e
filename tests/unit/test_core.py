"""The shared types refuse nonsense and say which field is wrong."""

from __future__ import annotations

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


def test_request_takes_a_prompt_or_messages() -> None:
    """Exactly one of the two must be given, and the user speaks last."""
    with pytest.raises(InvalidRequest):
        GenerationRequest("r")
    with pytest.raises(InvalidRequest):
        GenerationRequest("r", prompt="a", messages=(Message("user", "b"),))
    with pytest.raises(InvalidRequest):
        GenerationRequest("r", messages=(Message("assistant", "b"),))
    assert GenerationRequest("r", prompt="").prompt == ""


def test_message_roles_are_checked() -> None:
    """Only the three roles exist, and content is text."""
    with pytest.raises(InvalidRequest):
        Message("tool", "x")  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest):
        Message("user", 3)  # type: ignore[arg-type]


def test_first_cancel_reason_wins() -> None:
    """A later cancel does not change why the answer ended."""
    token = CancelToken()
    assert not token.cancelled
    token.cancel(FinishReason.TIMEOUT)
    token.cancel()
    assert token.cancelled
    assert token.reason is FinishReason.TIMEOUT
