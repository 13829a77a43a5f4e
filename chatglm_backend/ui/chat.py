"""What happens when people use the Chat page: turns in, views out. Pure Python, no components."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chatglm_backend.core import FinishReason, GenerationParams, GenerationRequest, Message, ModelInfo, ModelState
from chatglm_backend.errors import ChatGLMError
from chatglm_backend.ui.conversation import SYSTEM_FAMILIES, Fitted, Interrupted, Turns, back_to_user, fit, unfinished
from chatglm_backend.ui.i18n import Texts
from chatglm_backend.ui.live import LiveAnswers
from chatglm_backend.ui.ports import PageService
from chatglm_backend.ui.progress import Answer
from chatglm_backend.ui.render import answer_status, context_bar, empty_prompt, timing_panel, used_memory
from chatglm_backend.ui.runner import AnswerRunner

if TYPE_CHECKING:
    from chatglm_backend.ui.history import Kept

__all__ = ["ChatForm", "ChatPresenter", "ChatView"]


@dataclass(frozen=True, slots=True)
class ChatForm:
    """What the visitor set beside the conversation."""

    system: str = ""
    max_new_tokens: float = 512
    temperature: float = 0.0
    top_p: float = 1.0


@dataclass(frozen=True, slots=True)
class ChatView:
    """The Chat page at a moment. ``box`` is ``None`` where what is typed stays as it is.

    ``answer`` is the one in the making or just ended, ``None`` where the view shows no new one.
    """

    turns: Turns
    running: bool
    status: str
    context: str
    timing: str
    box: str | None = None
    answer: Answer | None = None
    fitted: Fitted | None = None

    @property
    def resumable(self) -> bool:
        """Whether there is an answer to go on with."""
        return not self.running and unfinished(self.turns)


class ChatPresenter:
    """The Chat page's logic in one language. ``live`` holds the running answers of all languages' pages.

    ``run`` names one answer among those of a page, for stopping it.
    """

    def __init__(
        self, service: PageService, runner: AnswerRunner, texts: Texts, live: LiveAnswers[Kept] | None = None
    ) -> None:
        self.texts = texts
        self.live: LiveAnswers[Kept] = LiveAnswers() if live is None else live
        self._service = service
        self._runner = runner

    def blank(self) -> ChatView:
        """The page before a conversation."""
        return self._view((), None, None, box="")

    async def send(
        self, session: str, turns: Turns, text: str, form: ChatForm, run: str = ""
    ) -> AsyncGenerator[ChatView, None]:
        """Views of the answer to a new question."""
        if not text.strip():
            view = self._view(turns, None, None)
            yield ChatView(
                turns, running=False, status=empty_prompt(self.texts), context=view.context, timing=view.timing
            )
            return
        async with aclosing(self._answer(session, (*turns, Message("user", text)), form, run)) as views:
            async for view in views:
                yield view

    async def regenerate(
        self, session: str, turns: Turns, index: int, form: ChatForm, run: str = ""
    ) -> AsyncGenerator[ChatView, None]:
        """Views of another answer to the question at or before ``index``; later turns are gone."""
        kept = back_to_user(turns, index)
        if not kept:
            yield self._view(turns, None, None)
            return
        async with aclosing(self._answer(session, kept, form, run)) as views:
            async for view in views:
                yield view

    async def edit(
        self, session: str, turns: Turns, index: int, text: str, form: ChatForm, run: str = ""
    ) -> AsyncGenerator[ChatView, None]:
        """Replace the question at ``index`` and go on from there."""
        kept = back_to_user(turns, index)
        async with aclosing(self.send(session, kept[:-1], text, form, run)) as views:
            async for view in views:
                yield view

    async def go_on(self, session: str, turns: Turns, form: ChatForm, run: str = "") -> AsyncGenerator[ChatView, None]:
        """Views of what follows an interrupted answer, in a round of its own; or of the answer never begun."""
        if turns and turns[-1].role == "user":
            views = self.regenerate(session, turns, len(turns) - 1, form, run)
        else:
            views = self.send(session, turns, self.texts("chat.go_on_text") if turns else "", form, run)
        async with aclosing(views):
            async for view in views:
                yield view

    def undo(self, turns: Turns, index: int) -> ChatView:
        """Take the question at or before ``index`` back into the box; it and all after it are gone."""
        kept = back_to_user(turns, index)
        return self._view(kept[:-1], None, None, box=kept[-1].content if kept else "")

    def stop(self, session: str, run: str = "") -> None:
        """Stop the answer; its text stays."""
        self._runner.stop(_key(session, run))

    def show(self, turns: Turns) -> ChatView:
        """Another conversation; an empty one is a new one."""
        return self._view(turns, None, self._estimate(turns), box="")

    def again(self, view: ChatView) -> ChatView:
        """The same moment for a page that was just opened, in this presenter's language."""
        return self._view(view.turns, view.answer, view.fitted)

    async def _answer(self, session: str, turns: Turns, form: ChatForm, run: str) -> AsyncGenerator[ChatView, None]:
        yield self._view(turns, Answer(), None, box="")
        try:
            fitted = await asyncio.to_thread(self._fit, turns, form)
            request = self._request(session, fitted, form)
        except (ChatGLMError, ValueError, OverflowError) as error:
            failed = Answer()
            failed.fail(error)
            yield self._view(turns, failed, None)
            return
        async with aclosing(self._runner.run(_key(session, run), request)) as answers:
            async for answer in answers:
                yield self._view((*turns, *_turn(answer)), answer, fitted)

    def _fit(self, turns: Turns, form: ChatForm) -> Fitted:
        info = self._service.status().info
        system = form.system.strip()
        if system and info is not None and info.family in SYSTEM_FAMILIES:
            turns = (Message("system", system), *turns)
        if info is None:
            return Fitted(turns, 0, 0)
        reserve = min(int(form.max_new_tokens), info.context_limit // 4)
        return fit(turns, self._count, info.context_limit, reserve)

    def _estimate(self, turns: Turns) -> Fitted | None:
        """How full the context is before the next question."""
        try:
            return self._fit((*turns, Message("user", "")), ChatForm()) if turns else None
        except (ChatGLMError, ValueError):
            return None

    def _count(self, turns: Turns) -> int:
        return len(self._service.preview_prompt(GenerationRequest("count", messages=turns)).ids)

    def _request(self, session: str, fitted: Fitted, form: ChatForm) -> GenerationRequest:
        tokens = int(form.max_new_tokens)
        info = self._service.status().info
        if info is not None and fitted.used:
            tokens = max(1, min(tokens, info.context_limit - fitted.used))
        params = GenerationParams(max_new_tokens=tokens, temperature=float(form.temperature), top_p=float(form.top_p))
        return GenerationRequest(secrets.token_hex(8), session, messages=fitted.messages, params=params)

    def _view(self, turns: Turns, answer: Answer | None, fitted: Fitted | None, box: str | None = None) -> ChatView:
        status = self._service.status()
        info = status.info if status.state is ModelState.READY else None
        return ChatView(
            turns=turns,
            running=answer is not None and answer.running,
            status=answer_status(self.texts, answer, status),
            context=self._context(turns, answer, fitted, info),
            timing=timing_panel(self.texts, answer, info, used_memory()),
            box=box,
            answer=answer,
            fitted=fitted,
        )

    def _context(self, turns: Turns, answer: Answer | None, fitted: Fitted | None, info: ModelInfo | None) -> str:
        if info is None:
            return ""
        used = 0 if fitted is None or not turns else fitted.used + (0 if answer is None else answer.tokens)
        return context_bar(self.texts, used, info.context_limit, 0 if fitted is None else fitted.dropped)


def _turn(answer: Answer) -> Turns:
    """An answer as a turn; none before its first word."""
    text = answer.text
    if not text:
        return ()
    whole = answer.running or answer.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)
    return (Message("assistant", text) if whole else Interrupted("assistant", text),)


def _key(session: str, run: str) -> str:
    return f"{session}/chat{run}"
