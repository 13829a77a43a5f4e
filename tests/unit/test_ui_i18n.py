"""The catalogues are complete, in both languages, and every error has its sentence."""

from __future__ import annotations

import ast
import re
import string
from collections.abc import Iterator
from pathlib import Path

import pytest

from chatglm_backend import ui
from chatglm_backend.errors import ChatGLMError, ContextLimitExceeded, MissingFile
from chatglm_backend.ui.i18n import LANGUAGES, choose_language, load_texts


def _errors(kind: type[ChatGLMError] = ChatGLMError) -> Iterator[type[ChatGLMError]]:
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == "chatglm_backend.errors":
            yield from _errors(child)


def _fields(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name}


def test_both_languages_have_the_same_keys() -> None:
    """No sentence is missing in one language."""
    assert load_texts("zh").keys() == load_texts("en").keys()


def test_both_languages_fill_in_the_same_fields() -> None:
    """A translation neither drops nor invents a figure."""
    zh, en = load_texts("zh"), load_texts("en")
    differing = [key for key in sorted(en.keys()) if _fields(zh(key)) != _fields(en(key))]
    assert differing == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_error_has_a_sentence(language: str) -> None:
    """Whatever error the page meets, it can say it in the visitor's language."""
    texts = load_texts(language)  # type: ignore[arg-type]
    missing = [kind.code for kind in _errors() if f"error.{kind.code}" not in texts.keys()]  # noqa: SIM118
    assert missing == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_error_sentences_use_only_the_errors_own_fields(language: str) -> None:
    """A sentence never asks for a field that its error does not carry."""
    texts = load_texts(language)  # type: ignore[arg-type]
    wrong = [k.code for k in _errors() if not _fields(texts(f"error.{k.code}")) <= _fields(k.template)]
    assert wrong == []


def test_an_error_is_said_in_chinese_with_its_figures() -> None:
    """The catalogue's sentence is filled with the error's fields."""
    sentence = load_texts("zh").error(ContextLimitExceeded(prompt_tokens=3000, limit=2048))
    assert sentence == "提示词有 3000 个 token，而本模型连同回答最多 2048 个。请缩短提示词。"


def test_an_error_of_a_new_kind_is_said_by_its_parent() -> None:
    """A subclass without a sentence of its own does not leave the page speechless."""

    class Unlisted(MissingFile):
        code = "unlisted"

    assert load_texts("en").error(Unlisted(path="a.bin")) == str(MissingFile(path="a.bin"))


def test_a_foreign_exception_is_named_without_its_details() -> None:
    """Paths and values inside a foreign exception stay in the terminal."""
    sentence = load_texts("en").error(RuntimeError("/home/someone/secret"))
    assert "RuntimeError" in sentence
    assert "secret" not in sentence


@pytest.mark.parametrize(
    ("wanted", "header", "expected"),
    [
        (None, "zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        (None, "en-GB,en;q=0.9,zh;q=0.8", "en"),
        (None, "fr-FR,zh;q=0.5,en;q=0.7", "en"),
        (None, "de", "en"),
        (None, None, "en"),
        (None, "zh;q=oops,,;", "en"),
        (None, "zh;q=0, fr", "en"),
        ("zh", "en-US", "zh"),
        ("xx", "zh-TW", "zh"),
    ],
)
def test_the_language_follows_choice_then_browser(wanted: str | None, header: str | None, expected: str) -> None:
    """A choice wins, then the browser's order, then English."""
    assert choose_language(wanted, header) == expected


def test_no_sentence_is_written_in_the_page_itself() -> None:
    """Labels come from the catalogue, and HTML holds only what is filled in; names and commands aside."""
    shown = {"label", "placeholder", "info", "title", "value"}
    found = []
    for path in sorted(Path(ui.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg in shown and isinstance(node.value, ast.Constant):
                found += [str(node.value.value)] if _sentence(node.value.value) else []
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found += re.findall(r">\s*([A-Za-z][^<>{}=\n]{2,})<", node.value)
    assert set(found) <= {"THUDM/chatglm-6b"}


def _sentence(value: object) -> bool:
    return isinstance(value, str) and re.search("[A-Z][a-z]{2}| [a-z]{3}", value) is not None
