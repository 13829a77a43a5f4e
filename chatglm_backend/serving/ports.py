"""What serving asks of an engine. Knows no model and no tensor."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Protocol, TypeVar

from chatglm_backend.core import CancelToken, Event, GenerationRequest
from chatglm_backend.errors import RequestError

_Own = TypeVar("_Own")


class Prepared(Protocol):
    """A request that the engine has measured."""

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompt."""

    @property
    def kv_bytes(self) -> int:
        """The most KV memory it can take."""

    def within(self: _Own, kv_bytes: int) -> _Own:
        """The same with a shorter answer in at most these bytes, where it asked for as much as fits; else itself."""


P = TypeVar("P", bound=Prepared)


class EnginePort(Protocol[P]):
    """The engine as the worker drives it. ``prepare`` is safe from any thread, the rest belongs to one."""

    def prepare(self, request: GenerationRequest) -> P:
        """Encode and measure; raises a RequestError for what cannot be served."""

    def start(self, request: GenerationRequest, cancel: CancelToken, submitted_at: float, prepared: P) -> Hashable:
        """Take a request in and name it by a handle; ``prepared`` is what ``prepare`` gave."""

    def step(self) -> Sequence[tuple[Hashable, Event | RequestError]]:
        """One step of work for all; ``Completed`` or an error is a handle's last word."""
