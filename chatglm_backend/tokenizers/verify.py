"""Check a folder's tokenizer against recorded ids and texts.

Reads a file with one top-level key per family, each with ``texts`` and ``chats``, or a file of one ``family``
with ``conversations`` that offer tools and ``replies``. Knows the tokenizers only through their interface, and
prints nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from chatglm_backend.core import Message, Offer, Role
from chatglm_backend.errors import CheckpointError, UnusableReference
from chatglm_backend.sentences import Sentence
from chatglm_backend.textfile import read_json
from chatglm_backend.tokenizers.base import Family, FamilyTokenizer, load_tokenizer
from chatglm_backend.tokenizers.chatglm import ChatGLMTokenizer
from chatglm_backend.tokenizers.tools import ReplyReader, offer_text

_V1_SUFFIX = 2


@dataclass(frozen=True, slots=True)
class TokenizerFailure:
    """One case that came out wrong: its ``kind``, ``index``, what was compared, and both values.

    A kind is text, chat, conversation or reply.
    """

    kind: str
    index: int
    what: str
    expected: object
    actual: object


@dataclass(frozen=True, slots=True)
class TokenizerReport:
    """The outcome for one folder. The counts are of cases."""

    family: Family
    texts: int
    chats: int
    conversations: int
    replies: int
    failures: tuple[TokenizerFailure, ...]

    @property
    def texts_ok(self) -> bool:
        """Whether there were texts and all came out right."""
        return self._all_right("text", self.texts)

    @property
    def chats_ok(self) -> bool:
        """Whether there were chats and all came out right."""
        return self._all_right("chat", self.chats)

    @property
    def conversations_ok(self) -> bool:
        """Whether there were conversations with tools and all came out right."""
        return self._all_right("conversation", self.conversations)

    @property
    def replies_ok(self) -> bool:
        """Whether there were replies to them and all came out right."""
        return self._all_right("reply", self.replies)

    @property
    def ok(self) -> bool:
        """Whether everything came out right, of texts and chats or of conversations and replies."""
        checked = (self.texts_ok and self.chats_ok) or (self.conversations_ok and self.replies_ok)
        return checked and not self.failures

    def _all_right(self, kind: str, count: int) -> bool:
        return count > 0 and not any(failure.kind == kind for failure in self.failures)


def verify_tokenizer(folder: Path, cases_file: Path, family: Family) -> TokenizerReport:
    """Encode and decode every case of a family.

    Raises CheckpointError for a tokenizer and UnusableReference for cases that cannot be read.
    """
    tokenizer = cast("FamilyTokenizer", load_tokenizer(folder, family))
    cases = _cases_of(cases_file, family)
    checks = {"texts": _check_text, "chats": _check_chat, "conversations": _check_tools, "replies": _check_reply}
    entries = {name: _entries(cases, name, cases_file) for name in checks}
    failures: list[TokenizerFailure] = []
    try:
        for name, check in checks.items():
            for index, case in enumerate(entries[name]):
                failures += check(tokenizer, index, case)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnusableReference(
            path=str(cases_file), reason=Sentence("reference.incomplete", problem=str(error))
        ) from error
    return TokenizerReport(family, **{name: len(found) for name, found in entries.items()}, failures=tuple(failures))


def _cases_of(path: Path, family: Family) -> Mapping[str, object]:
    if not path.is_file():
        raise UnusableReference(path=str(path), reason=Sentence("file.absent"))
    try:
        document = read_json(path)
    except CheckpointError as error:
        raise UnusableReference(path=str(path), reason=error.fields.get("reason", error)) from error
    for key, cases in (*document.items(), (str(document.get("family", "")), document)):
        if _called(key) == family and isinstance(cases, dict):
            return cases
    raise UnusableReference(path=str(path), reason=Sentence("reference.no_family", family=family))


def _called(key: str) -> str:
    """The family of a key such as ``chatglm2-6b`` or ``glm-4-9b-chat``."""
    return "glm4" if re.match("glm-?(4|edge)", key.lower()) else key.lower().split("-")[0]


def _entries(cases: Mapping[str, object], name: str, path: Path) -> list[dict[str, object]]:
    found = cases.get(name, [])
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise UnusableReference(path=str(path), reason=Sentence("reference.not_cases", name=name))
    return found


def _check_text(tokenizer: FamilyTokenizer, index: int, case: dict[str, object]) -> list[TokenizerFailure]:
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


def _has_control(tokenizer: FamilyTokenizer, ids: list[int]) -> bool:
    return not tokenizer.control_ids.isdisjoint(ids)


def _check_chat(tokenizer: FamilyTokenizer, index: int, case: dict[str, object]) -> list[TokenizerFailure]:
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


def _check_tools(tokenizer: FamilyTokenizer, index: int, case: dict[str, object]) -> list[TokenizerFailure]:
    turns = cast("list[dict[str, Any]]", case["messages"])
    messages = [
        Offer("system", offer_text(turn["tools"]))
        if "tools" in turn
        else Message(
            "tool" if turn["role"] == "observation" else turn["role"], turn["content"], turn.get("metadata", "")
        )
        for turn in turns
    ]
    ids = list(tokenizer.encode_chat(messages).ids)
    return [] if ids == case["input_ids"] else [TokenizerFailure("conversation", index, "ids", case["input_ids"], ids)]


def _check_reply(tokenizer: FamilyTokenizer, index: int, case: dict[str, object]) -> list[TokenizerFailure]:
    """A reply's text and call. What is no call of a known tool is text, and so is what ``differs`` on purpose."""
    reader, decoder = ReplyReader(cast("list[str]", case["tools"])), tokenizer.stream()
    text = ""
    for token in cast("list[int]", case["output_ids"]):
        ends = token in tokenizer.part_ids
        text += reader.add(decoder.finish() if ends else decoder.add(token), ends_part=ends)
    text += reader.add(decoder.finish()) + reader.finish()
    expected = cast("dict[str, Any]", case["expected"])
    call = expected["call"] if expected.get("known_tool") else None
    content = str(case["decoded"]).strip()
    if call:
        content = "\n".join(turn["content"] for turn in expected["messages"] if not turn["metadata"])
    elif "content" in expected and "differs" not in case:
        content = expected["content"]
    calls = [{"name": found.name, "arguments": json.loads(found.arguments)} for found in reader.calls]
    compared = {"call": ([call] if call else [], calls), "text": (content, text)}
    return [
        TokenizerFailure("reply", index, what, wanted, found)
        for what, (wanted, found) in compared.items()
        if wanted != found
    ]


def _message(role: Role, content: object) -> Message:
    return Message(role, str(content))
