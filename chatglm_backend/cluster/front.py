"""The engine that is several machines: what the worker of one process drives, and the loader that makes it ready.

Queue, fairness, limits and deadlines are the worker's, over all machines together. A visitor's requests go to the
machine that has read the conversation, unless it is full or gone. What a machine refuses as it is full goes to the
next, until all have refused it. What one had not begun to answer when it was lost goes to another one, once; what it
had ends with an error behind the text so far.
"""

from __future__ import annotations

import queue
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from chatglm_backend.cluster.members import Member, Members, News, Wanted
from chatglm_backend.cluster.ports import Held, MachineLost, Measured
from chatglm_backend.cluster.remote import RemoteAdapters, RemoteTokenizer
from chatglm_backend.core import (
    CancelToken,
    Clock,
    Completed,
    Event,
    FinishReason,
    GenerationRequest,
    MachineStatus,
    ModelInfo,
    PromptChances,
    Timing,
    TokenEvent,
    Usage,
    monotonic_clock,
)
from chatglm_backend.errors import (
    ContextLimitExceeded,
    EngineFailure,
    LoadCancelled,
    ModelError,
    ModelNotReady,
    NoMachine,
    NoMemoryForPrompt,
    QueueFull,
    RequestError,
    ShuttingDown,
)
from chatglm_backend.sentences import Sentence
from chatglm_backend.service.loading import LoadedModel, Loading
from chatglm_backend.serving.worker import Worker, WorkerOptions
from chatglm_backend.tokenizers.base import EncodedPrompt

_TICK_S, _POLL_S, _AGAIN_S = 0.005, 0.2, 1.0
_HOMES = 10_000
_ELSEWHERE = (ModelNotReady, QueueFull, ShuttingDown, NoMemoryForPrompt)


@dataclass(eq=False, slots=True)
class Run:
    """One answer on its way. ``session`` is that of the machine which makes it.

    ``wanted`` is what that one was to have when it was sent there, ``tried`` are those that did not make it, ``moved``
    if one of them was lost with it.
    """

    request: GenerationRequest
    cancel: CancelToken
    submitted_at: float
    prompt_tokens: int
    member: Member
    wanted: Wanted
    session: str = ""
    started_at: float = 0.0
    first_at: float | None = None
    tokens: int = 0
    tried: list[Member] = field(default_factory=list)
    moved: bool = False
    cancelled_at: float | None = None


