"""Replies in OpenAI's form, whole and in chunks. Knows no HTTP and no service."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

from chatglm_backend.api.tools import deltas, message_fields
from chatglm_backend.core import FinishReason, TokenChance, Usage
from chatglm_backend.tokenizers.tools import ToolCall

Chances = Sequence[tuple[TokenChance, ...]]
"""Of each token its own chance and those of the likeliest; empty where none were asked for."""

_IMPOSSIBLE = -9999.0
_WORDS = {FinishReason.STOP: "stop", FinishReason.LENGTH: "length", FinishReason.TIMEOUT: "length"}


def finish_word(reason: FinishReason, calls: Sequence[ToolCall] = ()) -> str | None:
    """OpenAI's word; an answer cut off by the time limit counts as cut off. ``None`` for one that was stopped."""
    word = _WORDS.get(reason)
    return "tool_calls" if word and calls else word


def sse(value: object) -> bytes:
    """One event of a stream."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return f"data: {text}\n\n".encode()


@dataclass(frozen=True, slots=True)
class Shape:
    """Makes the objects of one answer. ``created`` is in Unix seconds; ``counted`` streams end with token counts."""

    kind: Literal["chat", "text"]
    request_id: str
    created: int
    model: str
    counted: bool = False

    def whole(self, choices: Sequence[dict[str, Any]], usage: Usage) -> dict[str, Any]:
        """All answers in one piece; see :meth:`choice`."""
        return {**self._head(streamed=False), "choices": choices, "usage": _counts(usage)}

    def choice(
        self, index: int, echo: str, text: str, finish: str, chances: Chances, calls: Sequence[ToolCall] = ()
    ) -> dict[str, Any]:
        """One whole answer, ``echo`` before it."""
        said: dict[str, Any] = {"text": echo + text}
        if self.kind == "chat":
            said = {"message": {"role": "assistant", **message_fields(text, calls), "refusal": None}}
        return {"index": index, **said, "logprobs": self._logprobs(chances), "finish_reason": finish}

    def first(self, index: int) -> dict[str, Any] | None:
        """The chunk that opens an answer of a chat's stream."""
        return self._chunk(index, {"role": "assistant", "content": ""}, None) if self.kind == "chat" else None

    def piece(self, index: int, text: str, chances: Chances = (), offset: int = 0) -> dict[str, Any]:
        """A chunk with text; ``offset`` is how many characters its tokens have before them."""
        return self._chunk(index, {"content": text} if self.kind == "chat" else text, None, chances, offset)

    def calls(self, index: int, calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
        """The chunks with an answer's calls of tools."""
        return [self._chunk(index, delta, None) for delta in deltas(calls)]

    def last(self, index: int, finish: str) -> dict[str, Any]:
        """The chunk that says why an answer ended."""
        return self._chunk(index, {} if self.kind == "chat" else "", finish)

    def usage(self, usage: Usage) -> dict[str, Any]:
        """The chunk with the token counts."""
        return {**self._head(streamed=True), "choices": [], "usage": _counts(usage)}

    def _chunk(
        self, index: int, part: dict[str, Any] | str, finish: str | None, chances: Chances = (), offset: int = 0
    ) -> dict[str, Any]:
        name = "delta" if self.kind == "chat" else "text"
        choice = {"index": index, name: part, "logprobs": self._logprobs(chances, offset), "finish_reason": finish}
        return {**self._head(streamed=True), "choices": [choice], **({"usage": None} if self.counted else {})}

    def _logprobs(self, chances: Chances, offset: int = 0) -> dict[str, Any] | None:
        """In the form of chats, or the older one of completions; ``None`` where there are none."""
        given = [one for one in chances if one]
        if not given:
            return None
        if self.kind == "chat":
            return {"content": [{**_chance(own), "top_logprobs": [*map(_chance, top)]} for own, *top in given]}
        tokens = [spelt(own) for own, *_ in given]
        return {
            "tokens": tokens,
            "token_logprobs": [_finite(own.logprob) for own, *_ in given],
            "top_logprobs": [
                None if own.logprob is None else {spelt(one): _finite(one.logprob) for one in top}
                for own, *top in given
            ],
            "text_offset": list(accumulate(map(len, tokens), initial=offset))[:-1],
        }

    def _head(self, *, streamed: bool) -> dict[str, Any]:
        name = "text_completion"
        if self.kind == "chat":
            name = "chat.completion.chunk" if streamed else "chat.completion"
        return {"id": self.request_id, "object": name, "created": self.created, "model": self.model}


def spelt(one: TokenChance) -> str:
    """A token as text; part of a character is a mark."""
    return one.spelling.decode("utf-8", "replace")


def _chance(one: TokenChance) -> dict[str, Any]:
    return {"token": spelt(one), "logprob": _finite(one.logprob), "bytes": list(one.spelling)}


def _finite(logprob: float | None) -> float | None:
    """JSON has no infinity; OpenAI writes -9999 for what cannot be. Also for what is no number."""
    return None if logprob is None else max(_IMPOSSIBLE, logprob)


def _counts(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }
