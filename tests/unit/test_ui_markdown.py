"""HTML in answers is text, code and formulas stay as they are, and the way back is exact."""

from __future__ import annotations

import pytest

from chatglm_backend.ui.markdown import ESCAPED, as_text, as_typed


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
