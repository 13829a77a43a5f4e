"""The shared types refuse nonsense and say which field is wrong."""

from __future__ import annotations

import math

import pytest

from chatglm_backend.core import CancelToken, FinishReason, GenerationParams, GenerationRequest, Message
from chatglm_backend.errors import InvalidRequest


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_new_tokens", 0),
        ("max_new_tokens", True),
        ("max_new_tokens", 1.5),
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_p", 1.1),
        ("top_k", -1),
        ("repetition_penalty", 0.0),
        ("stop", ("",)),
        ("stop", ["a"]),
        ("seed", -1),
    ],
)
def test_params_name_the_bad_field(field: str, value: object) -> None:
    """A value out of range raises at once, with the field in the error."""
    with pytest.raises(InvalidRequest) as caught:
        GenerationParams(**{field: value})  # type: ignore[arg-type]
    assert caught.value.fields["field"] == field


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
