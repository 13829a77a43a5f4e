"""Documents in a conversation on the page: what the model is given of them, and how they look. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from html import escape

from chatglm_backend.core import Message
from chatglm_backend.documents.passages import Passage, Sources, nearest, ranked
from chatglm_backend.documents.prompt import CHARACTERS_PER_TOKEN, Asked, place, whole
from chatglm_backend.documents.reading import Document
from chatglm_backend.sentences import Texts
from chatglm_backend.store.records import Attached, Sourced
from chatglm_backend.ui.conversation import Fitted, Turns, fit

_CARDS = re.compile(r"^<div class=\"cg-docs\">.*?</div>\s*", re.DOTALL)


def attached_to(turns: Iterable[Message]) -> tuple[Document, ...]:
    """The documents that came with any of these turns, in order."""
    return tuple(document for turn in turns if isinstance(turn, Attached) for document in turn.documents)


def fit_with_documents(
    turns: Turns, count: Callable[[Turns], int], limit: int, reserve: int, rounds: int = 0
) -> Fitted:
    """As :func:`fit`, with what the documents say before their questions.

    Documents stay when their round is left out. They are whole as long as they fit beside the last question; else the
    rounds take at most half of the room, and the rest is for the passages that suit the question. Raises
    ContextLimitExceeded where not one fits.
    """
    documents = attached_to(turns)
    if not any(any(one.pages) for one in documents):
        return fit(turns, count, limit, reserve, rounds)
    question = next((turn.content for turn in reversed(turns) if turn.role == "user"), "")
    if sum(len(page) for one in documents for page in one.pages) <= limit * CHARACTERS_PER_TOKEN:
        full = _fit_whole(turns, count, limit, reserve, rounds)
        if full.used + reserve <= limit:
            return replace(full, sources=Sources(nearest(documents, question)))
    bare = fit(turns, count, (limit - reserve) // 2, 0, rounds)
    placed = place(_asked(turns, bare.messages), count, limit, reserve)
    best = ranked(placed.passages, question)
    sources = Sources(tuple(placed.passages[i] for i in best), placed.count)
    return Fitted(placed.messages, count(placed.messages), bare.dropped, sources)


def _fit_whole(turns: Turns, count: Callable[[Turns], int], limit: int, reserve: int, rounds: int) -> Fitted:
    """As :func:`fit`, with all that the documents say. They are long: they are not counted for every round."""

    def counted(some: Turns) -> int:
        return count(whole(_asked(turns, some)))

    last = max((i for i, turn in enumerate(turns) if turn.role == "user"), default=0)
    added = counted(turns[last:]) - count(turns[last:])
    bare = fit(turns, count, limit - added, reserve, rounds)
    full = fit(bare.messages, counted, limit, reserve)
    return replace(full, messages=whole(_asked(turns, full.messages)), dropped=bare.dropped + full.dropped)


def _asked(turns: Turns, some: Turns) -> list[Asked]:
    """The last turns, ``some``, each with its documents, and the first with those of all before it."""
    found = [Asked(turn, attached_to((turn,))) for turn in some]
    left_out = attached_to(turns[: len(turns) - len(some)])
    return [Asked(found[0].message, (*left_out, *found[0].documents)), *found[1:]]


def waiting_cards(t: Texts, documents: Sequence[Document], room: int = 0) -> str:
    """The documents that go with the next question, each with a button that takes it away.

    Of more than ``room`` tokens, where that is known, the model will not be given all, and they say so.
    """
    cards = ""
    for one in documents:
        remove = escape(t("document.remove", name=one.name))
        cards += (
            f'<li class="cg-doc">{_label(t, one)}<button type="button" class="cg-mini" data-document="{one.id}" '
            f'aria-label="{remove}" title="{remove}">✕</button></li>'
        )
    if room and sum(one.tokens for one in documents) > room:
        cards += f'<li class="cg-note">{escape(t("document.in_part"))}</li>'
    return f'<ul class="cg-docs" aria-label="{escape(t("document.attached"))}">{cards}</ul>' if cards else ""


def document_cards(t: Texts, turn: Message) -> list[str]:
    """A question's documents, or an answer's sources, as Markdown; nothing for any other turn."""
    if isinstance(turn, Attached):
        cards = "".join(f'<span class="cg-doc">{_label(t, one)}</span>' for one in turn.documents)
        return [f'<div class="cg-docs">{cards}</div>']
    if isinstance(turn, Sourced) and turn.sources is not None:
        return [_sources(t, turn.sources)]
    return []


def without_cards(markdown: str) -> str:
    """A question as it was typed, without the cards above it."""
    return _CARDS.sub("", markdown)


def _label(t: Texts, one: Document) -> str:
    length = sum(map(len, one.pages))
    if not one.pages:
        said = t("document.elsewhere")
    elif one.tokens:
        said = t("document.tokens", tokens=f"{one.tokens:,}")
    else:
        said = t("document.characters", count=f"{length:,}")
    return f"<strong>{_plain(one.name)}</strong> <small>{escape(said)}</small>"


def _plain(text: str) -> str:
    """Text inside HTML inside Markdown, in which two prices are no formula."""
    return escape(text).replace("$", "&#36;").replace("\\", "&#92;")


def _sources(t: Texts, sources: Sources) -> str:
    code = "document.passages" if sources.count else "document.whole"
    head = t(code, chosen=len(sources.passages), count=sources.count)
    note = "" if sources.count or not sources.passages else f"<p><small>{escape(t('document.nearest'))}</small></p>"
    # A blank line would end the HTML, and what follows would be Markdown.
    parts = "".join(
        f"<p><strong>{_plain(where(t, one))}</strong><br>{'<br>'.join(map(_plain, _lines(one)))}</p>"
        for one in sources.passages
    )
    return f'<details class="cg-card cg-sources"><summary>{escape(head)}</summary>{note}{parts}</details>'


def _lines(one: Passage) -> list[str]:
    return [line for line in one.text.splitlines() if line.strip()]


def where(t: Texts, one: Passage) -> str:
    """The document and the page that a passage stands in."""
    return one.name if one.page is None else t("document.page", name=one.name, page=one.page)
