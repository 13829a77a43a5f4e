"""The pieces of HTML that several pages show. All text is escaped here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True, slots=True)
class ListView:
    """A list to choose from: its table, the names that can be chosen, and what was just said."""

    table: str
    names: tuple[str, ...]
    said: str = ""


def alert(text: str) -> str:
    """What has gone wrong."""
    return f'<div class="cg-alert" role="alert">{escape(text)}</div>'


def paragraph(text: str, style: str = "cg-facts", role: str = "") -> str:
    """A sentence or two."""
    spoken = f' role="{role}"' if role else ""
    return f'<p class="{style}"{spoken}>{escape(text)}</p>'


def typing_line(keys: str, box: str) -> str:
    """Below a box: its keys, and how many tokens are in it, which the page's script asks for."""
    return (
        f'<div class="cg-typing"><p class="cg-keys">{escape(keys)}</p>'
        f'<p class="cg-count" data-box="{box}" role="status"></p></div>'
    )


def status_line(phase: str, text: str, *, busy: bool = False, spoken: bool = False) -> str:
    """What is happening; ``spoken``: screen readers say it by themselves, without the page's script."""
    dot = '<span class="cg-spinner" aria-hidden="true"></span>' if busy else ""
    live = ' role="status" aria-live="polite"' if spoken else ""
    return f'<div class="cg-status" data-phase="{phase}"{live}>{dot}{escape(text)}</div>'


def named(status: str, name: str) -> str:
    """A status line that tells the page's script which answer it is about, so that a reload finds that again."""
    return f'<div data-answer="{escape(name)}">{status}</div>' if name else status


def bar(label: str, role: str, share: float | None, value: int = 0, most: int = 100) -> str:
    """How far something is: ``share``, from 0 to 1, is drawn, ``value`` of ``most`` said; ``None``: nobody knows."""
    if share is None:
        return f'<div class="cg-bar cg-unknown" role="{role}" aria-label="{escape(label)}"><span></span></div>'
    return (
        f'<div class="cg-bar" role="{role}" aria-label="{escape(label)}" aria-valuemin="0" aria-valuemax="{most}" '
        f'aria-valuenow="{value}"><span style="width:{share * 100:.1f}%"></span></div>'
    )


def chips(label: str, texts: Iterable[tuple[str, str]], into: str = "") -> str:
    """Buttons, each with its name and the text that it puts into a box, the prompt's or ``into``."""
    box = f' data-into="{into}"' if into else ""
    buttons = "".join(
        f'<button type="button" class="cg-chip"{box} data-fill="{escape(text)}">{escape(name)}</button>'
        for name, text in texts
    )
    return f'<div class="cg-chips" role="group" aria-label="{escape(label)}">{buttons}</div>'


def terms(label: str, rows: Iterable[tuple[str, Sequence[str]]]) -> str:
    """A list of terms, each with its lines."""
    cells = "".join(
        f"<dt>{escape(term)}</dt><dd>{'<br>'.join(escape(line) for line in lines if line)}</dd>" for term, lines in rows
    )
    return f'<dl class="cg-table" aria-label="{escape(label)}">{cells}</dl>'


def table(title: str, head: Iterable[str], rows: Iterable[Iterable[str]], style: str = "") -> str:
    """A table that scrolls by itself where the page is narrow."""
    heading = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return (
        f'<div class="cg-scroll" tabindex="0" role="region" aria-label="{escape(title)}">'
        f'<table class="cg-grid-table{style}"><caption>{escape(title)}</caption>'
        f"<thead><tr>{heading}</tr></thead><tbody>{body}</tbody></table></div>"
    )
