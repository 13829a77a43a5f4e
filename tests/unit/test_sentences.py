"""The catalogues hold every sentence in every language, with its fields, and nothing else."""

from __future__ import annotations

import ast
import fnmatch
import functools
import json
import re
import shutil
import string
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import chatglm_backend
from chatglm_backend import errors, ui
from chatglm_backend.errors import ChatGLMError, ContextLimitExceeded, DamagedFile, ModelNotReady
from chatglm_backend.launcher.environment import LaunchError
from chatglm_backend.sentences import LANGUAGES, Sentence, choose_language, load_texts, plain

PACKAGE = Path(chatglm_backend.__file__).parent
LOCALES = PACKAGE / "locales"
SOURCES = [*sorted(PACKAGE.rglob("*.py")), PACKAGE.parent / "webui.py"]


def test_one_of_something_is_no_plural() -> None:
    """Only what is counted changes, and only by the number that stands before it."""
    t = load_texts("en")
    assert t("status.done.stop", tokens=1) == "Finished after 1 token"
    assert t("status.done.length", tokens="1") == "Reached the limit of 1 new token"
    assert t("document.passages", chosen=1, count=1).startswith("Sources: 1 of 1 passage, ")
    assert t("status.done.stop", tokens=11) == "Finished after 11 tokens"
    assert t("history.delete_named", title="1 tokens") == "Delete: 1 tokens"


def _error_classes() -> dict[str, str]:
    """The codes in the catalogue of all errors, by class."""
    classes = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ChatGLMError)]
    return {kind.__name__: f"error.{kind.code}" for kind in (*classes, LaunchError)}


def _fields(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name}