class Front:
    """An ``EnginePort`` and a ``Loader``. :meth:`start` and :meth:`step` belong to the worker's thread."""

    def __init__(self, members: Members, *, clock: Clock = monotonic_clock) -> None:
        self._members = members
        self._clock = clock
        self._worker: Worker[Measured] | None = None
        self._runs: dict[str, Run] = {}
        self._homes: OrderedDict[str, str] = OrderedDict()
        self._turn = 0
        self._number = 0
        members.told = self._resize

    def machines(self) -> tuple[MachineStatus, ...]:
        """All machines as they are now."""
        return self._members.statuses()

    def load(self, model: str | None, how: Loading) -> LoadedModel:
        """Make ``model`` ready on one machine while the others go on with what they have, and then on those."""
        self._number += 1
        wanted = Wanted(self._number, model, self._number)
        before, ready = self._members.current, self._members.ready()
        first = min(ready, key=lambda one: one.runs, default=None) if len(ready) > 1 else None
        self._members.want(wanted, first)
        try:
            found = self._await(wanted, how)
        except ModelError as error:
            self._number += 1
            again = Wanted(ended=error) if first is None else before
            self._members.want(replace(again, number=self._number), first)
            raise
        if first is not None:
            self._members.want(wanted)
        if self._worker is None or not self._worker.healthy:
            self._worker = Worker({"": self}, WorkerOptions.of(how.settings, 1))
        self._resize()
        for note in found.notes:
            how.note(Sentence("cluster.note", name=found.name, note=note))
        info = replace(cast("ModelInfo", found.info), other_kernels=())
        parts: Any = RemoteTokenizer(self._ask), self.encode, self._worker, RemoteAdapters(self._members)
        return LoadedModel(info, *parts)

    def prepare(self, request: GenerationRequest) -> Measured:
        """A machine's own measure. Raises what refuses it there, NoMachine, and ContextLimitExceeded of any machine."""
        found = cast("Measured", self._ask(request.visitor, "measure", request))
        limit = min((one.info.context_limit for one in self._members.ready() if one.info), default=0)
        if found.prompt_tokens >= limit > 0:
            raise ContextLimitExceeded(prompt_tokens=found.prompt_tokens, limit=limit)
        return found

    def encode(self, request: GenerationRequest) -> EncodedPrompt:
        """The exact prompt. Raises NoMachine."""
        return cast("EncodedPrompt", self._ask(request.visitor, "encode", request))

    def start(self, request: GenerationRequest, cancel: CancelToken, submitted_at: float, prepared: Measured) -> Run:
        """Send it to a machine. Raises NoMachine, and ContextLimitExceeded where it fits none of them."""
        size = prepared.prompt_tokens
        member = self._place(request.visitor, size=size)
        if member is None:
            limit = max((one.info.context_limit for one in self._members.ready() if one.info), default=0)
            raise ContextLimitExceeded(prompt_tokens=size, limit=limit) if limit else NoMachine
        run = Run(request, cancel, submitted_at, size, member, member.wanted)
        self._runs[request.request_id] = run
        self._send(run, member)
        return run

    def step(self) -> Sequence[tuple[Run, Event | RequestError]]:
        """What the machines told meanwhile; waits a moment where that is nothing."""
        self._stop_cancelled()
        news: list[News] = []
        try:
            news.append(self._members.news.get(timeout=_TICK_S))
            while True:
                news.append(self._members.news.get_nowait())
        except queue.Empty:
            return [found for session, name, told in news for found in self._take(session, name, told)]

    def _take(self, session: str, name: str, told: object) -> Iterator[tuple[Run, Event | RequestError]]:
        if isinstance(told, MachineLost):
            for run in [run for run in self._runs.values() if run.session == session]:
                yield from self._lose(run)
            return
        if isinstance(told, Held):
            late = told.asked_at - self._members.pace.silent_s
            mine = [run for run in self._runs.values() if run.session == session]
            for name in told.ids.difference(run.request.request_id for run in mine):  # it came there too late
                for link in [one.link for one in self._members.all() if one.session == session and one.link]:
                    link.send("cancel", name, FinishReason.CANCELLED)
            for run in mine:
                if run.started_at < late and run.request.request_id not in told.ids:
                    yield from self._lose(run)  # it never came there
            return
        answer = self._runs.get(name)
        if answer is None or answer.session != session:
            return
        run = answer
        if _refuses(told) and self._elsewhere(run, lost=False):
            return
        if isinstance(told, (TokenEvent, PromptChances)) and run.first_at is None:
            run.first_at = self._clock()
        if isinstance(told, TokenEvent):
            run.tokens += 1
        if isinstance(told, Completed) and told.finish_reason is FinishReason.CANCELLED and not run.cancel.cancelled:
            if run.wanted is run.member.wanted:
                yield from self._lose(run)  # the machine stopped it, as nobody had asked for so long
                return
            if self._elsewhere(run, lost=True):  # it had too little time, as the machine shall have another model
                return
        if isinstance(told, Completed):
            run.member.tok_s = told.timing.decode_tok_s or run.member.tok_s
            told = replace(told, timing=self._timing(run, told.timing))
        if isinstance(told, (Completed, RequestError)):
            self._end(run)
        yield run, cast("Event | RequestError", told)

    def _lose(self, run: Run) -> Iterator[tuple[Run, Event | RequestError]]:
        """Its machine is lost, or does not know of it."""
        if not run.cancel.cancelled and self._elsewhere(run, lost=True):
            return
        self._end(run)
        if run.cancel.cancelled:
            yield run, Completed(run.cancel.reason, Usage(0, run.tokens), self._timing(run, Timing()))
        elif run.first_at is None:
            yield run, NoMachine()
        else:
            yield run, EngineFailure(reason=Sentence("cluster.lost", name=run.member.name))

    def _elsewhere(self, run: Run, *, lost: bool) -> bool:
        """Send what was not begun to another machine; where it was ``lost``, once."""
        if run.first_at is not None or (lost and run.moved):
            return False
        other = self._place(run.request.visitor, *run.tried, run.member, size=run.prompt_tokens)
        if other is None:
            return False
        if lost and (link := run.member.link) is not None:
            link.send("cancel", run.request.request_id, FinishReason.CANCELLED)
        self._leave(run.member)
        run.tried.append(run.member)
        run.moved = run.moved or lost
        self._send(run, other)
        return True

    def _send(self, run: Run, member: Member) -> None:
        self._turn += 1
        member.runs, member.turn = member.runs + 1, self._turn
        run.member, run.wanted, run.session, run.started_at = member, member.wanted, member.session, self._clock()
        self._homes[run.request.visitor] = member.name
        self._homes.move_to_end(run.request.visitor)
        if len(self._homes) > _HOMES:
            self._homes.popitem(last=False)
        link = member.link
        if link is None or not run.session:
            self._members.news.put((run.session, "", MachineLost()))
        else:
            link.send("submit", run.session, run.request)

    def _end(self, run: Run) -> None:
        self._runs.pop(run.request.request_id, None)
        self._leave(run.member)

    def _leave(self, member: Member) -> None:
        member.runs -= 1
        if member.state != "ready":
            self._resize()

    def _stop_cancelled(self) -> None:
        """Tell the machines of those that were cancelled, again until they have ended."""
        now = self._clock()
        for run in self._runs.values():
            due = run.cancelled_at is None or now - run.cancelled_at > _AGAIN_S
            if run.cancel.cancelled and due and (link := run.member.link) is not None:
                run.cancelled_at = now
                link.send("cancel", run.request.request_id, run.cancel.reason)

    def _place(self, visitor: str, *without: Member, size: int = 0) -> Member | None:
        """The visitor's own machine if it has a place, else the one with the most, the longest unused of several.

        Only one whose context takes a prompt of ``size`` tokens.
        """
        ready = [one for one in self._members.ready(without) if one.info is None or size < one.info.context_limit]
        able = [one for one in ready if one.runs < one.places] or ready
        home = self._homes.get(visitor)
        return min(able, key=lambda one: (one.name != home, one.runs / max(1, one.places), one.turn), default=None)

    def _ask(self, visitor: str, method: str, *args: object) -> object:
        """Ask a machine, and the others if it does not answer or cannot. Raises what the last one did, or NoMachine."""
        tried: list[Member] = []
        refusal: RequestError = NoMachine()
        while (one := self._place(visitor, *tried)) is not None:
            tried.append(one)
            try:
                if (link := one.link) is not None:
                    return link.call(method, *args, timeout_s=self._members.pace.silent_s)
            except MachineLost:
                continue
            except RequestError as error:
                if not _refuses(error):
                    raise
                refusal = error
        raise refusal

    def _timing(self, run: Run, told: Timing) -> Timing:
        """The times of the machine, and what was spent here."""
        now, before = self._clock(), run.started_at - run.submitted_at
        return replace(
            told,
            queue_wait_s=before + told.queue_wait_s,
            ttft_s=None if run.first_at is None else run.first_at - run.submitted_at,
            total_s=now - run.submitted_at,
        )

    def _await(self, wanted: Wanted, how: Loading) -> Member:
        """Wait until a machine has it. Raises what they failed with, NoMachine if they stay lost, and LoadCancelled."""
        seen = self._clock()
        while not how.cancel.cancelled:
            mine = [one for one in self._members.all() if one.wanted is wanted]
            found = next((one for one in mine if one.loaded == wanted.number and one.state != "refused"), None)
            if found is not None:
                return found
            if any(one.state != "lost" for one in mine):
                seen = self._clock()
            failed = [one.why for one in mine if one.state in ("failed", "refused")]
            if failed and all(one.state in ("failed", "refused", "lost") for one in mine):
                raise failed[0] if isinstance(failed[0], ModelError) else ModelError(reason=failed[0])
            if mine and self._clock() - seen > self._members.pace.gone_s:
                raise ModelError(reason=NoMachine())
            progress = next((one.progress for one in mine if one.progress is not None), None)
            if progress is not None:
                how.progress(progress)
            with self._members.changed:
                self._members.changed.wait(_POLL_S)
        raise LoadCancelled(model=wanted.model or "the model")

    def _resize(self) -> None:
        """As many answers at once as the machines that may answer make, beside those that others still make."""
        with self._members.changed:
            if self._worker is not None:
                places = sum(one.places if one.state == "ready" else one.runs for one in self._members.all())
                places = max(places, int(self._members.hopeless()))  # those that wait are told so by `start`
                self._worker.options = replace(self._worker.options, max_running=places)


def _refuses(told: object) -> bool:
    """Whether a machine did not begin an answer that others may make."""
    reason = told.fields.get("reason") if isinstance(told, EngineFailure) else None
    stopped = isinstance(reason, Sentence) and reason.code == "engine.worker_stopped"
    return stopped or isinstance(told, _ELSEWHERE)
