"""What is kept: conversations and their messages, as frozen records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from chatglm_backend.core import Message, Role
from chatglm_backend.documents.passages import Sources
from chatglm_backend.documents.reading import Document
from chatglm_backend.tokenizers.tools import ToolCall

MessageState = Literal["complete", "interrupted"]
"""An answer counts as interrupted until its end was written: a crash leaves the right word behind."""


Versions = tuple[tuple[int, int], ...]
"""Of each message of a branch, which of how many versions it is, both from 1."""


@dataclass(frozen=True, slots=True)
class Attached(Message):
    """A question with the documents that came with it."""

    documents: tuple[Document, ...] = ()


@dataclass(frozen=True, slots=True)
class Sourced(Message):
    """An answer about documents, and what it was given of them."""

    sources: Sources | None = None


@dataclass(frozen=True, slots=True)
class Calling(Sourced):
    """An answer that calls tools; ``content`` is what it says before."""

    calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tab stands: a conversation, and the revision of it that the tab has seen."""

    conversation_id: str
    revision: int


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """One turn. ``timing`` holds figures by name, empty for questions; ``created`` is Unix time in seconds."""

    role: Role
    content: str
    state: MessageState = "complete"
    timing: Mapping[str, float] | None = None
    created: float = 0.0
    calls: tuple[ToolCall, ...] = ()
    documents: tuple[Document, ...] = ()
    sources: Sources | None = None

    @classmethod
    def of(cls, turn: Message) -> StoredMessage:
        """A turn of a conversation."""
        return cls(
            turn.role,
            turn.content,
            calls=turn.calls if isinstance(turn, Calling) else (),
            documents=turn.documents if isinstance(turn, Attached) else (),
            sources=turn.sources if isinstance(turn, Sourced) else None,
        )

    @property
    def message(self) -> Message:
        """The turn as a conversation holds it."""
        if self.calls:
            return Calling(self.role, self.content, sources=self.sources, calls=self.calls)
        if self.documents:
            return Attached(self.role, self.content, documents=self.documents)
        if self.sources is not None:
            return Sourced(self.role, self.content, sources=self.sources)
        return Message(self.role, self.content)


@dataclass(frozen=True, slots=True)
class Summary:
    """A line of the list. Times are Unix times in seconds."""

    id: str
    title: str
    created: float
    updated: float


@dataclass(frozen=True, slots=True)
class Conversation:
    """The chosen branch of a conversation, oldest message first.

    ``adapter`` names the fine-tune that answers, empty for none.
    """

    id: str
    title: str
    created: float
    updated: float
    revision: int
    messages: tuple[StoredMessage, ...]
    adapter: str = ""
    versions: Versions = ()

    @property
    def place(self) -> Place:
        """Where a tab that shows it stands."""
        return Place(self.id, self.revision)


@dataclass(frozen=True, slots=True)
class Opened:
    """What is asked was kept; its answer is written to ``answer_id``.

    ``added`` is the first message that is new, 0 where none is, and ``before`` the version chosen in its place before.
    """

    place: Place
    answer_id: int
    versions: Versions = ()
    added: int = 0
    before: int = 0
