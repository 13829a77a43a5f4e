"""A tokenizer for benchmarks: the prompt ``"128/3"`` is a prompt of 128 tokens, the fourth of its kind.

The ids are arbitrary, differ from prompt to prompt (so that nothing is reused), and are valid
for any vocabulary of a few hundred ids. Text never matters to speed, so none is made unless asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from chatglm_backend.core import Message, PromptFormat
from chatglm_backend.models.config import ModelConfig
from chatglm_backend.tokenizers.base import EncodedPrompt, Family
from chatglm_backend.tokenizers.streaming import StreamingDecoder


class _Speech:
    """A streaming decoder that says something for each id."""

    def __init__(self, say: Callable[[int], str]) -> None:
        self.add = say

    def finish(self) -> str:
        return ""


class CountedPrompts:
    """:class:`~chatglm_backend.tokenizers.base.Tokenizer` whose prompts are lengths; answers are what ``say`` makes."""

    def __init__(self, config: ModelConfig, say: Callable[[int], str] = lambda _: "") -> None:
        self._say = say
        self.family: Family = config.family
        self.stop_ids: frozenset[int] = frozenset()
        self.part_ids: frozenset[int] = frozenset()
        self.control_ids: frozenset[int] = frozenset()
        self.vocab_size = config.vocab_size
        self._tail = [i for i in (config.gmask_id, config.bos_id) if i is not None]
        special = [*config.stop_ids, *self._tail, *([config.mask_id] if config.mask_id is not None else [])]
        self._usable = [i for i in range(5, min(config.vocab_size, 50_000)) if i not in special]

    def encode_text(self, text: str) -> list[int]:  # noqa: ARG002 - the tokenizer's signature
        """Return no ids: benchmarks have no text."""
        return []

    def encode_prompt(self, prompt: str, prompt_format: PromptFormat) -> EncodedPrompt:  # noqa: ARG002
        """``"tokens/variant"`` -> that many ids. Raises ValueError for other text."""
        length, variant = (int(part) for part in prompt.split("/"))
        body = length - len(self._tail)
        ids = [self._usable[(i * 7919 + variant * 104_729) % len(self._usable)] for i in range(body)]
        return EncodedPrompt((*ids, *self._tail), "")

    def encode_chat(self, messages: Sequence[Message]) -> EncodedPrompt:
        """Read the last message as a prompt."""
        return self.encode_prompt(messages[-1].content, "raw")

    def decode(self, ids: Sequence[int]) -> str:  # noqa: ARG002 - the tokenizer's signature
        """Return no text."""
        return ""

    def spelling(self, token_id: int) -> bytes:  # noqa: ARG002 - the tokenizer's signature
        """Return no text."""
        return b""

    def stream(self) -> StreamingDecoder:
        """Return a decoder for an answer."""
        return cast("StreamingDecoder", _Speech(self._say))
