"""Check a folder's tokenizer against recorded ids and texts.

Reads a file with one top-level key per family, each with ``texts`` and ``chats``. Knows the
tokenizers only through their interface, and prints nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from chatglm_backend.core import Message, Role
from chatglm_backend.errors import CheckpointError, UnusableReference
from chatglm_backend.sentences import Sentence
from chatglm_backend.textfile import read_json
from chatglm_backend.tokenizers.base import Family, SentencePieceTokenizer, load_tokenizer
from chatglm_backend.tokenizers.chatglm import ChatGLMTokenizer

_V1_SUFFIX = 2


@dataclass(frozen=True, slots=True)
class TokenizerFailure:
    """One case that came out wrong: its ``kind`` (text or chat), ``index``, what was compared, and both values."""

    kind: str
    index: int
    what: str
    expected: object
    actual: object


@dataclass(frozen=True, slots=True)
class TokenizerReport:
    """The outcome for one folder. ``texts`` and ``chats`` count the cases."""

    family: Family
    texts: int
    chats: int
    failures: tuple[TokenizerFailure, ...]

    @property
    def texts_ok(self) -> bool:
        """Whether there were texts and all came out right."""
        return self.texts > 0 and not any(f.kind == "text" for f in self.failures)

    @property
    def chats_ok(self) -> bool:
        """Whether there were chats and all came out right."""
        return self.chats > 0 and not any(f.kind == "chat" for f in self.failures)

    @property
    def ok(self) -> bool:
        """Whether everything came out right."""
        return self.texts_ok and self.chats_ok


def verify_tokenizer(folder: Path, cases_file: Path, family: Family) -> TokenizerReport:
    """Encode and decode every case of a family.

    Raises CheckpointError for a tokenizer and UnusableReference for cases that cannot be read.
    """
    tokenizer = cast("SentencePieceTokenizer", load_tokenizer(folder, family))
    cases = _cases_of(cases_file, family)
    texts, chats = _entries(cases, "texts", cases_file), _entries(cases, "chats", cases_file)
    failures: list[TokenizerFailure] = []
    try:
        for index, case in enumerate(texts):
            failures += _check_text(tokenizer, index, case)
        for index, case in enumerate(chats):
            failures += _check_chat(tokenizer, index, case)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnusableReference(
            path=str(cases_file), reason=Sentence("reference.incomplete", problem=str(error))
        ) from error
    return TokenizerReport(family, len(texts), len(chats), tuple(failures))


def _cases_of(path: Path, family: Family) -> Mapping[str, object]:
    if not path.is_file():
        raise UnusableReference(path=str(path), reason=Sentence("file.absent"))
    try:
        document = read_json(path)
    except CheckpointError as error:
        raise UnusableReference(path=str(path), reason=error.fields.get("reason", error)) from error
    for key, cases in document.items():
        if key.lower().split("-")[0] == family and isinstance(cases, dict):
            return cases
    raise UnusableReference(path=str(path), reason=Sentence("reference.no_family", family=family))


def _entries(cases: Mapping[str, object], name: str, path: Path) -> list[dict[str, object]]:
    found = cases.get(name, [])
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise UnusableReference(path=str(path), reason=Sentence("reference.not_cases", name=name))
    return found


def _check_text(tokenizer: SentencePieceTokenizer, index: int, case: dict[str, object]) -> list[TokenizerFailure]:
    text = str(case["text"])
    expected = cast("list[int]", case["input_ids"])
    actual = list(tokenizer.encode_prompt(text, "raw").ids)
    if isinstance(tokenizer, ChatGLMTokenizer) and _has_control(tokenizer, expected[:-_V1_SUFFIX]):
        return _check_deviation(tokenizer, index, text, actual)
    failures = []
    if expected != actual:
        failures.append(TokenizerFailure("text", index, "ids", expected, actual))
    decoded = tokenizer.decode(expected)
    if "decoded" in case and case["decoded"] != decoded:
        failures.append(TokenizerFailure("text", index, "decoded", case["decoded"], decoded))
    return failures


def _check_deviation(tokenizer: ChatGLMTokenizer, index: int, text: str, actual: list[int]) -> list[TokenizerFailure]:
    """A text that the authors' own class turns into control ids: ours must hold none and read as typed."""
    body = actual[:-_V1_SUFFIX]
    if _has_control(tokenizer, body) or actual[-_V1_SUFFIX:] != [tokenizer.gmask_id, tokenizer.bos_id]:
        return [TokenizerFailure("text", index, "control ids in typed text", [], actual)]
    decoded = tokenizer.decode(body)
    if decoded not in (text, tokenizer.as_read(text)):
        return [TokenizerFailure("text", index, "decoded", text, decoded)]
    return []


def _has_control(tokenizer: SentencePieceTokenizer, ids: list[int]) -> bool:
    return not tokenizer.control_ids.isdisjoint(ids)


def _check_chat(tokenizer: SentencePieceTokenizer, index: int, case: dict[str, object]) -> list[TokenizerFailure]:
    messages = [Message("system", str(case["system"]))] if case.get("system") else []
    for question, answer in cast("list[tuple[str, str]]", case["history"]):
        messages += [_message("user", question), _message("assistant", answer)]
    messages.append(_message("user", case["query"]))
    encoded = tokenizer.encode_chat(messages)
    failures = []
    if case["input_ids"] != list(encoded.ids):
        failures.append(TokenizerFailure("chat", index, "ids", case["input_ids"], list(encoded.ids)))
    if case.get("prompt") is not None and case["prompt"] != encoded.text:
        failures.append(TokenizerFailure("chat", index, "prompt", case["prompt"], encoded.text))
    return failures


def _message(role: Role, content: object) -> Message:
    return Message(role, str(content))
