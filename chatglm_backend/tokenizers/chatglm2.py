"""The tokenizer (``tokenizer.model``) that ChatGLM2-6B and ChatGLM3-6B share, and their two chat formats.

Special ids are not in the sentencepiece model: they follow its last piece in a fixed order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from chatglm_backend.core import Message, Offer, PromptFormat
from chatglm_backend.tokenizers.base import EncodedPrompt, Family, SentencePieceTokenizer, rounds_of, system_first
from chatglm_backend.tokenizers.tools import call_text, tools_text

MODEL_FILE: Final = "tokenizer.model"
_SPECIALS: Final = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop")
_ROLES: Final = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")


class ChatGLM2Tokenizer(SentencePieceTokenizer):
    """See :class:`~chatglm_backend.tokenizers.base.Tokenizer`; ``family`` chooses the chat format."""

    def __init__(self, folder: Path, family: Family) -> None:
        super().__init__(folder / MODEL_FILE)
        self.family = family
        names = (*_SPECIALS, *_ROLES) if family == "chatglm3" else _SPECIALS
        self._special = {name: self._pieces.size + i for i, name in enumerate(names)}
        self.eos_id = int(self._processor.eos_id())
        roles = (self._special[name] for name in ("<|user|>", "<|observation|>") if name in self._special)
        self.stop_ids = frozenset((self.eos_id, *roles))
        self.part_ids = frozenset(self._special[name] for name in ("<|assistant|>",) if name in self._special)
        self.vocab_size = self._pieces.size + len(names)

    @property
    def control_ids(self) -> frozenset[int]:
        """Every id that steers the model and that no typed text may become."""
        own = (piece for piece in range(self._pieces.size) if self._pieces.is_control(piece))
        return frozenset((*own, *self._special.values()))

    def encode_prompt(self, prompt: str, prompt_format: PromptFormat) -> EncodedPrompt:
        """See :class:`Tokenizer`. A text as typed goes on directly: a space after it is part of what follows."""
        encoded = super().encode_prompt(prompt, prompt_format)
        return replace(encoded, begun=1) if prompt_format == "raw" and prompt else encoded

    def _encode_asked(self, messages: Sequence[Message]) -> EncodedPrompt:
        """ChatGLM2 has no system role: the text goes in front of the first round."""
        if self.family == "chatglm3":
            return self._encode_roles(messages)
        system, rounds, question = rounds_of(messages)
        finished = "".join(f"[Round {i}]\n\n问：{q}\n\n答：{a}\n\n" for i, (q, a) in enumerate(rounds, start=1))
        text = f"{finished}[Round {len(rounds) + 1}]\n\n问：{question}\n\n答："
        return self._encoded(f"{system}\n\n{text}" if system else text)

    def _answer_ids(self, text: str) -> list[int]:
        line = self.encode_text("\n") if self.family == "chatglm3" else []
        return [*line, *self.encode_text(text)]

    def _encode_roles(self, messages: Sequence[Message]) -> EncodedPrompt:
        ids: list[int] = []
        text = ""
        for message in system_first(_offered(messages)):
            role = f"<|{'observation' if message.role == 'tool' else message.role}|>"
            # Encoded apart, as the authors do: joined, the line break would merge into the content's first piece.
            head, content = f"{message.tool}\n", call_text(message.content) if message.tool else message.content
            ids += [self._special[role], *self.encode_text(head), *self.encode_text(content)]
            text += f"{role}{head}{content}\n"
        ids.append(self._special["<|assistant|>"])
        return EncodedPrompt(self._with_control_ids(ids), text + "<|assistant|>")

    def _with_control_ids(self, ids: Iterable[int]) -> tuple[int, ...]:
        return (self._special["[gMASK]"], self._special["sop"], *ids)


def _offered(messages: Sequence[Message]) -> list[Message]:
    """The conversation with an offer of tools in ChatGLM3's form; more of a system stands in a paragraph below."""
    last = [one.role for one in messages].count("system") == 1
    return [
        Message("system", tools_text(one.content) + ("" if last else "\n")) if isinstance(one, Offer) else one
        for one in messages
    ]
