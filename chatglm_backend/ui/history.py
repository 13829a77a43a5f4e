"""Keeps what happens on the Chat page: saves answers while they are written, finds conversations again.

One per process. Where nothing can be kept, the page goes on and the visitor is told.
It knows no components.
"""

from __future__ import annotations

import dataclasses
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from chatglm_backend.core import FinishReason, KeptAs
from chatglm_backend.documents.passages import Sources
from chatglm_backend.documents.reading import Document
from chatglm_backend.errors import (
    ConversationGone,
    HistoryDamaged,
    HistoryError,
    HistoryRepaired,
    HistoryReplaced,
    HistoryUnavailable,
)
from chatglm_backend.settings import Settings
from chatglm_backend.store.conversations import ConversationStore
from chatglm_backend.store.folder import data_folder, visitor_key
from chatglm_backend.store.records import Conversation, MessageState, Opened, Place, Versions
from chatglm_backend.ui.conversation import Interrupted, Turns
from chatglm_backend.ui.progress import Answer
from chatglm_backend.ui.visitor import VisitorSigner

_ALL = 1_000_000
_T = TypeVar("_T")


def once_repaired(act: Callable[[], _T]) -> _T:
    """Do it, and again where it met damage that was put right, or a file that was replaced. Raises what it raises."""
    try:
        return act()
    except (HistoryRepaired, HistoryReplaced):
        return act()


@dataclass(frozen=True, slots=True)
class Moved:
    """Another conversation to show, or none; ``put`` is what goes into the box, before what is typed there.

    ``adapter`` is the fine-tune that it was held with, ``None`` for the one that is chosen. ``attached`` are documents
    for the next question, ``None`` for those that are there.
    """

    turns: Turns = ()
    place: Place | None = None
    put: str = ""
    adapter: str | None = None
    attached: tuple[Document, ...] | None = None
    versions: Versions = ()


@dataclass(frozen=True, slots=True)
class Command:
    """What a button of the list asks for; an empty ``action`` is nothing."""

    action: str = ""
    id: str = ""
    text: str = ""


