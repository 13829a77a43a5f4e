"""Runs answers for the page: waits for the model, submits, follows the events, stops.

One per process, shared by all languages and tabs. It knows visitors by their page session and
no components: it yields :class:`~chatglm_backend.ui.progress.Answer` snapshots.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import aclosing

from chatglm_backend.core import GenerationRequest, ModelState
from chatglm_backend.errors import ChatGLMError, EngineFailure
from chatglm_backend.ui.ports import PageService, Ticket
from chatglm_backend.ui.progress import Answer, Phase
from chatglm_backend.ui.stream import batches

__all__ = ["AnswerRunner"]


class AnswerRunner:
    """Follows requests. ``poll_s`` is the pause between looks at a model that is still loading."""

    def __init__(self, service: PageService, *, poll_s: float = 0.3) -> None:
        self._service = service
        self._poll_s = poll_s
        self._lock = threading.Lock()
        self._running: dict[str, set[_Run]] = {}

    async def run(self, session: str, request: GenerationRequest) -> AsyncGenerator[Answer, None]:
        """Snapshots of one answer, the last with ``running`` false. Errors end up in the answer, never out here."""
        answer = Answer()
        run = _Run(answer)
        with self._lock:
            self._running.setdefault(session, set()).add(run)
        try:
            while self._service.status().state is ModelState.LOADING and not run.stopped:
                answer.phase = Phase.LOADING
                yield answer
                await asyncio.sleep(self._poll_s)
            if run.stopped:
                answer.phase = Phase.DONE
                yield answer
                return
            async for _ in self._follow(answer, run, request):
                yield answer
        finally:
            run.stop()
            with self._lock:
                self._running[session].discard(run)
                if not self._running[session]:
                    del self._running[session]

    def stop(self, session: str) -> int:
        """Cancel everything that runs for a visitor's page; returns how many there were."""
        with self._lock:
            runs = tuple(self._running.get(session, ()))
        for run in runs:
            run.stop()
        return len(runs)

    async def _follow(self, answer: Answer, run: _Run, request: GenerationRequest) -> AsyncGenerator[None, None]:
        try:
            error = self._service.status().error
            if isinstance(error, ChatGLMError):
                raise error
            ticket = await asyncio.to_thread(self._service.submit, request)
            run.attach(ticket)
            async with aclosing(batches(ticket)) as stream:
                async for arrivals in stream:
                    answer.take_arrivals((arrival.at, arrival.event) for arrival in arrivals)
                    yield
            if answer.running:
                raise EngineFailure(reason="the answer broke off")
        except ChatGLMError as error:
            answer.fail(error)
            yield
        except Exception as error:  # noqa: BLE001  the page must say so and stay usable
            answer.fail(error)
            yield


class _Run:
    """One running answer, stoppable before and after it has a ticket."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self._lock = threading.Lock()
        self._ticket: Ticket | None = None
        self.stopped = False

    def attach(self, ticket: Ticket) -> None:
        """Remember the ticket; cancels it at once if the stop came earlier."""
        with self._lock:
            self._ticket = ticket
            stopped = self.stopped
        if stopped:
            ticket.cancel()

    def stop(self) -> None:
        """Cancel, now or as soon as there is a ticket."""
        with self._lock:
            self.stopped = True
            ticket = self._ticket
        if ticket is not None:
            ticket.cancel()
