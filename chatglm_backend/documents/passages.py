"""Passages of documents, and which of them have most to do with a question: BM25.

Words are English words, and pairs of neighbouring Chinese characters: a dictionary of Chinese words would be larger
than all else here and knows no names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from chatglm_backend.documents.reading import Document

_LENGTH = 500
_WORDS = re.compile(r"[\u3400-\u9fff]+|[^\W\u3400-\u9fff]+")
_ENDS = re.compile(r"(?<=[。！？!?；\n])|(?<=[.;] )")


@dataclass(frozen=True, slots=True)
class Passage:
    """A part of a document. ``page`` is ``None`` where there are no pages; ``document`` counts from 0."""

    document: int
    name: str
    page: int | None
    text: str

    @property
    def label(self) -> str:
        """Where it stands."""
        return self.name if self.page is None else f"{self.name}, p. {self.page}"


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
        Passage(number, one.name, page if one.numbered else None, part)
        for number, one in enumerate(documents)
        for page, text in enumerate(one.pages, 1)
        for part in _parts(text)
    ]


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
    index = bm25s.BM25()
    index.index(tokens, show_progress=False)
    return [int(place) for place in np.argsort(-index.get_scores(asked), kind="stable")]


def _parts(text: str) -> Iterator[str]:
    part = ""
    for sentence in _ENDS.split(text):
        for begin in range(0, len(sentence), _LENGTH):
            piece = sentence[begin : begin + _LENGTH]
            if part.strip() and len(part) + len(piece) > _LENGTH:
                yield part.strip()
                part = ""
            part += piece
    if part.strip():
        yield part.strip()
