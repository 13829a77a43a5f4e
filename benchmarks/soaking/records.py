"""What a client knows of one request when it is over."""

from __future__ import annotations

from dataclasses import dataclass, field

from benchmarks.soaking.questions import Question

__all__ = ["Record"]


@dataclass
class Record:
    """``end`` is how the client saw it end: ``stop``, ``length`` or ``cancelled`` as told by the server; an error's
    code when it told one; ``left`` when the client went away of its own accord; ``lost`` when a reply broke off.

    ``accepted`` is ``None`` where the client left too early to know. ``seen`` is everything that it received, as text.
    ``left_at`` is when it hung up in the middle of an answer, in seconds of the system's clock.
    """

    client: int
    kind: str
    visitor: str
    question: Question
    request_id: str | None = None
    accepted: bool | None = None
    end: str = "lost"
    text: str = ""
    tokens: int | None = None
    left_at: float | None = None
    seen: list[str] = field(default_factory=list)
