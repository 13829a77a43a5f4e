"""Models that complete and do not chat. CodeGeeX2's prompts: a comment naming the language, then the code so far."""

from __future__ import annotations

import re

_MARKS = {
    "// {}": ("C", "C++", "C#", "Go", "Java", "JavaScript", "Kotlin", "PHP", "Rust", "TypeScript"),
    "# {}": ("Perl", "Python", "R", "Ruby", "Shell"),
    "-- {}": ("Haskell", "SQL"),
    "/* {} */": ("CSS",),
    "<!--{}-->": ("HTML",),
}
_FIRST_LINES = {name: mark.format(f"language: {name}") for mark, names in _MARKS.items() for name in names}

LANGUAGES = tuple(sorted(_FIRST_LINES))
"""The languages that are offered; a comment may name any other."""


def completes_code(model: str) -> bool:
    """Whether a model of that name was trained to go on with code, not to chat."""
    return "codegeex2" in model.lower()


def is_base(model: str) -> bool:
    """Whether a model of that name was trained to go on with texts, not to chat."""
    return re.search("(6b|9b|4b)[-_]?base", model.lower()) is not None


def code_prompt(language: str, code: str) -> str:
    """The prompt for ``code`` in one of :data:`LANGUAGES`; as it is where no language is given or it names its own."""
    first = _FIRST_LINES.get(language)
    return code if first is None or "language:" in code.partition("\n")[0] else f"{first}\n{code}"
