"""Passages of documents, and which of them have most to do with a question: BM25.

Words are English words, and pairs of neighbouring Chinese characters: a dictionary of Chinese words would be larger
than all else here and knows no names.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from chatglm_backend.documents.reading import Document

_LENGTH = 500
_WORDS = re.compile(r"[\u3400-\u9fff]+|[^\W\u3400-\u9fff]+")
_ENDS = re.compile(r"(?<=[。！？!?；\n])|(?<=[.;] )")


@dataclass(frozen=True, slots=True)
class Passage:
    """A part of a document. ``page`` is ``None`` where there are no pages; ``document`` counts from 0.

    ``begin`` is where it stands in its page's text, in characters.
    """

    document: int
    name: str
    page: int | None
    text: str
    begin: int = 0

    @property
    def label(self) -> str:
        """Where it stands."""
        return self.name if self.page is None else f"{self.name}, p. {self.page}"


@dataclass(frozen=True, slots=True)
class Sources:
    """What an answer was given of documents: ``passages`` of ``count``, those nearest to the question first.

    With a ``count`` of 0 it was given all, and the passages are only some of the nearest.
    """

    passages: tuple[Passage, ...] = ()
    count: int = 0


def words(text: str) -> list[str]:
    """What is searched by, in order."""
    found: list[str] = []
    for word in _WORDS.findall(text.lower()):
        if "\u3400" <= word[0] <= "\u9fff" and len(word) > 1:
            found += [word[i : i + 2] for i in range(len(word) - 1)]
        else:
            found.append(word)
    return found


def passages(documents: Sequence[Document]) -> list[Passage]:
    """All parts of the documents, in order: some sentences each, never across pages."""
    return [
        Passage(number, one.name, page if one.numbered else None, part.strip(), begin + len(part) - len(part.lstrip()))
        for number, one in enumerate(documents)
        for page, text in enumerate(one.pages, 1)
        for begin, part in _parts(text)
    ]


def nearest(documents: Sequence[Document], question: str, most: int = 3) -> tuple[Passage, ...]:
    """Up to ``most`` passages that share words with the question, the best first."""
    found, asked = passages(documents), set(words(question))
    best = ranked(found, question)[:most]
    return tuple(found[place] for place in best if asked.intersection(words(found[place].text)))


def ranked(found: Sequence[Passage], question: str) -> list[int]:
    """The places in ``found``, the best first; passages that share no word with the question come last, in order."""
    import bm25s
    import numpy as np

    asked = sorted(set(words(question)))
    tokens = [words(one.text) for one in found]
    known = set().union(*tokens)
    asked = [word for word in asked if word in known]
    if not asked:
        return list(range(len(found)))
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # its import asks for every word of debugging
    index = bm25s.BM25()
    index.index(tokens, show_progress=False)
    return [int(place) for place in np.argsort(-index.get_scores(asked), kind="stable")]


def _parts(text: str) -> Iterator[tuple[int, str]]:
    """Where each part begins, and the part."""
    begin = end = 0
    for sentence in _ENDS.split(text):
        for first in range(0, len(sentence), _LENGTH):
            size = min(_LENGTH, len(sentence) - first)
            if text[begin:end].strip() and end - begin + size > _LENGTH:
                yield begin, text[begin:end]
                begin = end
            end += size
    if text[begin:].strip():
        yield begin, text[begin:]
