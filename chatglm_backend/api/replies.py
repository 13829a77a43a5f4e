"""Replies in OpenAI's form, whole and in chunks. Knows no HTTP and no service."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from chatglm_backend.core import FinishReason, Usage

_WORDS = {FinishReason.STOP: "stop", FinishReason.LENGTH: "length", FinishReason.TIMEOUT: "length"}


def finish_word(reason: FinishReason) -> str | None:
    """OpenAI's word; an answer cut off by the time limit counts as cut off. ``None`` for one that was stopped."""
    return _WORDS.get(reason)


def sse(value: object) -> bytes:
    """One event of a stream."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return f"data: {text}\n\n".encode()


@dataclass(frozen=True, slots=True)
class Shape:
    """Makes the objects of one answer. ``created`` is in Unix seconds."""

    kind: Literal["chat", "text"]
    request_id: str
    created: int
    model: str

    def whole(self, text: str, finish: str, usage: Usage) -> dict[str, Any]:
        """The answer in one piece."""
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": finish}
        if self.kind == "chat":
            choice["message"] = {"role": "assistant", "content": text, "refusal": None}
        else:
            choice["text"] = text
        return {**self._head(streamed=False), "choices": [choice], "usage": _counts(usage)}

    def first(self) -> dict[str, Any] | None:
        """The chunk that opens a chat's stream."""
        return self._chunk({"role": "assistant", "content": ""}, None) if self.kind == "chat" else None

    def piece(self, text: str) -> dict[str, Any]:
        """A chunk with text."""
        return self._chunk({"content": text} if self.kind == "chat" else text, None)

    def last(self, finish: str) -> dict[str, Any]:
        """The chunk that says why the answer ended."""
        return self._chunk({} if self.kind == "chat" else "", finish)

    def usage(self, usage: Usage) -> dict[str, Any]:
        """The chunk with the token counts."""
        return {**self._head(streamed=True), "choices": [], "usage": _counts(usage)}

    def _chunk(self, part: dict[str, str] | str, finish: str | None) -> dict[str, Any]:
        name = "delta" if self.kind == "chat" else "text"
        choice = {"index": 0, name: part, "logprobs": None, "finish_reason": finish}
        return {**self._head(streamed=True), "choices": [choice]}

    def _head(self, *, streamed: bool) -> dict[str, Any]:
        name = "text_completion"
        if self.kind == "chat":
            name = "chat.completion.chunk" if streamed else "chat.completion"
        return {"id": self.request_id, "object": name, "created": self.created, "model": self.model}


def _counts(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }
