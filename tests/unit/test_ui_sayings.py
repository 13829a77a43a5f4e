"""What other rooms say in English is said in the page's language."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import chatglm_backend
from chatglm_backend.errors import DamagedFile
from chatglm_backend.ui.i18n import load_texts
from chatglm_backend.ui.sayings import load_sayings

ROOMS = ("core.py", "checkpoint", "engine", "hardware", "int4", "models", "service", "serving", "store", "tokenizers")
LISTS = {"fixes", "found", "passed_over", "reasons"}
SAID = load_sayings("zh")


def _template(node: ast.expr) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return ""


def _spoken() -> Iterator[str]:
    """The templates of all reasons of errors, and of the sentences that the doctor collects."""
    root = Path(chatglm_backend.__file__).parent
    paths = [
        path for room in ROOMS for path in ([root / room] if room.endswith(".py") else (root / room).rglob("*.py"))
    ]
    for call in (node for path in paths for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))):
        if not isinstance(call, ast.Call):
            continue
        spoken = [keyword.value for keyword in call.keywords if keyword.arg == "reason"]
        if isinstance(call.func, ast.Attribute) and call.func.attr in ("append", "insert"):
            owner = ast.unparse(call.func.value).rpartition(".")[2]
            spoken += call.args if owner in LISTS else []
        for node in spoken:
            for choice in (node.body, node.orelse) if isinstance(node, ast.IfExp) else (node,):
                yield _template(choice)


def test_every_reason_that_can_reach_the_page_is_translated() -> None:
    """A new sentence in another room is noticed here, not by a reader."""
    templates = {text for text in _spoken() if re.search("[a-z]{3}", text)}
    samples = {text: text.replace("{}", "7") for text in templates}
    assert len(templates) > 50
    assert sorted(text for text, sample in samples.items() if SAID(sample) == sample) == []


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("it is empty", "是空的"),
        ("profile server: 2 sockets", "方案 server：2 个插槽"),
        ("2 threads: the cgroup grants 2.5 CPUs (rounded down)", "2 个线程：cgroup 给了 2.5 个 CPU（向下取整）"),
        ("the fastest that this CPU runs; amx needs amx_int8", "本机 CPU 能运行的最快版本；amx 需要 amx_int8"),
        ("OSError: something new", "OSError: something new"),
    ],
)
def test_places_and_lists_are_translated_in_turn(sentence: str, expected: str) -> None:
    """What was filled in is looked up too; an unknown sentence stays."""
    assert SAID(sentence) == expected


def test_a_reason_inside_an_error_follows_the_page() -> None:
    """One sentence, one language."""
    error = DamagedFile(path="/models/a.bin", reason="its checksum is wrong")
    assert load_texts("zh").error(error) == "/models/a.bin 已损坏或不完整（校验和不对）。请删除后重新下载。"
    assert "its checksum is wrong" in load_texts("en").error(error)


def test_in_english_a_list_keeps_its_semicolons() -> None:
    """Only what was translated gets Chinese ones."""
    sentence = "the fastest that this CPU runs; amx needs amx_int8, amx_tile"
    assert load_sayings("en")(sentence) == sentence
    assert "；" in SAID(sentence)
