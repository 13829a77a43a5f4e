"""GLM-4's and GLM-Edge's tokenizer, byte-level, and their chat format: the folder's own template, or the family's."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from chatglm_backend.core import Message, Offer
from chatglm_backend.errors import DamagedFile
from chatglm_backend.sentences import Sentence
from chatglm_backend.textfile import read_json
from chatglm_backend.tokenizers.base import (
    EncodedPrompt,
    Family,
    FamilyTokenizer,
    system_first,
    without_lone_surrogates,
)
from chatglm_backend.tokenizers.byte_level import ByteLevelVocabulary, read_byte_level
from chatglm_backend.tokenizers.template import read_template

_FRONT: Final = ("[gMASK]", "<sop>")
_ENDS: Final = ("<|endoftext|>", "<|user|>", "<|observation|>")
_ANSWER: Final = "<|assistant|>"
_APART: Final = "\ue002"
_JOINED: Final = re.compile(f"(.){_APART}", re.DOTALL)


class GLM4Tokenizer(FamilyTokenizer):
    """See :class:`~chatglm_backend.tokenizers.base.Tokenizer`."""

    family: Family = "glm4"

    def __init__(self, folder: Path) -> None:
        """Raises MissingFile, LfsPointerFile, DamagedFile."""
        self._vocabulary: ByteLevelVocabulary = read_byte_level(folder)
        super().__init__(self._vocabulary)
        self._special = {name: one.token_id for name, one in self._vocabulary.added.items() if one.special}
        for name in (*_FRONT, *_ENDS, _ANSWER):
            if name not in self._special:
                raise DamagedFile(path=folder, reason=Sentence("file.no_token", name=name))
        self._names = re.compile(f"({'|'.join(map(re.escape, sorted(self._special, key=len, reverse=True)))})")
        self._template = read_template(folder)
        front = _is_not_edge(folder) if self._template is None else "".join(_FRONT) in self._template.source
        self._front = tuple(self._special[name] for name in _FRONT) if front else ()
        last = self._laid_out([Message("user", "?")])[-1]
        self._line = "" if isinstance(last, str) and last.endswith("\n") else "\n"
        self.stop_ids = frozenset(self._special[name] for name in _ENDS)
        self.part_ids = frozenset((self._special[_ANSWER],))
        self.vocab_size = self._vocabulary.size

    @property
    def control_ids(self) -> frozenset[int]:
        """Every id that steers the model and that no typed text may become."""
        return frozenset(one.token_id for one in self._vocabulary.added.values())

    def encode_text(self, text: str) -> list[int]:
        """See :class:`Tokenizer`."""
        return self._vocabulary.encode(without_lone_surrogates(text))

    def _encode_asked(self, messages: Sequence[Message]) -> EncodedPrompt:
        """A content is encoded apart from what stands around it, as the authors do."""
        ids: list[int] = []
        text = ""
        tools = [tool for one in messages if isinstance(one, Offer) for tool in self._tools(one.content)]
        told = [one for one in messages if not isinstance(one, Offer)]
        for part in self._laid_out(system_first(told), tools):
            if isinstance(part, Message):
                ids += self.encode_text(part.content)
                text += part.content
                continue
            for piece in self._names.split(part):
                ids += [self._special[piece]] if piece in self._special else self.encode_text(_joined(piece))
            text += _joined(part)
        return EncodedPrompt(tuple(ids), text)

    def _tools(self, offer: str) -> list[dict[str, object]]:
        """In the form in which templates take them; control names and marks in them are taken apart, and stay text."""
        found = re.sub(
            f"{self._names.pattern}|[\ue000{_APART}]", lambda name: f"{name[0][0]}{_APART}{name[0][1:]}", offer
        )
        return [{"type": "function", "function": function} for function in json.loads(found)]

    def _laid_out(self, messages: Sequence[Message], tools: Sequence[object] = ()) -> list[str | Message]:
        if self._template is not None:
            return self._template.lay_out(messages, tools)
        parts: list[str | Message] = ["".join(_FRONT)] if self._front else []
        for message in messages:
            role = "observation" if message.role == "tool" else message.role
            parts += [f"<|{role}|>", Message(message.role, f"{message.tool}\n"), message]
        return [*parts, _ANSWER]

    def _answer_ids(self, text: str) -> list[int]:
        return [*self.encode_text(self._line), *self.encode_text(text)]

    def _with_control_ids(self, ids: Iterable[int]) -> tuple[int, ...]:
        return (*self._front, *ids)


def _joined(text: str) -> str:
    """Undo what took names apart."""
    return _JOINED.sub(r"\1", text)


def _is_not_edge(folder: Path) -> bool:
    """GLM-Edge's prompts have nothing in front; of these models it alone has no biases."""
    return read_json(folder / "config.json", optional=True).get("attention_bias", True) is not False
