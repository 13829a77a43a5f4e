"""A deterministic model and a byte tokenizer, small enough to count their work."""
# ruff: noqa: D102 - the protocols describe these methods

from __future__ import annotations

import codecs
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from chatglm_backend.core import CancelToken, GenerationParams, GenerationRequest, Message, PromptFormat
from chatglm_backend.engine.engine import Engine
from chatglm_backend.engine.options import EngineOptions
from chatglm_backend.models.base import Feed
from chatglm_backend.models.config import Family, ModelConfig
from chatglm_backend.models.positions import PositionPlan
from chatglm_backend.tokenizers.base import EncodedPrompt

OFF = EngineOptions(draft_tokens=0, prefix_cache_bytes=0)
VOCAB = 260
STOP_ID = 256


class FakeClock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class FakeCache:
    """Remembers the ids themselves."""

    def __init__(self, capacity: int, adapter: Any = None) -> None:
        self.ids: list[int] = []
        self.capacity = capacity
        self.adapter = adapter
        self.bytes_per_token = 10
        self.plan = PositionPlan()

    @property
    def length(self) -> int:
        return len(self.ids)

    @property
    def nbytes(self) -> int:
        return self.capacity * self.bytes_per_token

    def truncate(self, length: int) -> None:
        assert length <= len(self.ids)
        del self.ids[length:]

    def copy_prefix_from(self, other: FakeCache, length: int) -> None:
        assert other.plan.context <= length <= other.length
        self.ids, self.plan = other.ids[:length], other.plan

    def append(self, ids: Iterable[int]) -> None:
        self.ids += ids
        assert len(self.ids) <= self.capacity


class FakePrefill:
    """``units`` units for any prompt; the last one writes the cache."""

    def __init__(self, model: FakeModel, ids: Sequence[int], cache: FakeCache, logit_rows: int) -> None:
        self.total = len(ids)
        self._logit_rows = logit_rows
        self._model, self._ids, self._cache = model, ids, cache
        self._units = 0

    @property
    def done(self) -> int:
        return self.total * self._units // self._model.units

    @property
    def logits(self) -> Tensor:
        assert self._units == self._model.units
        count = len(self._cache.ids)
        return torch.stack([self._model.row(self._cache.ids[: count - i]) for i in reversed(range(self._logit_rows))])

    def advance(self) -> bool:
        self._model.note("unit", self._model.unit_s)
        if self._model.explode_on in self._ids:
            raise RuntimeError("boom in a layer")
        self._units += 1
        if self._units == self._model.units:
            if self._model.family == "chatglm" and not self._cache.length:
                self._cache.plan = PositionPlan(context=len(self._ids) - 1, mask=0)
            self._cache.append(self._ids)
            return True
        return False


def hash_row(ids: Sequence[int]) -> Tensor:
    """Logits that depend on every id before; never the stop id unless the hash says so."""
    generator = torch.Generator()
    generator.manual_seed(zlib.crc32(repr(list(ids)).encode()))
    return torch.randn(VOCAB, generator=generator)


@dataclass
class FakeModel:
    """Counts its work in ``log``; ``script`` replaces the hash by logits of your own."""

    family: Family = "chatglm2"
    context_limit: int = 256
    units: int = 4
    unit_s: float = 0.0
    decode_s: float = 0.0
    clock: FakeClock = field(default_factory=FakeClock)
    row: Callable[[Sequence[int]], Tensor] = hash_row
    explode_on: int = -1
    log: list[str] = field(default_factory=list)
    rows_decoded: int = 0
    most_logit_rows: int = 0
    on_work: Callable[[str], None] = lambda _: None
    settled: bool = True

    def __post_init__(self) -> None:
        self.config = ModelConfig(self.family, 2, 8, 1, 1, 8, 8, VOCAB, self.context_limit, 1e-5, (STOP_ID,))

    def note(self, what: str, seconds: float) -> None:
        self.log.append(what)
        self.clock.now += seconds
        self.on_work(what)

    def new_cache(self, capacity: int, adapter: Any = None) -> Any:
        assert capacity <= self.context_limit
        return FakeCache(capacity, adapter)

    def prefill(self, ids: Sequence[int], cache: Any, *, max_rows: int = 128, logit_rows: int = 1) -> Any:
        del max_rows
        self.most_logit_rows = max(self.most_logit_rows, logit_rows)
        return FakePrefill(self, ids, cache, logit_rows)

    def decode(self, feeds: Sequence[Feed]) -> Tensor:
        self.note(f"decode{len(feeds)}", self.decode_s)
        rows = []
        for feed in feeds:
            cache: Any = feed.cache
            for token in feed.ids:
                cache.append([token])
                rows.append(self.row(cache.ids))
        self.rows_decoded += len(rows)
        return torch.stack(rows)


