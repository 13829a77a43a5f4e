"""What the endpoint asks of the service, as a protocol. Standard library and our shared words only."""

from __future__ import annotations

from typing import Protocol

from chatglm_backend.core import GenerationRequest, ModelStatus
from chatglm_backend.serving.ticket import Ticket

__all__ = ["ApiService", "Ticket"]


class ApiService(Protocol):
    """The part of the service that the endpoint uses."""

    def status(self) -> ModelStatus:
        """Where the model is in its life; cheap."""
        ...

    def submit(self, request: GenerationRequest, *, timeout_s: float | None = None) -> Ticket:
        """Queue a request; encodes its prompt, so it may take a moment. Raises a RequestError."""
        ...
