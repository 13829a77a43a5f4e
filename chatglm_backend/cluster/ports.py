"""What passes between a front and its machines, and how it reaches them. Knows no Ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from chatglm_backend.core import Event, ModelStatus
from chatglm_backend.errors import RequestError
from chatglm_backend.sentences import Sentence


class MachineLost(Exception):
    """A machine did not answer in time. ``gone``: its engine has ended, and a new one must be started.

    ``why``: what is known of the cause, to be shown.
    """

    def __init__(self, *, gone: bool = False, why: Sentence | None = None) -> None:
        super().__init__()
        self.gone, self.why = gone, why


class Link(Protocol):
    """The way to one machine's engine. Thread-safe."""

    def call(self, method: str, *args: Any, timeout_s: float) -> Any:  # noqa: ANN401
        """What a method of :class:`~chatglm_backend.cluster.replica.Replica` returns or raises; else MachineLost."""

    def send(self, method: str, *args: object) -> None:
        """The same, without waiting for it or hearing of it."""

    def end(self) -> None:
        """End the engine."""


class Roster(Protocol):
    """Which machines there are."""

    def names(self) -> tuple[str, ...]:
        """Those that are there now. Raises MachineLost where nobody knows."""

    def open(self, name: str) -> Link:
        """Start a machine's engine; waits until it can be called. Raises MachineLost."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A prompt's length and the most memory its K/V can take, as a machine found them."""

    prompt_tokens: int
    kv_bytes: int

    def within(self, kv_bytes: int) -> Measured:  # noqa: ARG002
        """The machine has shortened it already."""
        return self


@dataclass(frozen=True, slots=True)
class Report:
    """News of a machine: what its answers told since the last one, and how its model is.

    ``load`` is the number of the loading that ``status`` is of, ``places`` how many answers it makes at once,
    ``answers`` the ids of those that have not ended, and ``notes`` what it has to say of its loading.
    """

    events: tuple[tuple[str, Event | RequestError], ...]
    status: ModelStatus
    load: int
    places: int
    answers: frozenset[str] = frozenset()
    notes: tuple[Sentence, ...] = ()


@dataclass(frozen=True, slots=True)
class Held:
    """The ids of the answers that a machine still had, asked for at ``asked_at`` (seconds of our clock) or later."""

    ids: frozenset[str]
    asked_at: float
