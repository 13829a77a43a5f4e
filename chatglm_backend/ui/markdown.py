"""Markdown whose HTML is text: tags outside code and formulas are escaped, and can be told from what was typed.

Code and formulas are found the way the page's own renderer finds them, because inside them an escape
would be seen, and copied. Pure functions; the renderer still sanitises everything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["ESCAPED", "as_text", "as_typed", "closing_fence"]

ESCAPED = "&#0000060;"
"""How a ``<`` is written: an entity in a form that nobody types, so that the way back is exact."""

_FORMULAS = tuple(re.compile(source) for source in (r"\$\$[\s\S]+?\$\$", r"\$[\s\S]+?\$", r"\\\([\s\S]+?\\\)",
                                                    r"\\\[[\s\S]+?\\\]"))  # fmt: skip
_HELD = re.compile("\0(\\d+)\0")
_FENCE = re.compile(r"^(?:[ \t>]|[-*+][ \t]|\d{1,9}[.)][ \t])*(`{3,}(?=[^`]*$)|~{3,})")
_ITEM = re.compile(r"^[ \t>]*(?:[-*+]|\d{1,9}[.)])[ \t]")
_INDENTED = re.compile(r"^(?: {4}| {0,3}\t)")
_SPAN_OR_TAG = re.compile(r"(?<!`)(`+)(?!`)[\s\S]*?(?<!`)\1(?!`)|<(?=[A-Za-z/!?])")


def as_text(markdown: str) -> str:
    """The same Markdown, with every ``<`` that could open a tag escaped."""
    formulas: list[str] = []

    def hold(found: re.Match[str]) -> str:
        formulas.append(found.group())
        return f"\0{len(formulas) - 1}\0"

    rest = markdown.replace("\0", "")
    for formula in _FORMULAS:
        rest = formula.sub(hold, rest)
    text = "".join(part if code else _SPAN_OR_TAG.sub(_escaped, part) for code, part in _parts(rest))
    while "\0" in text:  # a formula may hold another's delimiters
        text = _HELD.sub(lambda found: formulas[int(found.group(1))], text)
    return text


def as_typed(markdown: str) -> str:
    """The way back from :func:`as_text`."""
    return markdown.replace(ESCAPED, "<")


def closing_fence(markdown: str) -> str:
    """The line that ends a code block which is still open, so that something can follow it; mostly empty."""
    fence = ""
    for line in markdown.splitlines():
        fence = _fence_after(line, fence)
    return f"\n{fence}" if fence else ""


def _fence_after(line: str, fence: str) -> str:
    """The marks that a code block needs to end, after this line; ``fence`` are those before it."""
    if not fence:
        opening = _FENCE.match(line)
        return "" if opening is None else opening.group(1)
    closing = line.strip(" \t>\r\n")
    return "" if len(closing) >= len(fence) and set(closing) == {fence[0]} else fence


def _escaped(found: re.Match[str]) -> str:
    return ESCAPED if found.group() == "<" else found.group()


def _parts(markdown: str) -> Iterator[tuple[bool, str]]:
    """Code blocks, fenced (also those still being written) or indented, and the paragraphs between them."""
    prose: list[str] = []
    fence = ""
    listed, blank, indented = False, True, False
    for line in markdown.splitlines(keepends=True):
        if fence:
            yield True, line
            fence, blank = _fence_after(line.rstrip("\r\n"), fence), False
            continue
        opening = _FENCE.match(line.rstrip("\r\n"))
        indented = opening is None and bool(_INDENTED.match(line)) and not listed and (blank or indented)
        if opening is not None or indented or not line.strip():
            yield False, "".join(prose)
            prose = []
            yield opening is not None or indented, line
            fence = "" if opening is None else opening.group(1)
        else:
            prose.append(line)
            listed = bool(_ITEM.match(line)) or (listed and (not blank or line[0] in " \t"))
        indented = indented or (not line.strip() and indented)
        blank = not line.strip()
    yield False, "".join(prose)