class History:
    """Conversations for the page; with ``settings.history`` off, nothing is ever written or read."""

    def __init__(self, settings: Settings, forget: Callable[[KeptAs], None] = lambda _: None) -> None:
        """``forget`` deletes what else is kept of a conversation, or without its name of all of a visitor's."""
        self._forget = forget
        self.enabled = settings.history
        self.folder: Path = data_folder(settings)
        self.store = ConversationStore(self.folder / "history.sqlite3", retention_days=settings.history_days)
        self._lock = threading.Lock()
        self._signer: VisitorSigner | None = None
        self._stand_in = VisitorSigner(secrets.token_bytes(32), lasting=False)
        self._problem: HistoryUnavailable | None = None

    def signer(self) -> VisitorSigner:
        """What signs visitors' cookies; where nothing can be kept, with a key of this process only."""
        if not self.enabled:
            return self._stand_in
        with self._lock:
            if self._signer is None:
                try:
                    self._signer = VisitorSigner(visitor_key(self.folder))
                    self._problem = None
                except HistoryUnavailable as error:
                    self._problem = error
            return self._signer or self._stand_in

    def visitor(self, cookies: Mapping[str, str]) -> str | None:
        """Whose conversations are kept; ``None`` where nothing is."""
        signer = self.signer()
        return signer.read(cookies) if signer.lasting else None

    def name_of(self, cookies: Mapping[str, str], address: str | None) -> str:
        """The name of whoever asks, also where nothing is kept; those without a cookie share their address's."""
        return self.signer().read(cookies) or f"page:{address or 'local'}"

    @property
    def problem(self) -> HistoryError | None:
        """Why nothing is kept, or what was set aside."""
        return self._problem or self.store.take_notice()

    def begin(
        self, visitor: str, place: Place | None, turns: Turns, adapter: str = ""
    ) -> tuple[Opened | None, HistoryError | None]:
        """Keep what is asked of the fine-tune ``adapter``; the answer is kept at ``answer_id``.

        Where another tab was faster, nothing is kept and the error is :class:`ConversationChanged`.
        """
        try:
            try:
                return once_repaired(lambda: self.store.begin(visitor, place, turns, adapter)), None
            except (ConversationGone, HistoryDamaged):
                # Deleted in another tab, or with all: what this tab shows goes on as a conversation of its own.
                return self.store.begin(visitor, None, turns, adapter), self.store.take_notice()
        except HistoryError as error:
            return None, error

    def keeper(self, opened: Opened | None, begun: str = "") -> AnswerKeeper | None:
        """What keeps the answer to a kept question; ``begun`` is what there is of it already."""
        return None if opened is None else AnswerKeeper(self.store, opened, begun)

    def withdraw(self, visitor: str, opened: Opened | None) -> Moved:
        """What was asked was refused: it is not kept. Returns what is, or an empty page."""
        if opened is None:
            return Moved()
        try:
            found = once_repaired(lambda: self.store.withdraw(visitor, opened))
        except HistoryError:
            return Moved()
        return Moved() if found is None else _moved(found)

    def last_open(self, visitor: str) -> Moved | None:
        """What to show on a page that was just opened. Raises HistoryError."""
        found = self.store.last_open(visitor)
        return None if found is None else _moved(found)

    def leave(self, visitor: str) -> None:
        """A new conversation begins. Raises HistoryError."""
        self.store.leave(visitor)

    def cut(self, visitor: str, place: Place, length: int) -> Moved:
        """Keep the first messages, or a former version of the next; an empty conversation is deleted.

        Raises HistoryError.
        """
        found = self.store.cut(visitor, place, length)
        if found.messages:
            return _moved(found)
        self._delete(visitor, place.conversation_id)
        return Moved()

    def carry_out(self, visitor: str, asked: Command, place: Place | None) -> Moved | None:
        """Do what a button of the list asks for; returns what to show instead, if anything. Raises HistoryError."""
        if asked.action in ("open", "reload"):
            return _moved(self.store.open(visitor, asked.id))
        if asked.action in ("before", "after") and place is not None and asked.id.isdecimal():
            step = -1 if asked.action == "before" else 1
            return _moved(self.store.switch(visitor, place, int(asked.id), step))
        if asked.action == "imported":
            return self.last_open(visitor)
        if asked.action in ("save_prompt", "replace_prompt"):
            self.store.prompts.save(visitor, asked.id, asked.text, replace=asked.action == "replace_prompt")
        elif asked.action == "delete_prompt":
            self.store.prompts.delete(visitor, asked.id)
        elif asked.action == "rename":
            self.store.rename(visitor, asked.id, asked.text)
        elif asked.action == "delete":
            self._delete(visitor, asked.id)
            return Moved() if place is not None and place.conversation_id == asked.id else None
        elif asked.action == "delete_all":
            for one in self.store.list(visitor, limit=_ALL):
                self._forget(KeptAs(visitor, one.id))
            self.store.delete_all(visitor)
            self._forget(KeptAs(visitor, ""))
            return Moved()
        return None

    def _delete(self, visitor: str, conversation: str) -> None:
        self.store.delete(visitor, conversation)
        self._forget(KeptAs(visitor, conversation))


def _moved(found: Conversation) -> Moved:
    turns = (
        Interrupted(one.role, one.content, sources=one.sources)
        if one.role == "assistant" and one.state == "interrupted"
        else one.message
        for one in found.messages
    )
    return Moved(tuple(turns), found.place, adapter=found.adapter, versions=found.versions)


class AnswerKeeper:
    """The row of one answer. Thread-safe: all who read the answer save it, before they show it."""

    def __init__(self, store: ConversationStore, opened: Opened, begun: str = "") -> None:
        self._store = store
        self._opened = opened
        self._begun = begun
        self._lock = threading.Lock()
        self._saved = (-1, False)

    def save_sources(self, sources: Sources) -> HistoryError | None:
        """Write what the answer is given of documents; returns why it could not be written."""
        try:
            self._store.save_sources(self._opened, sources)
        except HistoryError as error:
            return error
        return None

    def save(self, answer: Answer) -> HistoryError | None:
        """Write what is new; returns why it could not be written."""
        text, ended = answer.text, answer.finish_reason is FinishReason.STOP
        with self._lock:
            new = text or answer.calls or (self._begun and ended)
            if not new or (len(text), ended) <= self._saved:
                return None
            state: MessageState = "complete" if ended else "interrupted"
            try:
                self._store.save_answer(self._opened, self._begun + text, state, _figures(answer), answer.calls)
            except HistoryError as error:
                return error
            self._saved = (len(text), ended)
        return None


def _figures(answer: Answer) -> dict[str, float] | None:
    if answer.timing is None:
        return None
    figures = {name: float(v) for name, v in dataclasses.asdict(answer.timing).items() if v is not None}
    return {**figures, "prompt_tokens": float(answer.prompt_tokens), "completion_tokens": float(answer.tokens)}
