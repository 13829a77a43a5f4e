"""The answers that pages show: which ticket belongs to which page, who may read it, and what it looks like now.

Everything of an answer is in its ticket's log; here stands only what a page needs beside it. One per process,
shared by all languages. It knows no components.
"""

from __future__ import annotations

import asyncio
import contextvars
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal

from chatglm_backend.core import GenerationRequest, monotonic_clock
from chatglm_backend.errors import ChatGLMError, EngineFailure, HistoryError
from chatglm_backend.sentences import Sentence
from chatglm_backend.service import Service
from chatglm_backend.serving.ticket import Ticket
from chatglm_backend.settings import Settings
from chatglm_backend.store.records import Attached, Place, Versions
from chatglm_backend.tokenizers.tools import ReplyReader
from chatglm_backend.ui.adapters import BASE
from chatglm_backend.ui.conversation import Fitted, Turns
from chatglm_backend.ui.history import AnswerKeeper
from chatglm_backend.ui.progress import Answer

Page = Literal["prompt", "chat", "compare a", "compare b"]

_PACE_S = 0.2
_HEARTBEAT_S = 0.5
_ENDED, _ENDED_S, _ENDED_BYTES = 100, 3600.0, 8_000_000


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the visitor, in one of their tabs. ``keeper`` is the visitor where their conversations are kept."""

    visitor: str
    tab: str
    keeper: str | None = None


@dataclass(eq=False, slots=True)
class PageAnswer:
    """One answer of a page, which goes on behind ``begun``.

    ``turns``, ``fitted``, ``place``, ``versions`` and ``keeping`` are the Chat page's. ``id`` is the request's;
    ``tools`` may be called; ``problem`` is why the history could not keep it, until a page has told. ``ended`` is when
    nobody watched it any more, in seconds of the system's monotonic clock.
    """

    id: str
    page: Page
    visitor: str
    ticket: Ticket | None = None
    begun: str = ""
    turns: Turns = ()
    fitted: Fitted | None = None
    place: Place | None = None
    versions: Versions = ()
    keeping: AnswerKeeper | None = None
    tools: tuple[str, ...] = ()
    problem: HistoryError | None = None
    stopped: bool = False
    seen: bool = False
    ended: float = 0.0
    task: asyncio.Task[None] | None = None

    @property
    def size(self) -> int:
        """About how many bytes of memory it takes, with the conversation before it and its documents."""
        documents = [one for turn in self.turns if isinstance(turn, Attached) for one in turn.documents]
        texts = (*(turn.content for turn in self.turns), *(page for one in documents for page in one.pages))
        return 2 * sum(map(len, texts)) + (0 if self.ticket is None else self.ticket.size)

    def reader(self) -> ReplyReader | None:
        """What parts its text from calls, if tools were offered."""
        begun = bool(self.turns) and self.turns[-1].role == "assistant"
        return ReplyReader(self.tools, begun=begun) if self.tools else None

    def stop(self) -> None:
        """Ask for its end, also before it has a ticket. Safe from any thread."""
        self.stopped = True
        if self.ticket is not None:
            self.ticket.cancel()

    async def save(self, answer: Answer) -> None:
        """Keep what there is of it."""
        if self.keeping is not None:
            self.problem = await asyncio.to_thread(self.keeping.save, answer) or self.problem


@dataclass(eq=False, slots=True)
class Watch:
    """One tab that follows an answer, until it turns to something else, and then shows ``instead``."""

    answer: PageAnswer
    turned: bool = False
    instead: Any = None


@dataclass(slots=True)
class PageAnswers:
    """All answers that a page may still ask for."""

    service: Service
    settings: Settings = field(default_factory=Settings)
    _answers: dict[str, PageAnswer] = field(default_factory=dict)
    _watches: dict[tuple[str, Page], Watch] = field(default_factory=dict)
    _ended: dict[str, PageAnswer] = field(default_factory=dict)

    def adapter(self, chosen: str | None, *, lasting: bool = False) -> str:
        """The fine-tune that a page's choice names; without one the first, also while its model is loading.

        A choice made beside the model before gives way to that too, unless it is ``lasting``.
        """
        names = self.service.adapter_names()
        gone = not lasting and self.service.status().info is None and chosen not in (BASE, *names)
        if chosen is None or gone:
            return names[0] if names else ""
        return "" if chosen == BASE else chosen

    def open(self, page: Page, caller: Caller) -> Watch:
        """Begin an answer, and watch it; it replaces the one that the tab showed."""
        self.turn(page, caller)
        answer = PageAnswer(secrets.token_hex(8), page, caller.visitor)
        self._answers[answer.id] = answer
        return self._watch(answer, caller)

    async def submit(self, answer: PageAnswer, request: GenerationRequest, *, kernel: str = "") -> None:
        """Queue its request. Raises what the service raises, always as a :class:`ChatGLMError`."""
        try:
            answer.ticket = ticket = await asyncio.to_thread(
                self.service.submit,
                request,
                wait=True,
                kernel=kernel,
                disconnect_grace_s=self.settings.disconnect_grace,
                timeout_s=self.settings.request_timeout,
            )
        except Exception as error:
            self._answers.pop(answer.id, None)
            raise error if isinstance(error, ChatGLMError) else EngineFailure(reason=type(error).__name__) from error
        if answer.stopped:
            ticket.cancel()
        # In a new context: the request's own would keep that request in memory for as long as the answer.
        answer.task = contextvars.Context().run(asyncio.create_task, self._attend(answer, ticket))

    def resume(
        self, page: Page, caller: Caller, wanted: Callable[[PageAnswer], bool] = lambda _: True, *, left: bool = False
    ) -> Watch | None:
        """Watch the visitor's newest answer of this page that is ``wanted``; with ``left``, that no tab watches.

        A tab that follows one already keeps to it.
        """
        if self.watches(page, caller):
            return None
        watched = {id(watch.answer) for watch in self._watches.values()}
        for answer in reversed(tuple(self._answers.values())):
            mine = (answer.page, answer.visitor) == (page, caller.visitor) and answer.ticket is not None
            if mine and wanted(answer) and not (left and id(answer) in watched):
                return self._watch(answer, caller)
        return None

    def known(self, page: Page, caller: Caller, name: str) -> PageAnswer | None:
        """The visitor's answer of this name, also for a while after its end: the newest are kept in memory."""
        self._tidy()
        found = self._answers.get(name) or self._ended.get(name)
        mine = found is not None and (found.page, found.visitor) == (page, caller.visitor) and found.ticket is not None
        return found if mine else None

    def again(self, page: Page, caller: Caller, name: str) -> Watch | None:
        """Watch the visitor's answer of this name once more, as a page does that was loaded anew."""
        found = None if self.watches(page, caller) else self.known(page, caller, name)
        return None if found is None else self._watch(found, caller)

    def watches(self, page: Page, caller: Caller) -> bool:
        """Whether the tab follows an answer already, as one does whose question was quicker than the page."""
        return (caller.tab, page) in self._watches

    def stop(self, visitor: str, *ids: str) -> None:
        """Stop these answers, if they are the visitor's; their texts stay."""
        for name in ids:
            answer = self._answers.get(name)
            if answer is not None and answer.visitor == visitor:
                answer.stop()

    def turn(self, page: Page, caller: Caller, instead: Any = None) -> None:  # noqa: ANN401 - what the page shows
        """The tab turns to something else, ``instead``, at once: what no other tab watches is stopped."""
        watch = self._watches.pop((caller.tab, page), None)
        if watch is not None:
            watch.instead, watch.turned = instead, True
            if all(other.answer is not watch.answer for other in tuple(self._watches.values())):
                watch.answer.stop()

    def leave(self, tab: str) -> None:
        """The tab has gone; its answers go on for the grace period."""
        for key in [key for key in tuple(self._watches) if key[0] == tab]:
            self._watches.pop(key).turned = True

    async def follow(
        self, watch: Watch, request: Callable[[], GenerationRequest] | None = None, *, kernel: str = ""
    ) -> AsyncGenerator[Answer, None]:
        """The answer as it grows, from its beginning; kept before it is shown. Ends early when the tab turns.

        With ``request``, it is queued first; whatever refuses it is the answer's error.
        """
        answer = Answer()
        try:
            if request is not None:
                await self.submit(watch.answer, await asyncio.to_thread(request), kernel=kernel)
            ticket = watch.answer.ticket
            if ticket is None:
                raise EngineFailure(reason=Sentence("engine.not_begun"))
            answer.reader = watch.answer.reader()
            async with aclosing(ticket.follow(pace_s=_PACE_S, heartbeat_s=_HEARTBEAT_S)) as log:
                async for batch in log:
                    answer.started = ticket.submitted_at
                    answer.take(batch)
                    await watch.answer.save(answer)
                    if watch.turned:
                        return
                    yield answer
        except (ChatGLMError, ValueError, OverflowError) as error:
            answer.fail(error)
            if not watch.turned:
                yield answer
        finally:
            if not answer.running and not watch.turned:
                watch.answer.seen = True
                self._forget(watch.answer)
            for key in [key for key, found in tuple(self._watches.items()) if found is watch]:
                self._watches.pop(key, None)

    def _watch(self, answer: PageAnswer, caller: Caller) -> Watch:
        watch = self._watches[(caller.tab, answer.page)] = Watch(answer)
        return watch

    async def _attend(self, answer: PageAnswer, ticket: Ticket) -> None:
        """Keep the answer while nobody looks, and forget it some time after its end."""
        grown = Answer(reader=answer.reader())
        try:
            async with aclosing(ticket.follow(pace_s=_PACE_S, reading=False)) as log:
                async for batch in log:
                    grown.take(batch)
                    await answer.save(grown)
        except ChatGLMError as error:
            grown.fail(error)
            await answer.save(grown)
        if not answer.seen:
            await asyncio.sleep(self.settings.disconnect_grace)
        self._forget(answer)

    def _forget(self, answer: PageAnswer) -> None:
        """It has ended, and is found by its name only, for a while; where it is kept, by that."""
        self._answers.pop(answer.id, None)
        if answer.ticket is not None and answer.keeping is None and not answer.ended:
            answer.ended = monotonic_clock()
            self._ended[answer.id] = answer
            self._tidy()
            if len(self._ended) == 1:
                self._tidy_later()

    def _tidy_later(self) -> None:
        """Once the oldest is too old, also if nobody asks for anything until then; one timer for all."""
        for oldest in tuple(self._ended.values())[:1]:
            wait_s = max(0.0, oldest.ended + _ENDED_S - monotonic_clock())
            # In a new context, as what is attended to.
            asyncio.get_running_loop().call_later(wait_s, self._expire, context=contextvars.Context())

    def _expire(self) -> None:
        self._tidy()
        self._tidy_later()

    def _tidy(self) -> None:
        """Keep of what has ended what is new and not too much, and of that at least the last."""
        oldest, room = monotonic_clock() - _ENDED_S, _ENDED_BYTES
        for place, answer in enumerate(reversed(tuple(self._ended.values()))):
            room -= answer.size
            if place >= _ENDED or answer.ended <= oldest or (room < 0 and place):
                del self._ended[answer.id]
