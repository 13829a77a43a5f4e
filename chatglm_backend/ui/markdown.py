"""Markdown whose HTML is text: tags outside code and formulas are escaped, and can be told from what was typed.

Code and formulas are found the way the page's own renderer finds them, because inside them an escape
would be seen, and copied. Long Markdown is cut into pieces, because the renderer renders a whole piece
anew for each word that is added to it. Pure functions; the renderer still sanitises everything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

ESCAPED = "&#0000060;"
"""How a ``<`` is written: an entity in a form that nobody types, so that the way back is exact."""

_FORMULAS = tuple(re.compile(source) for source in (r"\$\$[\s\S]+?\$\$", r"\$[\s\S]+?\$", r"\\\([\s\S]+?\\\)",
                                                    r"\\\[[\s\S]+?\\\]"))  # fmt: skip
_HELD = re.compile("\0(\\d+)\0")
_FENCE = re.compile(r"^(?:[ \t>]|[-*+][ \t]|\d{1,9}[.)][ \t])*(`{3,}(?=[^`]*$)|~{3,})")
_ITEM = re.compile(r"^[ \t>]*(?:[-*+]|\d{1,9}[.)])[ \t]")
_INDENTED = re.compile(r"^(?: {4}| {0,3}\t)")
_BEGINNING = re.compile(r"[^\s\d>\[+*=_-]")
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


def pieces(markdown: str, size: int = 1000) -> tuple[str, ...]:
    """The same Markdown in pieces of at least ``size`` characters that look alone as they do together.

    Joined by line ends they are the whole. Where it grows at its end, only the last piece changes, or a new one
    begins. Cuts are made between paragraphs only, never within a code block, a list, a quotation or a formula.
    Only a link whose address is given at the other end of the text does not find it.
    """
    found: list[str] = []
    start = position = 0
    fence, blank = "", False
    for line in markdown.split("\n"):
        cut = blank and not fence and position - start >= size and _BEGINNING.match(line) is not None
        if cut and _formulas_closed(markdown[start:position]):
            found.append(markdown[start : position - 1])
            start = position
        fence = _fence_after(line, fence)
        blank = not line.strip()
        position += len(line) + 1
    return (*found, markdown[start:])


def _formulas_closed(markdown: str) -> bool:
    return markdown.count("$$") % 2 == 0 and markdown.count("\\[") == markdown.count("\\]")


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
