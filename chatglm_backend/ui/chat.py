"""What happens when people use the Chat page: turns in, views out. Pure Python, no components."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from chatglm_backend.core import (
    FinishReason,
    GenerationParams,
    GenerationRequest,
    KeptAs,
    Message,
    ModelInfo,
    ModelState,
    Role,
)
from chatglm_backend.documents.passages import Sources
from chatglm_backend.documents.reading import Document
from chatglm_backend.errors import ChatGLMError, ConversationChanged, HistoryError
from chatglm_backend.sentences import Texts
from chatglm_backend.service import Service
from chatglm_backend.store.records import Attached, Calling, Place, Sourced, Versions
from chatglm_backend.ui.adapters import AdapterChoice, adapter_choice
from chatglm_backend.ui.answers import Caller, PageAnswer, PageAnswers, Watch
from chatglm_backend.ui.attached import attached_to, fit_with_documents, without_cards
from chatglm_backend.ui.conversation import (
    Fitted,
    Interrupted,
    Turns,
    back_to_user,
    unfinished,
)
from chatglm_backend.ui.history import History, Moved
from chatglm_backend.ui.html import named
from chatglm_backend.ui.progress import Answer
from chatglm_backend.ui.render import answer_status, context_bar, empty_prompt, newer_state, timing_panel, used_memory
from chatglm_backend.ui.tools import card_content, read_tools, to_send


@dataclass(frozen=True, slots=True)
class ChatForm:
    """What the visitor set beside the conversation. ``params`` raises InvalidRequest for bad numbers.

    ``tools`` is a JSON list, ``adapter`` names a fine-tune. ``attached`` are the documents that are left for the next
    question, ``None`` where those stay. ``shown`` names the answer that stands on the page; ``accepted`` is called once
    what is asked is not given back any more.
    """

    params: Callable[[], GenerationParams]
    system: str = ""
    tools: str = ""
    adapter: str = ""
    attached: tuple[Document, ...] | None = None
    shown: str = ""
    accepted: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class ChatView:
    """The Chat page at a moment.

    ``taken`` names the answer whose question leaves the box, in which ``put`` goes before what is typed meanwhile.
    ``id`` names the answer that is being written, empty where there is none. ``place`` is where the conversation
    is kept; ``changed`` says that place and list are to be shown anew. ``adapter`` is the fine-tune to choose,
    ``None`` where the choice stays. ``attached`` are documents for the next question, ``None`` where those stay.
    ``versions`` says which of how many each kept turn is, ``None`` where turns and versions are those that are shown.
    """

    turns: Turns
    running: bool
    status: str
    context: str
    timing: str
    taken: str = ""
    put: str = ""
    id: str = ""
    place: Place | None = None
    changed: bool = False
    problem: HistoryError | None = None
    adapter: str | None = None
    attached: tuple[Document, ...] | None = None
    versions: Versions | None = ()

    @property
    def resumable(self) -> bool:
        """Whether there is an answer to go on with."""
        return not self.running and unfinished(self.turns)


class ChatPresenter:
    """The Chat page's logic in one language."""

    def __init__(self, service: Service, answers: PageAnswers, history: History, texts: Texts) -> None:
        self.texts = texts
        self.answers = answers
        self._history = history
        self._service = service

    def blank(self) -> ChatView:
        """The page before a conversation."""
        return self._view(())

    def asked(self, action: str, turns: Turns, index: int, text: str, documents: tuple[Document, ...] = ()) -> Turns:
        """The turns to be answered after ``send``, ``edit``, ``regenerate`` or ``go_on``; empty for nothing.

        ``send`` takes ``documents`` along. ``edit`` replaces the question at or before ``index``, ``regenerate``
        answers it again, ``edit_answer`` has the answer at ``index`` go on from another beginning: what followed is in
        another version then, documents stay. What follows a call of a tool is its result. An interrupted answer goes
        on where it ended; a question without one is asked again.
        """
        role: Role = "tool" if action == "send" and turns and isinstance(turns[-1], Calling) else "user"
        if action == "go_on":
            return turns if unfinished(turns) else ()
        if action == "regenerate":
            return back_to_user(turns, index)
        if action == "edit_answer":
            answer = index < len(turns) and turns[index].role == "assistant" and text.strip()
            return (*turns[:index], Interrupted("assistant", text)) if answer else ()
        given = documents if action == "send" else ()
        if action == "edit":
            kept = back_to_user(turns, index)
            given, text = attached_to(kept[-1:]), without_cards(text)
            if kept and kept[-1].role == "tool":
                role, text = "tool", card_content(text)
            turns = kept[:-1]
        if not text.strip():
            return ()
        return (*turns, Attached(role, text, documents=given) if given and role == "user" else Message(role, text))

    async def answer(
        self, caller: Caller, place: Place | None, turns: Turns, asked: Turns, form: ChatForm
    ) -> AsyncGenerator[ChatView, None]:
        """Views of the answer to ``asked``; without it, ``turns`` as they are."""
        before = self._lasting(caller, form.shown)
        if not asked:
            status = named(empty_prompt(self.texts), before)
            yield replace(await self._still(turns), id=before, status=status, versions=None)
            return
        opened, problem, sent = None, None, len(asked) > len(turns)
        if caller.keeper is not None:
            opened, problem = await asyncio.to_thread(self._history.begin, caller.keeper, place, asked, form.adapter)
        if isinstance(problem, ConversationChanged) and place is not None:
            status = newer_state(self.texts, problem, place)
            put = "" if sent else _typed(turns, asked)  # what is sent stands in the box still
            yield replace(await self._still(turns), status=status, versions=None, put=put)
            return
        watch = self.answers.open("chat", caller)
        answer = watch.answer
        answer.turns, answer.problem = asked, problem
        begun = asked[-1].content if asked[-1].role == "assistant" else ""
        if opened is not None:
            answer.place, answer.versions = opened.place, opened.versions
            answer.keeping = self._history.keeper(opened, begun)
        at = len(asked) - bool(begun)
        replaced = turns[at].content if len(turns) > at else ""
        taken = answer.id if sent else ""
        yield replace(self._of(answer, Answer(), changed=True), attached=form.attached, taken=taken)
        answers, accepted = self.answers.follow(watch, partial(self._request, answer, form, replaced)), False
        async with aclosing(self._views(watch, answers)) as views:
            async for view in views:
                if view.running or watch.turned or answer.ticket is not None:
                    if answer.ticket is not None and not accepted:
                        form.accepted()
                        accepted = True
                    yield view
                    continue
                moved = Moved(turns, place)
                if caller.keeper is not None and opened is not None:
                    moved = await asyncio.to_thread(self._history.withdraw, caller.keeper, opened)
                yield replace(
                    await self._still(moved.turns), id=before, status=named(view.status, before), taken=taken,
                    put=_typed(turns, asked), place=moved.place, versions=moved.versions, changed=True,
                    attached=form.attached if form.attached is None else attached_to(asked[-1:]),
                )  # fmt: skip

    def choice(self, chosen: str | None) -> AdapterChoice:
        """Which fine-tunes the page offers now; a conversation's own also where it is not loaded."""
        return adapter_choice(self.texts, self._service.status().info, chosen, lasting=True)

    async def show(
        self, caller: Caller, moved: Moved, problem: HistoryError | None, *, fresh: bool = False
    ) -> AsyncGenerator[ChatView, None]:
        """Another conversation, and the answer that is being written in it, if there is one.

        ``fresh``: the page was just opened. What was asked there meanwhile is not given up for an earlier conversation.
        """
        still = replace(
            await self._still(moved.turns),
            put=moved.put,
            place=moved.place,
            changed=True,
            problem=problem,
            adapter=moved.adapter,
            attached=moved.attached,
            versions=moved.versions,
        )
        if fresh and self.answers.watches("chat", caller):
            return
        self.answers.turn("chat", caller, still)
        watch = None
        if moved.place is not None:
            watch = self.answers.resume("chat", caller, lambda one: one.place == moved.place)
        if watch is None:
            yield still
            return
        async with aclosing(self._views(watch, self.answers.follow(watch), changed=True)) as views:
            async for view in views:
                yield replace(view, adapter=moved.adapter) if view.changed else view

    async def again(self, caller: Caller, name: str) -> AsyncGenerator[ChatView, None]:
        """The answer of this name with its conversation, where nothing is kept; nothing if it is not known any more."""
        watch = self.answers.again("chat", caller, name)
        if watch is not None:
            async with aclosing(self._views(watch, self.answers.follow(watch), changed=True)) as views:
                async for view in views:
                    yield view

    def undo(self, turns: Turns, index: int) -> Moved:
        """The turns without the question at or before ``index`` and all after it; that question goes into the box."""
        kept = back_to_user(turns, index)
        asked = kept[-1:]
        return Moved(kept[:-1], None, asked[0].content if asked else "", attached=attached_to(asked) or None)

    async def _views(
        self, watch: Watch, answers: AsyncGenerator[Answer, None], *, changed: bool = False
    ) -> AsyncGenerator[ChatView, None]:
        async with aclosing(answers):
            async for answer in answers:
                yield self._of(watch.answer, answer, changed=changed or not answer.running)
                changed = False
        if watch.instead is not None:
            yield watch.instead

    def _lasting(self, caller: Caller, name: str) -> str:
        """The name, if it is by this alone that a page loaded anew finds what it showed."""
        found = self.answers.known("chat", caller, name)
        return name if found is not None and found.keeping is None else ""

    async def _still(self, turns: Turns) -> ChatView:
        """The page between two answers."""
        return self._view(turns, None, await asyncio.to_thread(self._estimate, turns))

    def _fit(
        self, turns: Turns, system: str, max_new_tokens: int, functions: Sequence[Mapping[str, Any]] = ()
    ) -> Fitted:
        info = self._service.status().info

        def sent(turns: Turns) -> Turns:
            return to_send(turns, system.strip(), functions)

        if info is None:
            return Fitted(sent(turns), 0, 0)
        reserve = min(max_new_tokens, info.context_limit // 4)
        fitted = fit_with_documents(
            turns, lambda some: self._count(sent(some)), info.context_limit, reserve, info.chat_rounds
        )
        return replace(fitted, messages=sent(fitted.messages))

    def _estimate(self, turns: Turns) -> Fitted | None:
        """How full the context is before the next question."""
        try:
            return self._fit((*turns, Message("user", "")), "", 512) if turns else None
        except (ChatGLMError, ValueError):
            return None

    def _count(self, turns: Turns) -> int:
        return len(self._service.preview_prompt(GenerationRequest("count", messages=turns)).ids)

    def _request(self, answer: PageAnswer, form: ChatForm, replaced: str) -> GenerationRequest:
        params = form.params()
        info = self._service.status().info
        functions = read_tools(form.tools) if info is not None and info.tools else []
        answer.tools = tuple(str(function["name"]) for function in functions)
        answer.fitted = fitted = self._fit(answer.turns, form.system, params.max_new_tokens, functions)
        if fitted.sources is not None and answer.keeping is not None:
            answer.problem = answer.keeping.save_sources(fitted.sources) or answer.problem
        if info is not None and fitted.used:
            room = max(1, min(params.max_new_tokens, info.context_limit - fitted.used))
            params = replace(params, max_new_tokens=room)
        return GenerationRequest(
            answer.id,
            answer.visitor,
            messages=fitted.messages,
            params=params,
            adapter=form.adapter,
            kept_as=None if answer.place is None else KeptAs(answer.visitor, answer.place.conversation_id),
            predicted=replaced,
        )

    def _of(self, one: PageAnswer, answer: Answer, *, changed: bool = False) -> ChatView:
        """The page with an answer."""
        problem, one.problem = one.problem, None
        sources = None if one.fitted is None else one.fitted.sources
        view = self._view(_with_answer(one.turns, answer, sources), answer, one.fitted)
        return replace(
            view, id=one.id, place=one.place, changed=changed or problem is not None, problem=problem,
            versions=one.versions, status=named(view.status, one.id if one.keeping is None else ""),
        )  # fmt: skip

    def _view(self, turns: Turns, answer: Answer | None = None, fitted: Fitted | None = None) -> ChatView:
        status = self._service.status()
        info = status.info if status.state is ModelState.READY else None
        return ChatView(
            turns=turns,
            running=answer is not None and answer.running,
            status=answer_status(self.texts, answer, status),
            context="" if info is None else self._context(turns, answer, fitted, info),
            timing=timing_panel(self.texts, answer, info, used_memory()),
        )

    def _context(self, turns: Turns, answer: Answer | None, fitted: Fitted | None, info: ModelInfo) -> str:
        used = 0 if fitted is None or not turns else fitted.used + (0 if answer is None else answer.tokens)
        dropped = 0 if fitted is None else fitted.dropped
        return context_bar(self.texts, used, info.context_limit, dropped, info.chat_rounds)


def _with_answer(turns: Turns, answer: Answer, sources: Sources | None) -> Turns:
    """What was asked, with the answer so far; without one before its first word.

    What it was given of documents is told at its end.
    """
    begun = turns[-1].content if turns[-1].role == "assistant" else ""
    text, asked = begun + answer.text, turns[:-1] if begun else turns
    if answer.calls and not answer.running:
        return (*asked, Calling("assistant", text, sources=sources, calls=answer.calls))
    if not text:
        return asked
    whole = answer.finish_reason is FinishReason.STOP
    if answer.running or (sources is None and whole):
        return (*asked, Message("assistant", text))
    return (*asked, (Sourced if whole else Interrupted)("assistant", text, sources=sources))


def _typed(turns: Turns, asked: Turns) -> str:
    """What goes back into the box when ``asked`` was refused; nothing where it is in ``turns``."""
    before = [turn.content for turn in turns[len(asked) - 1 : len(asked)]]
    return "" if before == [asked[-1].content] else asked[-1].content
