"""What the endpoint asks of the service, as protocols. Standard library and our shared words only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from chatglm_backend.core import Event, FinishReason, GenerationRequest, ModelStatus


class Ticket(Protocol):
    """One answer on its way."""

    def events(self) -> Iterator[Event]:
        """Events as they happen, :class:`~chatglm_backend.core.Completed` last; blocks between them."""
        ...

    def cancel(self, reason: FinishReason = ...) -> None:
        """Ask for the end, from any thread, more than once."""
        ...


class ApiService(Protocol):
    """The part of the service that the endpoint uses."""

    def status(self) -> ModelStatus:
        """Where the model is in its life; cheap."""
        ...

    def submit(self, request: GenerationRequest) -> Ticket:
        """Queue a request; encodes its prompt, so it may take a moment. Raises a RequestError."""
        ...
