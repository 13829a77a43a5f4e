"""Answers the lines of a batch in a thread of its own, so many at once that the engine's rows are never empty.

Every line is served as the endpoint serves it. Knows no terminal and no page.
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from chatglm_backend.api.answering import STOPPED, Answering
from chatglm_backend.api.problems import Problem, problem_of
from chatglm_backend.api.schemas import ChatRequest, CompletionRequest
from chatglm_backend.batch.inputs import CHAT, Line
from chatglm_backend.batch.journal import Entry, Journal
from chatglm_backend.core import ModelState, monotonic_clock
from chatglm_backend.errors import ModelNotReady
from chatglm_backend.sentences import Sentence
from chatglm_backend.units import clock_time, rate

_AGAIN_S = 0.5
_NOT_NOW = ("queue_full", "too_many_requests")


@dataclass(frozen=True, slots=True)
class Progress:
    """A batch at a moment: of ``total`` lines ``answered`` and ``failed`` are done, ``skipped`` of them from before.

    ``tokens`` are new ones of this run, ``seconds`` its time so far.
    """

    total: int
    answered: int
    failed: int
    skipped: int
    tokens: int
    seconds: float

    @property
    def done(self) -> int:
        """Lines with an answer, or with the reason why there is none."""
        return self.answered + self.failed

    @property
    def rate(self) -> float:
        """New tokens a second."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0

    @property
    def line(self) -> Sentence:
        """How far it is, and how long the rest takes."""
        left = self.left_s
        if left is None:
            return Sentence("batch.begun", done=self.done, total=self.total)
        return Sentence("batch.progress", done=self.done, total=self.total, rate=rate(self.rate), left=clock_time(left))

    @property
    def summary(self) -> Sentence:
        """What there is at the end."""
        counts = {"answered": self.answered, "failed": self.failed, "skipped": self.skipped, "tokens": self.tokens}
        return Sentence("batch.summary", **counts, time=clock_time(self.seconds), rate=rate(self.rate))

    @property
    def left_s(self) -> float | None:
        """About how long the rest takes; ``None`` before the first line of this run is done."""
        made = self.done - self.skipped
        return (self.total - self.done) * self.seconds / made if made else None


def progress_of(total: int, entries: Sequence[Entry], skipped: int, seconds: float = 0.0) -> Progress:
    """From an output's lines, of which the first ``skipped`` were there before."""
    ok = sum(entry.ok for entry in entries)
    tokens = sum(entry.tokens for entry in entries[skipped:])
    return Progress(total, ok, len(entries) - ok, skipped, tokens, seconds)


class BatchRun:
    """One batch at work. ``error`` is why it ended early, for a reason that is none of a line's own."""

    def __init__(
        self,
        answering: Answering,
        lines: Sequence[Line],
        journal: Journal,
        *,
        visitor: str,
        at_once: int,
        say: Callable[[object], str] = str,
    ) -> None:
        """``at_once``: lines that are asked for at the same time; ``say`` words what is wrong with one.

        It closes the journal at its end.

        Raises what ``Journal.left`` does.
        """
        self.error: Exception | None = None
        self._answering = answering
        self._journal = journal
        self._left = journal.left(lines)
        self._total, self._skipped = len(lines), len(journal.entries)
        self._visitor = visitor
        self._at_once = at_once
        self._say = say
        self._began = monotonic_clock()
        self._seconds: float | None = None
        self._stopped = threading.Event()
        # Not the thread's own end: until Python 3.13 a join that Ctrl-C interrupts takes a running thread for ended.
        self._ended = threading.Event()
        threading.Thread(target=self._run, name="batch", daemon=True).start()

    def stop(self) -> None:
        """End soon; what is not whole is given up, and answered by the next run."""
        self._stopped.set()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the end; whether it has come."""
        return self._ended.wait(timeout_s)

    @property
    def ended(self) -> bool:
        """Whether nothing happens any more."""
        return self._ended.is_set()

    def progress(self) -> Progress:
        """Where it is now. From any thread."""
        seconds = monotonic_clock() - self._began if self._seconds is None else self._seconds
        return progress_of(self._total, self._journal.entries[:], self._skipped, seconds)

    def _run(self) -> None:
        try:
            asyncio.run(self._work())
        except Exception as error:  # noqa: BLE001 - told by whoever waits
            self.error = error
        finally:
            self._journal.close()
            self._seconds = monotonic_clock() - self._began
            self._ended.set()

    async def _work(self) -> None:
        """Each of so many tasks takes the next line when it is done with one; the first error ends all."""
        lines = iter(self._left)
        tasks = [asyncio.create_task(self._row(lines)) for _ in range(min(self._at_once, len(self._left)))]
        pending = set(tasks)
        try:
            while pending and not self._stopped.is_set():
                ended, pending = await asyncio.wait(pending, timeout=0.1, return_when=asyncio.FIRST_EXCEPTION)
                for task in ended:
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _row(self, lines: Iterator[Line]) -> None:
        for line in lines:
            value = _told(line, line.problem, self._say) if line.problem else await self._answered(line)
            self._journal.add(value)

    async def _answered(self, line: Line) -> dict[str, Any]:
        number = uuid.uuid4().hex
        while True:
            try:
                begun = await self._answering.begin(_request(line), self._visitor, number)
                status, body = 200, await begun.whole()
            except Exception as error:  # noqa: BLE001 - told in its line, as the endpoint tells it
                problem = problem_of(error)
                if problem.code in _NOT_NOW:
                    await asyncio.sleep(_AGAIN_S)
                    continue
                self._check_model(problem)
                status, body = problem.status, problem.body(self._say)
            response = {"status_code": int(status), "request_id": f"req-{number}", "body": body}
            return {"id": line.id, "custom_id": line.custom_id, "response": response, "error": None}

    def _check_model(self, problem: Problem) -> None:
        """What no line can be blamed for ends the batch, so that the next run answers it."""
        status = self._answering.service.status()
        if status.state is not ModelState.READY or problem is STOPPED:
            raise status.error or ModelNotReady()


def _request(line: Line) -> ChatRequest | CompletionRequest:
    kind = ChatRequest if line.url == CHAT else CompletionRequest
    body: ChatRequest | CompletionRequest = kind.model_validate(line.body)
    if body.stream:
        raise Problem(400, Sentence("batch.no_stream"), "unsupported_value", "stream")
    return body


def _told(line: Line, problem: Sentence, say: Callable[[object], str]) -> dict[str, Any]:
    error = {"code": problem.code.removeprefix("batch."), "message": say(problem), "line": line.number}
    return {"id": line.id, "custom_id": line.custom_id, "response": None, "error": error}
