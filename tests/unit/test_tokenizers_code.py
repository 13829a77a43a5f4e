"""CodeGeeX2's prompts."""

from __future__ import annotations

import pytest

from chatglm_backend.tokenizers.code import LANGUAGES, code_prompt


@pytest.mark.parametrize(
    ("language", "code", "expected"),
    [
        ("Python", "def f():", "# language: Python\ndef f():"),
        ("C++", "", "// language: C++\n"),
        ("SQL", "select", "-- language: SQL\nselect"),
        ("HTML", "<p>", "<!--language: HTML-->\n<p>"),
        ("Python", "// language: Go\nfunc", "// language: Go\nfunc"),
        ("", "as typed", "as typed"),
    ],
)
def test_code_begins_with_a_comment_that_names_its_language(language: str, code: str, expected: str) -> None:
    """In the language's own comments, unless the first line names one already."""
    assert code_prompt(language, code) == expected


def test_every_language_is_named_in_its_first_line() -> None:
    """None is offered twice."""
    assert len(set(LANGUAGES)) == len(LANGUAGES) > 15
    assert all(f"language: {name}" in code_prompt(name, "x") for name in LANGUAGES)
