"""HTML in answers is text, code and formulas stay as they are, and the way back is exact."""

from __future__ import annotations

import pytest

from chatglm_backend.ui.markdown import ESCAPED, as_text, as_typed, pieces


def _shown(markdown: str) -> str:
    return as_text(markdown).replace(ESCAPED, "⟨")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("<b>x</b> 1 < 2", "⟨b>x⟨/b> 1 < 2"),
        ("<script>\n<!-- x --><?php", "⟨script>\n⟨!-- x -->⟨?php"),
        ("a `<i>` b <i>", "a `<i>` b ⟨i>"),
        ("a ``x ` <i>`` <u>", "a ``x ` <i>`` ⟨u>"),
        ("a `b\n<i>` <u>", "a `b\n<i>` ⟨u>"),
        ("a `open\n\n<i>`", "a `open\n\n⟨i>`"),
        ("```\n<p>\n```\n<p>", "```\n<p>\n```\n⟨p>"),
        ("```html\n<p>\n``\n<p>", "```html\n<p>\n``\n<p>"),
        ("~~~\n<p>\n```\n<p>\n~~~~\n<p>", "~~~\n<p>\n```\n<p>\n~~~~\n⟨p>"),
        ("- item\n  ```\n  <p>\n  ```\n  <p>", "- item\n  ```\n  <p>\n  ```\n  ⟨p>"),
        ("1. ```\n   <p>\n   ```\n<p>", "1. ```\n   <p>\n   ```\n⟨p>"),
        ("> ```\n> <p>\n> ```\n> <p>", "> ```\n> <p>\n> ```\n> ⟨p>"),
        ("```inline``` <p>", "```inline``` ⟨p>"),
        ("x\n\n    <p>\n    <q>\ny <p>", "x\n\n    <p>\n    <q>\ny ⟨p>"),
        ("x\n    <p>", "x\n    ⟨p>"),
        ("- x\n\n    <p>", "- x\n\n    ⟨p>"),
        ("$a<b$ $$c<d\n<e$$ \\(f<g\\) \\[h<i\\] <j>", "$a<b$ $$c<d\n<e$$ \\(f<g\\) \\[h<i\\] ⟨j>"),
        ("$5 <b>", "$5 ⟨b>"),
        ("\0 1 \0<b>", " 1 ⟨b>"),
        ("", ""),
    ],
)
def test_tags_are_text_but_code_and_formulas_are_left_alone(written: str, expected: str) -> None:
    """Whatever the kind of code: fences, spans of several marks, indentation, also unfinished ones."""
    assert _shown(written) == expected


@pytest.mark.parametrize("written", ["<b>", "&lt;b>", "`<b>` &lt; <i>", "$x<y$ <u>", "```\n<p>", "&#60;<b>"])
def test_editing_gets_the_original(written: str) -> None:
    """What was typed comes back, entities that were typed included."""
    assert as_typed(as_text(written)) == written


def test_a_long_answer_takes_no_quadratic_time() -> None:
    """Marks that never close are the worst case; this ends at once or not at all."""
    for piece in ("`<a ", "$ ", "``` `<a\n", "<a ", "\\( "):
        assert as_typed(as_text(piece * 4000)) == piece * 4000


_WHOLE = (
    "First paragraph\n\nSecond one\n  \nThird\n\n\nFourth\n\n"
    "- a list\n\n- goes on\n\n  with a paragraph\n\n1. and\n\n2. numbers\n\nThen text\n\n"
    "```python\na = 1\n\nb = 2\n\nc = 3\n```\n\nText\n\n$$\na\n\nb\n$$\n\n> said\n\n> and said\n\n"
    "\\[\n\nx\n\n\\]\n\n## End\n\nx"
)


def test_pieces_end_between_paragraphs_only() -> None:
    """Lists, code, quotations and formulas stay whole."""
    assert pieces(_WHOLE, 1) == (
        "First paragraph\n", "Second one\n  ", "Third\n\n",
        "Fourth\n\n- a list\n\n- goes on\n\n  with a paragraph\n\n1. and\n\n2. numbers\n", "Then text\n",
        "```python\na = 1\n\nb = 2\n\nc = 3\n```\n", "Text\n",
        "$$\na\n\nb\n$$\n\n> said\n\n> and said\n", "\\[\n\nx\n\n\\]\n", "## End\n", "x",
    )  # fmt: skip


@pytest.mark.parametrize("size", [1, 30, 1000])
def test_as_an_answer_grows_its_earlier_pieces_stay(size: int) -> None:
    """So the page renders only the last one anew; joined, they are the answer at every moment."""
    before: tuple[str, ...] = ("",)
    for length in range(len(_WHOLE) + 1):
        now = pieces(_WHOLE[:length], size)
        assert "\n".join(now) == _WHOLE[:length]
        assert now[: len(before) - 1] == before[:-1]
        before = now
