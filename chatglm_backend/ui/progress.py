"""What one answer looks like at a moment: phase, text, figures. Built from events, shown by the page.

Standard library and our shared words only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from chatglm_backend.api.tools import text_of
from chatglm_backend.core import (
    Clock,
    Completed,
    FinishReason,
    PrefillProgress,
    Queued,
    Timing,
    TokenEvent,
    Usage,
    monotonic_clock,
)
from chatglm_backend.serving.ticket import Logged
from chatglm_backend.tokenizers.tools import ReplyReader, ToolCall


class Phase(str, Enum):
    """What is happening to an answer."""

    WAITING = "waiting"
    QUEUED = "queued"
    READING = "reading"
    WRITING = "writing"
    DONE = "done"
    FAILED = "failed"


@dataclass(slots=True)
class Answer:
    """An answer in the making. Times are seconds of ``clock``; ``error`` is set exactly when the phase is FAILED.

    ``reader`` parts its text from calls of tools, where some were offered.
    ``gaps_s`` are the last times between two tokens; ``read_from`` is when and where reading the prompt began.
    """

    clock: Clock = monotonic_clock
    phase: Phase = Phase.WAITING
    started: float = 0.0
    first_token: float | None = None
    last_token: float | None = None
    pieces: list[str] = field(default_factory=list)
    tokens: int = 0
    prompt_tokens: int = 0
    read_tokens: int = 0
    cached_tokens: int = 0
    read_from: tuple[float, int] | None = None
    read_at: float = 0.0
    queued: Queued | None = None
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    timing: Timing | None = None
    error: BaseException | None = None
    reader: ReplyReader | None = None
    gaps_s: deque[float] = field(default_factory=lambda: deque(maxlen=80))

    def __post_init__(self) -> None:
        self.started = self.clock()

    @property
    def text(self) -> str:
        """The answer so far."""
        return "".join(self.pieces)

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The tools that it calls."""
        return () if self.reader is None else tuple(self.reader.calls)

    @property
    def running(self) -> bool:
        """Whether more may come."""
        return self.phase not in (Phase.DONE, Phase.FAILED)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the request, or the measured total once it ended."""
        return self.timing.total_s if self.timing is not None else self.clock() - self.started

    @property
    def ttft_s(self) -> float | None:
        """Seconds to the first token, as measured by the engine once it ended, by the page before."""
        if self.timing is not None:
            return self.timing.ttft_s
        return None if self.first_token is None else self.first_token - self.started

    @property
    def reading_left_s(self) -> float | None:
        """Seconds until the prompt is read, if the rest goes as what was read so far."""
        since, first = self.read_from or (0.0, self.read_tokens)
        done = self.read_tokens - first
        return (self.read_at - since) / done * (self.prompt_tokens - self.read_tokens) if done > 0 else None

    @property
    def decode_tok_s(self) -> float | None:
        """Tokens per second after the first."""
        if self.timing is not None:
            return self.timing.decode_tok_s
        if self.first_token is None or self.last_token is None or self.last_token <= self.first_token:
            return None
        return (self.tokens - 1) / (self.last_token - self.first_token)

    @property
    def prefill_tok_s(self) -> float | None:
        """Prompt tokens read per second; known once the engine has measured it."""
        return None if self.timing is None else self.timing.prefill_tok_s

    def take(self, log: Iterable[Logged]) -> None:
        """Follow what came."""
        for at, event in ((one.at, one.event) for one in log):
            if isinstance(event, Queued):
                self.phase, self.queued = Phase.QUEUED, event
            elif isinstance(event, PrefillProgress):
                self.phase = Phase.READING
                self.read_tokens, self.prompt_tokens, self.cached_tokens = event.done, event.total, event.cached
                self.read_from, self.read_at = self.read_from or (at, event.done), at
            elif isinstance(event, TokenEvent):
                self._token(event, at)
            elif isinstance(event, Completed):
                self._complete(event)

    def fail(self, error: BaseException) -> None:
        """End with an error; the text so far stays."""
        self.phase, self.error = Phase.FAILED, error

    def _token(self, event: TokenEvent, at: float) -> None:
        self.phase = Phase.WRITING
        if self.last_token is None:
            self.first_token = at
        else:
            self.gaps_s.append(at - self.last_token)
        self.last_token = at
        self.tokens += 1
        self.pieces.append(text_of(event, self.reader))

    def _complete(self, event: Completed) -> None:
        self.phase = Phase.DONE
        self.pieces.append(text_of(event, self.reader))
        self.finish_reason, self.usage, self.timing = event.finish_reason, event.usage, event.timing
        self.prompt_tokens, self.tokens = event.usage.prompt_tokens, event.usage.completion_tokens
        self.cached_tokens = event.usage.cached_tokens
