"""What may come next in an answer that has to fit a JSON schema.

llguidance knows the grammar; here it meets our vocabularies, and what it allows becomes a mask over logits. It is
imported when the first such answer is asked for.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import Tensor

from chatglm_backend.engine.json_schema import read_schema, reason_of, refusal
from chatglm_backend.errors import EngineFailure
from chatglm_backend.installed import missing_sentence
from chatglm_backend.sentences import Sentence
from chatglm_backend.tokenizers.base import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

# An answer may begin with the line break and the space that models begin with; inside, a space may follow a mark,
# and nothing else: white space without bounds would be a way of never coming to an end.
_ANSWER: Final = "start: LEAD? @answer\nLEAD: /[ \\n]{1,4}/\n"
_SPACING: Final = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}


class Grammars:
    """Makes the grammars of one model's answers; reads its whole vocabulary for the first. Thread-safe."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, stop_ids: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._stop_ids = sorted(token for token in stop_ids if token < vocab_size)
        self._lock = threading.Lock()
        self._vocabulary: LLTokenizer | None = None

    def begin(self, schema: str, begun: Sequence[int] = ()) -> Grammar:
        """The grammar of an answer that fits ``schema``, and whose tokens ``begun`` are there already.

        Raises UnusableSchema for one that cannot be kept to, or that the beginning does not fit.
        """
        try:
            from llguidance import LLMatcher, LLParserLimits
        except ModuleNotFoundError as error:
            raise EngineFailure(reason=missing_sentence(error)) from error

        wanted = {**read_schema(schema), "x-guidance": _SPACING}
        parts = {"grammars": [{"lark_grammar": _ANSWER}, {"name": "answer", "json_schema": wanted}]}
        limits = LLParserLimits(verbose_errors=False)
        matcher = LLMatcher(self._read(), json.dumps(parts), log_level=0, limits=limits)
        matcher.compute_bitmask()  # some faults show only here
        if matcher.is_error():
            raise refusal(reason_of(matcher.get_error()))
        if matcher.try_consume_tokens(list(begun)) != len(begun):
            raise refusal(Sentence("schema.begun"))
        return Grammar(matcher, self._vocab_size, self._stop_ids)

    def _read(self) -> LLTokenizer:
        from llguidance import LLTokenizer, TokenizerWrapper

        with self._lock:
            if self._vocabulary is None:
                self._vocabulary = LLTokenizer(TokenizerWrapper(_Vocabulary(self._tokenizer, self._vocab_size)))
            return self._vocabulary


class Grammar:
    """The grammar of one answer, at the place that the answer has reached. Not thread-safe."""

    def __init__(self, matcher: LLMatcher, vocab_size: int, stop_ids: Sequence[int]) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._stop_ids = stop_ids

    def mask(self, logits: Tensor) -> Tensor:
        """``logits`` [vocab] with only those tokens possible that may come next. Raises EngineFailure."""
        words = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        bits = np.unpackbits(words, count=self._vocab_size + 1, bitorder="little")
        may_end = bool(bits[-1])
        # Where something fails inside, the only thing allowed is the end.
        if self._matcher.is_error() or (may_end and not self._matcher.is_accepting()):
            self._fail()
        if may_end:
            bits[self._stop_ids] = 1
        allowed = torch.from_numpy(bits[:-1]).bool()
        return logits.masked_fill(~allowed[: len(logits)], -torch.inf)

    def fitting(self, ids: Sequence[int]) -> int:
        """How many of ``ids`` may come next, one after the other."""
        return self._matcher.validate_tokens(list(ids))

    def certain(self) -> list[int]:
        """The ids that come next whatever the model likes, such as a property's name."""
        return self._matcher.compute_ff_tokens()

    def accept(self, token: int) -> bool:
        """Go on behind ``token``; returns whether the answer is whole and nothing may follow. Raises EngineFailure."""
        if not self._matcher.consume_token(token):
            self._fail()
        return self._matcher.is_stopped()

    def _fail(self) -> None:
        raise EngineFailure(reason=Sentence("engine.grammar", reason=self._matcher.stop_reason()))


class _Vocabulary:
    """What llguidance asks of a tokenizer: each id's bytes in the middle of a text, and a text's ids there.

    The end is an id of its own behind all others. Control ids have no bytes, so no grammar allows them.
    """

    eos_token_id = bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        silent = tokenizer.control_ids
        self.tokens = [b"" if token in silent else tokenizer.spelling(token) for token in range(vocab_size)]
        self._by_bytes = {spelt: token for token, spelt in reversed([*enumerate(self.tokens)]) if spelt}
        self._longest = max(map(len, self._by_bytes), default=0)

    def __call__(self, data: bytes) -> list[int]:
        """The ids of valid UTF-8, as the model would write it; whatever happens, their bytes are ``data``."""
        # Behind a line break, no family adds a space of its own.
        ids = self._tokenizer.encode_text("\n" + data.decode())
        for start in range(min(len(ids), 4)):
            if b"".join(self.tokens[token] for token in ids[start:]) == data:
                return ids[start:]
        return self._pieced(data)

    def _pieced(self, data: bytes) -> list[int]:
        """The longest pieces in a row."""
        found: list[int] = []
        while data:
            length = next((n for n in range(min(self._longest, len(data)), 0, -1) if data[:n] in self._by_bytes), 0)
            if not length:  # a byte that no piece has
                break
            found.append(self._by_bytes[data[:length]])
            data = data[length:]
        return found
