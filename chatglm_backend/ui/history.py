"""Keeps what happens on the Chat page: saves answers while they are written, finds conversations again.

One per process. Where nothing can be kept, the page goes on and the visitor is told once per view.
It knows no components.
"""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from chatglm_backend.core import Clock, FinishReason, monotonic_clock
from chatglm_backend.errors import (
    ConversationChanged,
    ConversationGone,
    HistoryDamaged,
    HistoryError,
    HistoryUnavailable,
)
from chatglm_backend.settings import Settings
from chatglm_backend.store.conversations import ConversationStore
from chatglm_backend.store.folder import data_folder, visitor_key
from chatglm_backend.store.records import Conversation, Opened, Place
from chatglm_backend.ui.chat import ChatView
from chatglm_backend.ui.conversation import Interrupted, Turns
from chatglm_backend.ui.progress import Answer
from chatglm_backend.ui.visitor import VisitorSigner

__all__ = ["History", "Kept", "Moved"]

_SAVE_S = 0.0  # what was shown is on the disk: a killed server loses only what nobody has seen


@dataclass(frozen=True, slots=True)
class Kept:
    """A view and where it is kept. ``changed`` says that place and list are to be shown anew."""

    view: ChatView
    place: Place | None
    changed: bool = False
    problem: HistoryError | None = None


@dataclass(frozen=True, slots=True)
class Moved:
    """Another conversation to show, or none."""

    turns: Turns = ()
    place: Place | None = None


class History:
    """Conversations for the page; with ``settings.history`` off, nothing is ever written or read."""

    def __init__(self, settings: Settings, *, clock: Clock = monotonic_clock, save_s: float = _SAVE_S) -> None:
        self.enabled = settings.history
        self.folder: Path = data_folder(settings)
        self.store = ConversationStore(self.folder / "history.sqlite3", retention_days=settings.history_days)
        self._clock = clock
        self._save_s = save_s
        self._lock = threading.Lock()
        self._signer: VisitorSigner | None = None
        self._problem: HistoryUnavailable | None = None

    def signer(self) -> VisitorSigner | None:
        """What signs visitors' cookies; ``None`` where nothing is kept."""
        if not self.enabled:
            return None
        with self._lock:
            if self._signer is None:
                try:
                    self._signer = VisitorSigner(visitor_key(self.folder))
                    self._problem = None
                except HistoryUnavailable as error:
                    self._problem = error
            return self._signer

    def visitor(self, cookies: Mapping[str, str]) -> str | None:
        """Who asks; ``None`` where nothing is kept for them."""
        signer = self.signer()
        return None if signer is None else signer.read(cookies)

    @property
    def problem(self) -> HistoryError | None:
        """Why nothing is kept, or what was set aside."""
        return self._problem or self.store.take_notice()

    async def keep(
        self, visitor: str | None, place: Place | None, views: AsyncGenerator[ChatView, None]
    ) -> AsyncGenerator[Kept, None]:
        """Pass an answer's views on and save it: its question at once, its text before it is shown, its end."""
        writer: _Writer | None = None
        begun = False
        try:
            async with aclosing(views):
                async for view in views:
                    changed, problem = False, None
                    if visitor is not None and not begun and view.answer is not None and view.turns:
                        begun = changed = True
                        opened, problem = await asyncio.to_thread(self._begin, visitor, place, view.turns)
                        place = None if opened is None else opened.place
                        writer = None if opened is None else _Writer(self.store, opened.answer_id)
                    if writer is not None and view.answer is not None:
                        writer.see(view)
                        ended = not view.answer.running
                        if ended or self._clock() - writer.saved_at >= self._save_s:
                            problem = await asyncio.to_thread(writer.save) or problem
                            writer.saved_at = self._clock()
                            changed = changed or ended
                    yield Kept(view, place, changed or problem is not None, problem)
        finally:
            if writer is not None:
                writer.save()  # at once: a closed page's task may not wait any more

    def last_open(self, visitor: str | None) -> tuple[Moved | None, HistoryError | None]:
        """What to show on a page that was just opened."""
        if visitor is None:
            return None, None
        try:
            found = self.store.last_open(visitor)
        except HistoryError as error:
            return None, error
        return (None if found is None else _moved(found)), None

    def leave(self, visitor: str | None) -> HistoryError | None:
        """A new conversation begins; returns why that could not be noted."""
        try:
            if visitor is not None:
                self.store.leave(visitor)
        except HistoryError as error:
            return error
        return None

    def cut(self, visitor: str, place: Place, length: int) -> tuple[Place | None, HistoryError | None]:
        """Keep the first messages; an empty conversation is deleted. Another tab's newer one stays as it is."""
        try:
            after = self.store.cut(visitor, place, length)
            if length == 0:
                self.store.delete(visitor, place.conversation_id)
                return None, None
        except HistoryError as error:
            return None, error
        return after, None

    def carry_out(
        self, visitor: str, action: str, name: str, text: str, place: Place | None
    ) -> tuple[Moved | None, HistoryError | None]:
        """Do what a button of the list asks for; returns what to show instead, if anything."""
        here = place is not None and place.conversation_id == name
        try:
            if action == "open":
                return _moved(self.store.open(visitor, name)), None
            if action == "rename":
                self.store.rename(visitor, name, text)
            elif action == "delete":
                self.store.delete(visitor, name)
                return (Moved() if here else None), None
            elif action == "delete_all":
                self.store.delete_all(visitor)
                return Moved(), None
            elif action == "imported":
                return self.last_open(visitor)
        except HistoryError as error:
            return None, error
        return None, None

    def _begin(self, visitor: str, place: Place | None, turns: Turns) -> tuple[Opened | None, HistoryError | None]:
        try:
            try:
                return self.store.begin(visitor, place, turns), None
            except (ConversationChanged, ConversationGone):
                # Another tab was faster: what this tab shows goes on as a conversation of its own.
                return self.store.begin(visitor, None, turns), None
            except HistoryDamaged:
                return self.store.begin(visitor, None, turns), self.store.take_notice()
        except HistoryError as error:
            return None, error


def _moved(found: Conversation) -> Moved:
    turns = (
        Interrupted(one.role, one.content) if one.role == "assistant" and one.state == "interrupted" else one.message
        for one in found.messages
    )
    return Moved(tuple(turns), found.place)


class _Writer:
    """The row of one answer."""

    def __init__(self, store: ConversationStore, answer_id: int) -> None:
        self.saved_at = float("-inf")
        self._store = store
        self._answer_id = answer_id
        self._text = ""
        self._answer: Answer | None = None
        self._saved: tuple[str, bool] = ("", False)

    def see(self, view: ChatView) -> None:
        """Remember the newest text."""
        self._answer = view.answer
        if view.turns and view.turns[-1].role == "assistant":
            self._text = view.turns[-1].content

    def save(self) -> HistoryError | None:
        """Write what is new; returns why it could not be written."""
        answer = self._answer
        ended = answer is not None and answer.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)
        if not self._text or self._saved == (self._text, ended):
            return None
        try:
            self._store.save_answer(
                self._answer_id, self._text, "complete" if ended else "interrupted", _figures(answer)
            )
        except HistoryError as error:
            return error
        self._saved = (self._text, ended)
        return None


def _figures(answer: Answer | None) -> dict[str, float] | None:
    if answer is None or answer.timing is None:
        return None
    figures = {name: float(v) for name, v in dataclasses.asdict(answer.timing).items() if v is not None}
    return {**figures, "prompt_tokens": float(answer.prompt_tokens), "completion_tokens": float(answer.tokens)}
