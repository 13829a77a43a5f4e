"""What the page asks of the service, as protocols, so that it can be shown without a model.

Standard library and our shared words only.
"""

from __future__ import annotations

from typing import Protocol

from chatglm_backend.core import GenerationRequest, ModelStatus
from chatglm_backend.serving.ticket import Ticket


class ExactPrompt(Protocol):
    """A prompt as the model reads it."""

    @property
    def ids(self) -> tuple[int, ...]:
        """The token ids."""
        ...

    @property
    def text(self) -> str:
        """The same, for people."""
        ...


class PageService(Protocol):
    """The part of the service that the page uses."""

    def status(self) -> ModelStatus:
        """Where the model is in its life; cheap."""
        ...

    def load(self, model: str | None) -> None:
        """Begin loading another model; returns at once."""
        ...

    def cancel_load(self) -> None:
        """Stop loading."""
        ...

    def preview_prompt(self, request: GenerationRequest) -> ExactPrompt:
        """The exact prompt of a request."""
        ...

    def submit(
        self,
        request: GenerationRequest,
        *,
        wait: bool = False,
        kernel: str = "",
        disconnect_grace_s: float | None = None,
        timeout_s: float | None = None,
    ) -> Ticket:
        """Queue a request; with ``wait`` also while its model is loading."""
        ...


class ClosingService(PageService, Protocol):
    """A service with an end."""

    def close(self, drain_s: float = 0.0) -> None:
        """Refuse new requests, give the accepted ones ``drain_s`` seconds, then end everything."""
        ...
