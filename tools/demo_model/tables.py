"""Reads what was written by hand: the training tables and the evaluation sets. Nothing of tokens or models."""

from __future__ import annotations

import functools
import json
import lzma
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ByLanguage = dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class Topic:
    """One thing the model can explain, with its answer in both languages; a fact has no terms."""

    key: str
    terms: ByLanguage
    questions: ByLanguage
    answers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Capital:
    """A country and its capital in both languages."""

    country: dict[str, str]
    city: dict[str, str]


@dataclass(frozen=True, slots=True)
class Tables:
    """Everything in ``data/training.json.xz``; the README says what each part is."""

    topics: list[Topic]
    facts: list[Topic]
    capitals: list[Capital]
    words: list[tuple[str, str]]
    names: ByLanguage
    syllables: dict[str, list[str]]
    unknown: dict[str, list[str]]
    sentences: dict[str, dict[str, str]]
    forms: dict[str, ByLanguage]
    families: list[dict[str, dict[str, Any]]]
    in_other_language: dict[str, list[str]]
    stories: dict[str, dict[str, list[str]]]
    operators: dict[str, dict[str, list[str]]]
    sum_parts: dict[str, dict[str, list[str]]]
    working: dict[str, dict[str, str]]
    swaps: dict[str, list[list[str]]]


def read_data(name: str) -> dict[str, Any]:
    """One of the files of ``data/``."""
    found: dict[str, Any] = json.loads(lzma.decompress((HERE / "data" / f"{name}.json.xz").read_bytes()))
    return found


@functools.cache
def read_tables() -> Tables:
    """The training tables, read once."""
    data = read_data("training")
    explained = {name: [Topic(**topic) for topic in data[name]] for name in ("topics", "facts")}
    return Tables(**{**data, **explained, "capitals": [Capital(**capital) for capital in data["capitals"]]})
