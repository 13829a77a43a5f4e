"""Documents in a prompt: whole where they fit, else the passages that have most to do with the question.

They stand before their question, so that the next question about them begins with what was read already.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from chatglm_backend.core import Message
from chatglm_backend.documents.passages import Passage, passages, ranked
from chatglm_backend.documents.reading import Document
from chatglm_backend.errors import ContextLimitExceeded

# Hardly any token stands for more characters, and a text that is longer still need not be counted.
CHARACTERS_PER_TOKEN = 8


@dataclass(frozen=True, slots=True)
class Asked:
    """A message and the documents that came with it."""

    message: Message
    documents: tuple[Document, ...] = ()


@dataclass(frozen=True, slots=True)
class Placed:
    """Messages with documents in them. ``passages`` are those chosen of ``count``; all documents are whole if none."""

    messages: tuple[Message, ...]
    passages: tuple[Passage, ...] = ()
    count: int = 0


def place(asked: Sequence[Asked], count: Callable[[tuple[Message, ...]], int], limit: int, reserve: int) -> Placed:
    """Put the documents before their messages' texts. ``count`` counts prompt tokens; ``reserve`` of ``limit`` are
    kept for the answer.

    The last user's message is the question. Raises ContextLimitExceeded where not one passage fits.
    """
    room = limit - min(reserve, limit // 4)
    documents = [document for one in asked for document in one.documents]
    full = whole(asked)
    if sum(len(one.content) for one in full) <= limit * CHARACTERS_PER_TOKEN and count(full) <= room:
        return Placed(full)
    parts = passages(documents)
    question = next((one.message.content for one in reversed(asked) if one.message.role == "user"), "")
    order = ranked(parts, question)

    def chosen(most: int) -> Placed:
        kept = tuple(parts[i] for i in sorted(order[:most]))
        return Placed(_messages(asked, kept), kept, len(parts))

    fits, too_many = 0, len(parts) + 1
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        # More than this many characters cannot fit; counting them would only take long.
        some = min(middle, 2 * fits + 8)
        if count(chosen(some).messages) <= room:
            fits = some
        else:
            too_many = some
    if not fits:
        raise ContextLimitExceeded(prompt_tokens=count(chosen(1).messages), limit=limit)
    return chosen(fits)


def whole(asked: Sequence[Asked]) -> tuple[Message, ...]:
    """The messages, with all that their documents say."""
    return tuple(replace(one.message, content=document_text(one.documents) + one.message.content) for one in asked)


def document_text(documents: Sequence[Document]) -> str:
    """What documents say, as it stands in a prompt."""
    return "".join(
        _headed(Passage(0, one.name, page if one.numbered else None, text))
        for one in documents
        for page, text in enumerate(one.pages, 1)
        if text
    )


def _messages(asked: Sequence[Asked], kept: Sequence[Passage]) -> tuple[Message, ...]:
    found, first = [], 0
    for one in asked:
        own = range(first, first + len(one.documents))
        head = "".join(_headed(part) for part in kept if part.document in own)
        found.append(replace(one.message, content=head + one.message.content))
        first += len(one.documents)
    return tuple(found)


def _headed(part: Passage) -> str:
    return f"[{part.label}]\n{part.text}\n\n"