def _pattern(node: ast.expr) -> str:
    """The text of a literal; ``*`` where an f-string fills in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in node.values)
    return ""


@functools.cache
def _nodes() -> tuple[tuple[str, ast.AST], ...]:
    wanted = (ast.Call, ast.Constant, ast.JoinedStr)
    trees = ((path.name, ast.parse(path.read_text(encoding="utf-8"))) for path in SOURCES)
    return tuple((name, node) for name, tree in trees for node in ast.walk(tree) if isinstance(node, wanted))


@functools.cache
def _matching(pattern: str) -> set[str]:
    """The codes that a literal stands for; one that ends in a dot stands for all below it."""
    codes = load_texts("en").codes
    if "*" not in pattern and not pattern.endswith("."):
        return {pattern} & codes
    known = pattern.partition(".")[0] in {code.partition(".")[0] for code in codes}
    return set(fnmatch.filter(codes, f"{pattern}*" if pattern.endswith(".") else pattern)) if known else set()


def _said() -> Iterator[tuple[str, str, set[str]]]:
    """Where each sentence is made: the place, its code, and the fields that it is given."""
    errors_codes = _error_classes()
    for file, node in _nodes():
        if not isinstance(node, ast.Call) or any(keyword.arg is None for keyword in node.keywords):
            continue
        given = {str(keyword.arg) for keyword in node.keywords}
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        first = node.args[0] if node.args else ast.Constant("")
        choices = (first.body, first.orelse) if isinstance(first, ast.IfExp) else (first,)
        for pattern in {errors_codes.get(name) or _pattern(choice) for choice in choices}:
            if pattern in load_texts("en").codes or (name == "Sentence" and "*" not in pattern):
                yield f"{file}:{node.lineno}", pattern, given


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_has_the_same_sentences_with_the_same_fields(language: str) -> None:
    """A translation neither lacks a sentence nor drops or invents a figure."""
    ours, english = load_texts(language), load_texts("en")
    assert {code: _fields(ours(code)) for code in ours.codes} == {
        code: _fields(english(code)) for code in english.codes
    }


def test_every_error_has_a_code_and_a_sentence_of_its_own() -> None:
    """The catalogue is read by code, so no two classes may share one."""
    codes = list(_error_classes().values())
    assert len(codes) == len(set(codes))
    assert {code for code in load_texts("en").codes if code.startswith("error.")} == {*codes, "error.unexpected"}


def test_every_place_gives_a_sentence_the_fields_it_needs() -> None:
    """No sentence is made with an unknown code, without a field, or with one that is never said."""
    english = load_texts("en")
    needed = {code: _fields(english(code)) for code in english.codes}
    wrong = [(place, code, sorted(given)) for place, code, given in _said() if needed.get(code) != given]
    assert wrong == []


def test_every_entry_is_used() -> None:
    """What nobody says any more leaves the catalogues."""
    used = set().union(*(_matching(_pattern(node)) for _, node in _nodes()), _error_classes().values())
    assert load_texts("en").codes - used == set()


def test_a_sentence_is_said_in_each_language_with_what_is_inside_it() -> None:
    """One sentence, one language: fields that are sentences follow."""
    error = ContextLimitExceeded(prompt_tokens=3000, limit=2048)
    assert load_texts("zh").say(error) == "提示词有 3000 个 token，而本模型连同回答最多 2048 个。请缩短提示词。"
    assert str(error).startswith("The prompt has 3000 tokens, but")
    both = Sentence("error.checkpoint", path="m", reason=(error, Sentence("tab.chat")))
    assert str(both) == f"The checkpoint in m cannot be used: {error}; Chat."
    assert load_texts("zh").say(both).endswith("请缩短提示词。；对话。")
    assert plain({"why": [both, 3]}) == {"why": [str(both), 3]}


def test_a_sentence_is_a_value() -> None:
    """It can be compared, put into a set, and not changed."""
    first, again = Sentence("tab.chat", a=1), Sentence("tab.chat", a=1)
    assert {first} == {again}
    assert first != Sentence("tab.chat", a=2)
    with pytest.raises(AttributeError):
        first.code = "other"  # type: ignore[misc]


def test_a_missing_field_hides_nothing() -> None:
    """A mistake of ours in an error still leaves a line to report."""
    assert str(DamagedFile(path="a.bin")) == "error.damaged_file (path: a.bin)"


def test_a_foreign_exception_is_named_without_its_details() -> None:
    """Paths and values inside a foreign exception stay in the terminal."""
    said = load_texts("en").say(RuntimeError("/home/someone/secret"))
    assert "RuntimeError" in said
    assert "secret" not in said


def test_a_language_is_one_file_and_one_line(tmp_path: Path) -> None:
    """A made-up one in a copy of the package: sentences, the choice by the browser and the sign-in page have it."""
    package = tmp_path / PACKAGE.name
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("demo_model", "__pycache__"))
    catalogue = json.loads((LOCALES / "en.json").read_text(encoding="utf-8"))
    made_up = json.dumps({code: f"~{text}" for code, text in catalogue.items()})
    (package / "locales" / "eo.json").write_text(made_up, encoding="utf-8")
    source = (package / "sentences.py").read_text(encoding="utf-8")
    changed = source.replace('("zh", "en")', '("zh", "en", "eo")')
    assert changed != source
    (package / "sentences.py").write_text(changed, encoding="utf-8")
    code = (
        "from chatglm_backend.access.policy import policy_from\n"
        "from chatglm_backend.access.signin import sign_in_page\n"
        "from chatglm_backend.errors import ModelNotReady; from chatglm_backend.settings import Settings\n"
        "from chatglm_backend.sentences import choose_language, load_texts\n"
        "print(load_texts(choose_language('eo', None)).say(ModelNotReady()))\n"
        "print(sign_in_page(policy_from(Settings(listen=True)), 'eo, en;q=0.5').decode())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, encoding="utf-8", check=True
    )
    assert done.stdout.startswith(f"~{ModelNotReady()}")
    assert "<h1>~Sign in</h1>" in done.stdout
    assert sorted(file.stem for file in LOCALES.iterdir()) == sorted(LANGUAGES)


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
    assert set(found) <= {"THUDM/chatglm-6b", "Python"}


def _sentence(value: object) -> bool:
    return isinstance(value, str) and re.search("[A-Z][a-z]{2}| [a-z]{3}", value) is not None
