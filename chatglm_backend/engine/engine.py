"""The one loop that makes tokens.

The life of a request:

1. Prepare: the prompt becomes token ids, which must fit the context. Any thread may do this.
2. Wait: it stands in the worker's queue until its turn has come and there is memory for its K/V.
3. Start: it becomes a sequence with a KV cache, filled as far as the prefix cache knows its prompt.
4. Schedule: every step begins by deciding, from the sequences' states, who decodes and whose prompt is read.
5. Run, prefill: the oldest prompt is read in units of one layer and some rows; its end gives the first token.
6. Run, decode: all others get their next token in one batch, and more than one where draft tokens prove right.
7. Settle: events are handed out; whoever has ended or was cancelled leaves, and its K/V stay for a follow-up.
8. End: the last word is an event with usage and timing, or an error that is this request's alone.

Batch-first and single-threaded; whoever calls it decides about queues and threads. Knows no visitor's page and no file.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from torch import Tensor

from chatglm_backend.core import CancelToken, Clock, Event, GenerationRequest, monotonic_clock
from chatglm_backend.engine.draft import Drafter, DraftSource, PromptLookup, StepCosts
from chatglm_backend.engine.grammar import Grammars
from chatglm_backend.engine.kept_prefixes import KeptPrefixes
from chatglm_backend.engine.options import EngineOptions, PreparedRequest
from chatglm_backend.engine.prefix_cache import PrefixCache
from chatglm_backend.engine.schedule import allows_another_unit, plan_step
from chatglm_backend.engine.sequence import Sequence, StepResult
from chatglm_backend.engine.timing import RequestTimer
from chatglm_backend.engine.told_prompt import ToldPrefill
from chatglm_backend.errors import ContextLimitExceeded, EngineFailure, InvalidRequest, RequestError, UnknownAdapter
from chatglm_backend.models.adapter import Adapter
from chatglm_backend.models.base import ChatModel
from chatglm_backend.models.kv_cache import KVCache
from chatglm_backend.models.prefill import Prefill
from chatglm_backend.models.rows import Feed
from chatglm_backend.sentences import Sentence
from chatglm_backend.tokenizers.base import EncodedPrompt, Tokenizer
from chatglm_backend.tokenizers.streaming import SpelledDecoder, StreamingDecoder

_CUE = 8
_log = logging.getLogger(__name__)


class Engine:
    """Makes tokens with one model. All methods but :meth:`encode` and :meth:`prepare` belong to one thread."""

    def __init__(
        self,
        model: ChatModel,
        tokenizer: Tokenizer,
        options: EngineOptions | None = None,
        *,
        clock: Clock = monotonic_clock,
        draft_source: Callable[[tuple[int, ...]], DraftSource] = PromptLookup,
        kept: KeptPrefixes | None = None,
    ) -> None:
        """``draft_source`` makes the source of draft tokens from what is known; ``kept`` is what the disk knows."""
        self.options = options or EngineOptions()
        self.prefix_cache = PrefixCache(model.new_cache, max_bytes=self.options.prefix_cache_bytes)
        self._model = model
        self._tokenizer = tokenizer
        self._clock = clock
        self._draft_source = draft_source
        self._kept = kept
        self._costs = StepCosts()
        self._stop_ids = frozenset(model.config.stop_ids) | tokenizer.stop_ids
        self._grammars = Grammars(tokenizer, model.config.vocab_size, self._stop_ids)
        self._bytes_per_token = model.new_cache(1).bytes_per_token
        self._adapters: Mapping[str, Adapter] = {}
        self._adapters_changed = False
        self._sequences: list[Sequence] = []

    @property
    def idle(self) -> bool:
        """Whether no sequence is in work."""
        return not self._sequences

    @property
    def adapters(self) -> Mapping[str, Adapter]:
        """The fine-tunes that requests may name; the one called "" answers where none is named.

        Whoever runs already keeps theirs. May be set from any thread.
        """
        return self._adapters

    @adapters.setter
    def adapters(self, adapters: Mapping[str, Adapter]) -> None:
        self._adapters = dict(adapters)
        self._adapters_changed = True

    def encode(self, request: GenerationRequest) -> EncodedPrompt:
        """The exact prompt of a request. Safe from any thread."""
        if request.prompt is None:
            return self._tokenizer.encode_chat(request.messages)
        encoded = self._tokenizer.encode_prompt(request.prompt, request.prompt_format)
        if not request.begun:
            return encoded
        begun = self._tokenizer.encode_text(request.begun)  # behind ChatGLM-6B's control ids, which end a prompt
        return EncodedPrompt((*encoded.ids, *begun), encoded.text + request.begun, len(begun))

    def prepare(self, request: GenerationRequest) -> PreparedRequest:
        """Encode and measure a request. Safe from any thread.

        Raises ContextLimitExceeded, UnknownAdapter, or InvalidRequest for a token id beyond the vocabulary, a schema
        that cannot be kept to, or chances of tokens that ChatGLM-6B reads with what follows them.
        """
        if request.prompt_chances and self._model.config.family == "chatglm":
            raise InvalidRequest(
                field="logprobs", value=Sentence("value.with_echo"), reason=Sentence("request.read_both_ways")
            )
        adapter = self._adapters.get(request.adapter)
        if request.adapter and adapter is None:
            raise UnknownAdapter(name=request.adapter, names=", ".join(filter(None, self._adapters)) or "-")
        biased = [token for token, _ in request.params.logit_bias]
        for name, ids in (("stop_token_ids", request.params.stop_ids), ("logit_bias", biased)):
            if any(token >= self._model.config.vocab_size for token in ids):
                reason = Sentence("reference.ids", name=name, high=self._model.config.vocab_size - 1)
                raise InvalidRequest(field=name, value=max(ids), reason=reason)
        encoded = self.encode(request)
        ids = encoded.ids
        limit = self._model.config.context_limit
        if len(ids) >= limit:
            raise ContextLimitExceeded(prompt_tokens=len(ids), limit=limit)
        max_new = min(request.params.max_new_tokens, limit - len(ids))
        rows = len(ids) + max_new + (adapter.prefix.rows if adapter is not None and adapter.prefix is not None else 0)
        openings = tuple(tuple(self._tokenizer.encode_text(text)) for text in request.openings)
        grammar = None
        if request.json_schema is not None:
            begun = ids[len(ids) - encoded.begun :] if request.prompt is None or request.begun else ()
            grammar = self._grammars.begin(request.json_schema, begun)
        kv_bytes = rows * self._bytes_per_token
        predicted = tuple(self._tokenizer.encode_text(request.predicted))
        return PreparedRequest(request, ids, max_new, kv_bytes, adapter, encoded.begun, openings, grammar, predicted)

    def start(
        self,
        request: GenerationRequest,
        cancel: CancelToken,
        submitted_at: float,
        prepared: PreparedRequest | None = None,
    ) -> Sequence:
        """Take a request in; the next steps work on it. Raises ContextLimitExceeded."""
        ready = prepared or self.prepare(request)
        cache = self._model.new_cache(len(ready.prompt_ids) + ready.max_new_tokens, ready.adapter)
        cached = 0
        if not request.prompt_chances:  # every row must be computed
            cached = self.prefix_cache.fill(_owner(request, cache), ready.prompt_ids, cache)
            if self._kept is not None:
                cached = self._kept.fill(request, ready.prompt_ids, cache)
        draft = None
        if request.params.greedy and self.options.draft_tokens > 0:
            # As if the predicted answer had been given to this prompt before.
            before = (*ready.prompt_ids[-_CUE:], *ready.predicted) if ready.predicted else ()
            beside = self.prefix_cache.beside(_owner(request, cache), ready.prompt_ids)
            known = (*beside, *before, *ready.prompt_ids)
            draft = Drafter(self._draft_source(known), max_tokens=self.options.draft_tokens)
        sequence = Sequence(
            ready,
            cancel,
            stop_ids=self._stop_ids,
            part_ids=self._tokenizer.part_ids,
            cache=cache,
            prefill=self._prefill_of(ready, cached, cache),
            cached_tokens=cached,
            spelling=self._tokenizer.spelling,
            decoder=self._decoder(ready),
            draft=draft,
            most_certain=self.options.draft_tokens,
            timer=RequestTimer(self._clock, submitted_at),
        )
        self._sequences.append(sequence)
        return sequence

    def step(self) -> list[tuple[Sequence, StepResult]]:
        """Schedule, run, settle. What fails inside one sequence ends that sequence and leaves the others alone."""
        if self._adapters_changed:
            self._adapters_changed = False
            self.prefix_cache.keep_only(self._offers)
        plan = plan_step(self._sequences, self.options)
        decode_s = None
        if plan.decode:
            began = self._clock()
            self._decode(plan.decode, draft=plan.draft)
            decode_s = self._clock() - began
        if plan.prefill is not None:
            self._prefill(plan.prefill, decode_s)
        return self._settle()

    def generate(self, request: GenerationRequest, cancel: CancelToken | None = None) -> Iterator[Event]:
        """The events of one request, for a caller who has the engine to himself.

        Raises ContextLimitExceeded or EngineFailure. Closing the iterator cancels.
        """
        sequence = self.start(request, cancel or CancelToken(), self._clock())
        try:
            while not sequence.finished:
                for owner, result in self.step():
                    if owner is not sequence:
                        continue
                    if isinstance(result, RequestError):
                        raise result
                    yield result
        finally:
            if sequence in self._sequences:
                self._sequences.remove(sequence)

    def _prefill_of(self, ready: PreparedRequest, cached: int, cache: KVCache) -> Prefill | ToldPrefill:
        read = partial(self._model.prefill, cache=cache, max_rows=self.options.prefill_rows)
        if not ready.request.prompt_chances:
            return read(ready.prompt_ids[cached:])
        return ToldPrefill(ready, read, self._tokenizer, rows=self.options.prefill_rows)

    def _decoder(self, ready: PreparedRequest) -> StreamingDecoder | SpelledDecoder:
        """A decoder that has been through what is begun, and gives only what follows."""
        decoder = self._tokenizer.stream() if ready.grammar is None else SpelledDecoder(self._tokenizer.spelling)
        begun = ready.prompt_ids[len(ready.prompt_ids) - ready.begun :]
        for token in begun:
            decoder.add(token)
        if begun:
            decoder.finish()
        return decoder

    def _decode(self, batch: tuple[Sequence, ...], *, draft: bool) -> None:
        """The next token of each, or several of those whose draft tokens are right. A failed batch is tried singly."""
        # Rows of one fine-tune side by side are one side path.
        batch = tuple(sorted(batch, key=lambda sequence: sequence.request.adapter))
        count = len(batch)
        room = self._costs.reach(count) if draft else 0
        cost = partial(self._costs.ratio, count)
        feeds = [Feed(sequence.next_feed(room, cost), sequence.cache) for sequence in batch]
        lengths = [sequence.cache.length for sequence in batch]
        began = self._clock()
        try:
            logits = self._model.decode(feeds)
        except Exception as error:  # noqa: BLE001 - whatever a kernel raises must not end the others
            for sequence, length in zip(batch, lengths, strict=True):
                _shorten(sequence, length)
            if count == 1:
                _fail(batch[0], error)
            else:
                for sequence in batch:
                    self._decode((sequence,), draft=draft)
            return
        if self._model.settled:
            self._costs.record(count, len(logits), self._clock() - began)
        row = 0
        for sequence, feed in zip(batch, feeds, strict=True):
            with _contained(sequence):
                _choose(sequence, logits[row : row + len(feed.ids)], feed.ids)
            row += len(feed.ids)

    def _prefill(self, sequence: Sequence, decode_s: float | None) -> None:
        """Units of one prompt, until it is read, others should go on, or somebody is cancelled."""
        units_s: list[float] = []
        while (
            sequence.reading
            and not any(other.cancelled for other in self._sequences)
            and allows_another_unit(self.options, units_s, decode_s)
        ):
            began = self._clock()
            with _contained(sequence):
                logits = sequence.read_on()
                if logits is not None:
                    _choose(sequence, logits)
                    if sequence.request.shared:
                        self._keep_prefix(sequence)
            if sequence.finished:
                break
            units_s.append(self._clock() - began)
        sequence.tell_progress()

    def _settle(self) -> list[tuple[Sequence, StepResult]]:
        """End the cancelled, hand out what there is to tell, and let go of whoever has ended."""
        for sequence in self._sequences:
            if sequence.cancelled and not sequence.finished:
                with _contained(sequence):
                    sequence.finish(sequence.cancel.reason)
        results = [(sequence, result) for sequence in self._sequences for result in sequence.take_results()]
        for sequence in [sequence for sequence in self._sequences if sequence.finished]:
            self._sequences.remove(sequence)
            self._keep_prefix(sequence)
        return results

    def _offers(self, cache: KVCache) -> bool:
        """Whether requests can still name the fine-tune that made it."""
        return cache.adapter is None or cache.adapter in self._adapters.values()

    def _keep_prefix(self, sequence: Sequence) -> None:
        """Keep a finished sequence's K/V for follow-ups; a half-read prompt has none, a failed one may be wrong."""
        known = min(sequence.cache.length, len(sequence.evaluated_ids))
        if sequence.reading or sequence.failed or not known or not self._offers(sequence.cache):
            return
        try:
            ids = sequence.evaluated_ids[:known]
            copy = self.prefix_cache.keep(_owner(sequence.request, sequence.cache), ids, sequence.cache)
            if copy is not None and self._kept is not None:
                self._kept.keep(sequence.request, ids, copy)
        except Exception as error:  # noqa: BLE001 - a lost prefix costs time, never an answer
            _log.warning("a finished sequence could not be kept", exc_info=error)


def _owner(request: GenerationRequest, cache: KVCache) -> str:
    """Whose a kept prefix is: a visitor's, made with one fine-tune."""
    return request.visitor if cache.adapter is None else f"{request.visitor}\n{cache.adapter.identity}"


def _choose(sequence: Sequence, logits: Tensor, feed: tuple[int, ...] = ()) -> None:
    """Let a sequence choose, and drop the K/V of draft tokens that were wrong."""
    sequence.choose(logits, feed)
    _shorten(sequence, len(sequence.prompt_ids) + max(0, len(sequence.generated) - 1))


def _shorten(sequence: Sequence, length: int) -> None:
    if sequence.cache.length > length:
        sequence.cache.truncate(length)


@contextmanager
def _contained(sequence: Sequence) -> Iterator[None]:
    """What fails inside ends this sequence and no other."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - one sequence's failure must not end the others
        _fail(sequence, error)


def _fail(sequence: Sequence, error: Exception) -> None:
    _log.error("request %s failed", sequence.request.request_id, exc_info=error)
    if not isinstance(error, RequestError):
        failure = EngineFailure(reason=type(error).__name__)
        failure.__cause__ = error
        error = failure
    sequence.fail(error)