class ByteDecoder:
    """UTF-8 bytes to text, never half a character."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, token_id: int) -> str:
        return self._decoder.decode(bytes([token_id])) if token_id < 256 else ""

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


class ByteTokenizer:
    """Ids 0 to 255 are UTF-8 bytes, 256 ends the answer."""

    family: Family = "chatglm2"
    stop_ids = frozenset({STOP_ID})
    part_ids: frozenset[int] = frozenset()
    control_ids = frozenset(range(STOP_ID, VOCAB))
    vocab_size = VOCAB

    def encode_text(self, text: str) -> list[int]:
        return list(text.encode("utf-8", "replace"))

    def encode_prompt(self, prompt: str, prompt_format: PromptFormat) -> EncodedPrompt:
        del prompt_format
        return EncodedPrompt(tuple(self.encode_text(prompt)), prompt)

    def encode_chat(self, messages: Sequence[Message]) -> EncodedPrompt:
        text = "".join(f"{m.role}:{m.content}\n" for m in messages)
        return EncodedPrompt(tuple(self.encode_text(text)), text)

    def decode(self, ids: Sequence[int]) -> str:
        stream = self.stream()
        return "".join([*map(stream.add, ids), stream.finish()])

    def spelling(self, token_id: int) -> bytes:
        return bytes([token_id]) if token_id < 256 else b""

    def stream(self) -> Any:
        return ByteDecoder()


def script_row(answer: Sequence[int], prompt_length: int) -> Callable[[Sequence[int]], Tensor]:
    """Logits whose best token is always the next of ``answer``, then the stop id."""

    def row(ids: Sequence[int]) -> Tensor:
        place = len(ids) - prompt_length
        logits = torch.zeros(VOCAB)
        logits[answer[place] if place < len(answer) else STOP_ID] = 5.0
        return logits

    return row


def collect(engine: Any, sequences: Sequence[Any], limit: int = 10_000) -> dict[Any, list[Any]]:
    """Step until every sequence has ended; what each was told."""
    told: dict[Any, list[Any]] = {sequence: [] for sequence in sequences}
    for _ in range(limit):
        if engine.idle:
            return told
        for sequence, result in engine.step():
            told[sequence].append(result)
    raise AssertionError("the engine did not come to an end")


def text_of(events: Iterable[Any]) -> str:
    """The concatenated texts of a stream."""
    return "".join(event.text for event in events if hasattr(event, "text"))


def ask(prompt: str, name: str = "r", **params: Any) -> GenerationRequest:
    """Return a request for 12 tokens unless told otherwise."""
    return GenerationRequest(name, prompt=prompt, params=GenerationParams(**{"max_new_tokens": 12, **params}))


def engine_of(model: FakeModel | None = None, options: EngineOptions = OFF) -> Engine:
    """Return an engine over the fakes, on the model's clock."""
    model = model or FakeModel()
    return Engine(model, ByteTokenizer(), options, clock=model.clock)


def start(engine: Engine, request: GenerationRequest, cancel: CancelToken | None = None) -> Any:
    """Start a request now."""
    return engine.start(request, cancel or CancelToken(), 0.0)


def answer(text: str, prompt: str, options: EngineOptions = OFF, **params: Any) -> list[Any]:
    """Return the events of a model that wants to say ``text``."""
    model = FakeModel(row=script_row(text.encode(), len(prompt.encode())))
    return list(engine_of(model, options).generate(ask(prompt, **{"max_new_tokens": 200, **params})))
