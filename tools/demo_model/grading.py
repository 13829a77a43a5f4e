"""The grading rules of the evaluation set, as code. Knows no model."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence

_DROPPED = re.compile("[\\s\"'“”‘’`]")


def plain(text: str) -> str:
    """NFKC, lower case, without spaces and quotation marks."""
    return _DROPPED.sub("", unicodedata.normalize("NFKC", text).lower())


def contains(answer: str, needle: str) -> bool:
    """Whether a plain ``answer`` contains ``needle``; digits at its ends must not go on in the answer."""
    text = re.escape(plain(needle))
    if text[0].isdigit():
        text = r"(?<![\d.])(?<![^\d]-)" + text if not needle.startswith("-") else text
    if needle[-1].isdigit():
        text += r"(?!\d)"
    return re.search(text, answer) is not None


def passes(item: Mapping[str, object], answer: str) -> bool:
    """Whether ``answer`` satisfies an item's must_contain and must_not_contain."""
    wanted: Sequence[str] = item["must_contain"]  # type: ignore[assignment]
    unwanted: Sequence[str] = item["must_not_contain"]  # type: ignore[assignment]
    graded = plain(answer)
    return all(contains(graded, text) for text in wanted) and not any(contains(graded, text) for text in unwanted)


def right(item: Mapping[str, object], answer: str) -> bool:
    """Whether an answer passes; that to a sum must also end with its result, as it names tens and ones on its way."""
    return passes(item, answer) and (item["ability"] != "sums" or [last_number(answer)] == item["must_contain"])


def last_number(answer: str) -> str | None:
    """The last whole number in an answer, with its sign."""
    numbers = re.findall(r"(?<![\d])-?\d+", plain(answer))
    return numbers[-1] if numbers else None
