"""One word for each thing: the glossary of ``docs/architecture.md`` stands, and no name in the package is a synonym."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "chatglm_backend"
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")

INSTEAD = {
    "context": "ctx",
    "draft": r"guess|guesse[sd]|guessing|speculative",
    "forward": "walk",
    "max_new_tokens": "n_predict|max_length|max_tokens_to_sample",
    "messages": "query_history|history_pairs",
    "the thing's own name": "helpers?|misc|utils?",
    "visitor": "session_id",
}
"""A word of the glossary, and what no name may say for it, as whole words of it."""

OUTSIDE = {"n_predict": "cli", "session_id": "ui"}
"""The original recipe's option, and Gradio's own word, in the room where they come in."""


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


def better(name: str, room: str = "") -> str:
    """What a name should say instead; empty where it is fine."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).replace(".", "_").lower()
    found = (good for good, bad in INSTEAD.items() if re.search(rf"(^|_)({bad})(_|$)", words))
    return "" if OUTSIDE.get(name) == room else next(found, "")


def test_no_name_is_a_synonym() -> None:
    """Who reads one file knows the words of all others."""
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name}: say {better(name, room)}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for room in [path.relative_to(PACKAGE).parts[0]]
        for line, name in names_of(path)
        if better(name, room)
    ]
    catalogue = json.loads((PACKAGE / "locales" / "en.json").read_text(encoding="utf-8"))
    assert found + [key for key in catalogue if better(key)] == []


def test_the_life_of_a_request_is_told_in_the_same_words() -> None:
    """The numbered phases at the top of the engine stand in the document as well."""
    engine = ast.get_docstring(ast.parse((PACKAGE / "engine" / "engine.py").read_text(encoding="utf-8"))) or ""
    phases = re.findall(r"^\d\. .*$", engine, flags=re.MULTILINE)
    assert len(phases) == 8
    assert [phase for phase in phases if f"\n{phase}\n" not in ARCHITECTURE] == []
