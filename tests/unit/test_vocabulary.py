"""One word for each thing: the glossary of ``docs/architecture.md`` stands, and no name in the package is a synonym."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "chatglm_backend"
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")

WORDS = {
    "ctx": "context",
    "guess": "draft",
    "guesses": "draft",
    "guessed": "draft",
    "guessing": "draft",
    "helpers": "the thing's own name",
    "misc": "the thing's own name",
    "util": "the thing's own name",
    "utils": "the thing's own name",
    "speculative": "draft",
    "walk": "forward, or the thing's own name",
}
"""A word inside a name, and what the glossary says instead."""

NAMES = {
    "max_length": "max_new_tokens or capacity",
    "max_tokens_to_sample": "max_new_tokens",
    "n_predict": "max_new_tokens",
    "query_history": "messages",
    "history_pairs": "messages",
}
"""Whole names; other programs' own are met where their words come in."""

OUTSIDE = {
    ("n_predict", "cli"): "the original recipe's option",
    ("max_tokens", "api"): "the endpoint's protocol",
}


def names_of(path: Path) -> Iterator[tuple[int, str]]:
    """Every name that a file gives to something, with its line."""
    yield 0, path.stem
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id if isinstance(node, ast.Name) else node.attr


def words_of(name: str) -> set[str]:
    """The words of a name in any case style, in small letters."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", name)}


def test_no_name_is_a_synonym() -> None:
    """Who reads one file knows the words of all others."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0]
        for line, name in names_of(path):
            better = next((WORDS[word] for word in words_of(name) & set(WORDS)), NAMES.get(name))
            if better and (name, room) not in OUTSIDE:
                found.append(f"{path.relative_to(ROOT)}:{line}: {name}: say {better}")
    assert found == []


@pytest.mark.parametrize("language", ["en", "zh"])
def test_no_key_of_the_catalogue_is_a_synonym(language: str) -> None:
    """Texts are found by the same words."""
    catalogue = json.loads((PACKAGE / "locales" / f"{language}.json").read_text(encoding="utf-8"))
    assert [key for key in catalogue if words_of(key) & set(WORDS)] == []


def test_the_life_of_a_request_is_told_in_the_same_words() -> None:
    """The numbered phases at the top of the engine stand in the document as well."""
    engine = ast.get_docstring(ast.parse((PACKAGE / "engine" / "engine.py").read_text(encoding="utf-8"))) or ""
    phases = re.findall(r"^\d\. .*$", engine, flags=re.MULTILINE)
    assert len(phases) == 8
    assert [phase for phase in phases if f"\n{phase}\n" not in ARCHITECTURE] == []
