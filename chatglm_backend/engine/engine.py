"""The step loop: one batched decode for all running sequences, and a budget of prefill units.

Batch-first and single-threaded; whoever calls it decides about queues and threads. Knows no
session, no page, no file.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping

from torch import Tensor

from chatglm_backend.core import CancelToken, Clock, Event, GenerationRequest, monotonic_clock
from chatglm_backend.engine.draft import Drafter, GuessSource, PromptLookup, StepCosts
from chatglm_backend.engine.options import EngineOptions, PreparedRequest
from chatglm_backend.engine.prefix_cache import PrefixCache
from chatglm_backend.engine.sequence import Sequence
from chatglm_backend.engine.timing import RequestTimer
from chatglm_backend.errors import ContextLimitExceeded, EngineFailure, InvalidRequest, RequestError
from chatglm_backend.models.base import ChatModel, Feed
from chatglm_backend.tokenizers.base import EncodedPrompt, Tokenizer

__all__ = ["Engine", "EngineOptions", "PreparedRequest", "StepResult"]

_log = logging.getLogger(__name__)

StepResult = Event | RequestError
"""What a step says about a sequence; an error, like :class:`~chatglm_backend.core.Completed`, is the last word."""


class Engine:
    """Makes tokens. All methods but :meth:`encode` and :meth:`prepare` belong to one thread."""

    def __init__(
        self,
        model: ChatModel,
        tokenizer: Tokenizer,
        options: EngineOptions | None = None,
        *,
        clock: Clock = monotonic_clock,
        guesses: Callable[[tuple[int, ...]], GuessSource] = PromptLookup,
        others: Mapping[str, Callable[[], ChatModel]] | None = None,
    ) -> None:
        """``guesses`` makes the source of guessed tokens from a prompt's ids.

        ``others`` are the same weights behind other kernels, by the name that a request asks for them;
        each is made when it is first wanted.
        """
        self.options = options or EngineOptions()
        self.prefix_cache = PrefixCache(model.config.family, model.new_cache, max_bytes=self.options.prefix_cache_bytes)
        self._model = model
        self._models = {"": model}
        self._others = dict(others or {})
        self._tokenizer = tokenizer
        self._clock = clock
        self._guesses = guesses
        self._costs: dict[str, StepCosts] = {}
        self._stop_ids = frozenset(model.config.stop_ids) | tokenizer.stop_ids
        self._bytes_per_token = model.new_cache(1).bytes_per_token
        self._reading: list[Sequence] = []
        self._decoding: list[Sequence] = []

    @property
    def idle(self) -> bool:
        """Whether no sequence is in work."""
        return not self._reading and not self._decoding

    def encode(self, request: GenerationRequest) -> EncodedPrompt:
        """The exact prompt of a request. Safe from any thread."""
        if request.prompt is None:
            return self._tokenizer.encode_chat(request.messages)
        return self._tokenizer.encode_prompt(request.prompt, request.prompt_format)

    def prepare(self, request: GenerationRequest) -> PreparedRequest:
        """Encode and measure a request. Safe from any thread. Raises ContextLimitExceeded, InvalidRequest."""
        if request.kernel and request.kernel not in self._others:
            offered = ", ".join(self._others) or "only its own"
            raise InvalidRequest(field="kernel", value=request.kernel, reason=f"this model offers {offered}")
        ids = self.encode(request).ids
        limit = self._model.config.context_limit
        if len(ids) >= limit:
            raise ContextLimitExceeded(prompt_tokens=len(ids), limit=limit)
        max_new = min(request.params.max_new_tokens, limit - len(ids))
        return PreparedRequest(request, ids, max_new, (len(ids) + max_new) * self._bytes_per_token)

    def start(
        self,
        request: GenerationRequest,
        cancel: CancelToken,
        submitted_at: float,
        prepared: PreparedRequest | None = None,
    ) -> Sequence:
        """Take a request in; the next steps work on it. Raises ContextLimitExceeded."""
        ready = prepared or self.prepare(request)
        model = self._model_of(request)
        cache = model.new_cache(len(ready.prompt_ids) + ready.max_new_tokens)
        # What another kernel computed is not quite the same: a comparison reads its whole prompt itself.
        cached = 0 if request.kernel else self.prefix_cache.fill(request.visitor, ready.prompt_ids, cache)
        draft = None
        if request.params.greedy and self.options.draft_tokens > 0:
            draft = Drafter(self._guesses(ready.prompt_ids), max_tokens=self.options.draft_tokens)
        sequence = Sequence(
            request,
            cancel,
            prompt_ids=ready.prompt_ids,
            max_new_tokens=ready.max_new_tokens,
            stop_ids=self._stop_ids,
            cache=cache,
            prefill=model.prefill(ready.prompt_ids[cached:], cache, max_rows=self.options.prefill_rows),
            cached_tokens=cached,
            decoder=self._tokenizer.stream(),
            draft=draft,
            timer=RequestTimer(self._clock, submitted_at),
        )
        self._reading.append(sequence)
        return sequence

    def step(self) -> list[tuple[Sequence, StepResult]]:
        """One decode for all running sequences, then prefill units within the budget.

        An exception inside one sequence ends that sequence with EngineFailure and leaves the others alone.
        """
        results = self._end_cancelled()
        began = self._clock()
        anyone_decodes = bool(self._decoding)
        for kernel in dict.fromkeys(sequence.request.kernel for sequence in self._decoding):
            results += self._decode([s for s in self._decoding if s.request.kernel == kernel])
        results += self._read_prompts(self._clock() - began if anyone_decodes else None)
        return results

    def generate(self, request: GenerationRequest, cancel: CancelToken | None = None) -> Iterator[Event]:
        """The events of one request, for a caller who has the engine to himself.

        Raises ContextLimitExceeded or EngineFailure. Closing the iterator cancels.
        """
        token = cancel or CancelToken()
        sequence = self.start(request, token, self._clock())
        try:
            while not sequence.finished:
                for owner, result in self.step():
                    if owner is not sequence:
                        continue
                    if isinstance(result, RequestError):
                        raise result
                    yield result
        finally:
            self._remove(sequence)

    def _model_of(self, request: GenerationRequest) -> ChatModel:
        if request.kernel not in self._models:
            self._models[request.kernel] = self._others[request.kernel]()
        return self._models[request.kernel]

    def _end_cancelled(self) -> list[tuple[Sequence, StepResult]]:
        gone = [s for s in (*self._decoding, *self._reading) if s.cancel.cancelled]
        return [result for sequence in gone for result in self._end(sequence)]

    def _end(self, sequence: Sequence) -> list[tuple[Sequence, StepResult]]:
        self._remove(sequence)
        self._remember(sequence)
        return self._guard(sequence, lambda: [sequence.finish(sequence.cancel.reason)])

    def _decode(self, batch: list[Sequence]) -> list[tuple[Sequence, StepResult]]:
        count = len(batch)
        costs = self._costs.setdefault(batch[0].request.kernel, StepCosts())
        room = costs.reach(count) if count <= self.options.draft_max_running else 0
        feeds = [
            Feed(sequence.next_feed(room, lambda extra: costs.ratio(count, extra)), sequence.cache)
            for sequence in batch
        ]
        lengths = [sequence.cache.length for sequence in batch]
        began = self._clock()
        try:
            logits = self._model_of(batch[0].request).decode(feeds)
        except Exception as error:  # noqa: BLE001 - whatever a kernel raises must not end the others
            for sequence, length in zip(batch, lengths, strict=True):
                _shorten(sequence, length)
            if count == 1:
                return [self._fail(batch[0], error)]
            return [result for sequence in batch for result in self._decode([sequence])]
        costs.record(count, len(logits), self._clock() - began)
        results: list[tuple[Sequence, StepResult]] = []
        row = 0
        for sequence, feed in zip(batch, feeds, strict=True):
            results += self._take(sequence, logits[row : row + len(feed.ids)], feed.ids)
            row += len(feed.ids)
        return results

    def _take(
        self, sequence: Sequence, logits: Tensor, feed: tuple[int, ...] = ()
    ) -> list[tuple[Sequence, StepResult]]:
        """Let a sequence choose, and drop the K/V of guesses that were wrong."""

        def choose() -> list[Event]:
            events = sequence.take(logits, feed)
            _shorten(sequence, len(sequence.evaluated_ids))
            return events

        results = self._guard(sequence, choose)
        if sequence.finished:
            self._remove(sequence)
            self._remember(sequence)
        return results

    def _read_prompts(self, decode_s: float | None) -> list[tuple[Sequence, StepResult]]:
        """Oldest prompt first. ``decode_s``: how long those who are decoding just had to wait, if anyone is."""
        results: list[tuple[Sequence, StepResult]] = []
        units = self.options.idle_units if decode_s is None else self.options.prefill_units_per_step
        began = self._clock()
        slowest = 0.0
        for unit in range(units):
            results += self._end_cancelled()
            if not self._reading:
                break
            before = self._clock()
            if unit and decode_s is not None and before - began + slowest > self.options.prefill_share * decode_s:
                break
            sequence = self._reading[0]
            finished = self._advance(sequence, results)
            slowest = max(slowest, self._clock() - before)
            if finished:
                # The new stream's first token is told at once, and others decode before the next prompt goes on.
                return results
        if self._reading:
            sequence = self._reading[0]
            results += [(sequence, event) for event in sequence.progress()]
        return results

    def _advance(self, sequence: Sequence, results: list[tuple[Sequence, StepResult]]) -> bool:
        """One unit of one prompt; True when the prompt is read or has failed."""
        prefill = sequence.prefill
        if prefill is None:
            raise EngineFailure(reason="a prompt that is read already was to be read again")
        sequence.timer.work_begins()
        try:
            if not prefill.advance():
                return False
            logits = prefill.logits
        except Exception as error:  # noqa: BLE001 - whatever a kernel raises must not end the others
            results.append(self._fail(sequence, error))
            return True
        sequence.timer.prompt_read()
        sequence.prefill = None
        self._reading.remove(sequence)
        self._decoding.append(sequence)
        results += [(sequence, event) for event in sequence.progress()]
        results += self._take(sequence, logits[-1:])
        return True

    def _guard(self, sequence: Sequence, work: Callable[[], list[Event]]) -> list[tuple[Sequence, StepResult]]:
        try:
            return [(sequence, event) for event in work()]
        except Exception as error:  # noqa: BLE001 - one sequence's failure must not end the others
            return [self._fail(sequence, error)]

    def _fail(self, sequence: Sequence, error: Exception) -> tuple[Sequence, StepResult]:
        _log.error("request %s failed", sequence.request.request_id, exc_info=error)
        self._remove(sequence)
        sequence.finished = True
        if isinstance(error, RequestError):
            return sequence, error
        failure = EngineFailure(reason=type(error).__name__)
        failure.__cause__ = error
        return sequence, failure

    def _remove(self, sequence: Sequence) -> None:
        for place in (self._reading, self._decoding):
            if sequence in place:
                place.remove(sequence)

    def _remember(self, sequence: Sequence) -> None:
        """Keep a finished sequence's K/V for follow-ups; a half-read prompt has none, a failed one may be wrong."""
        known = min(sequence.cache.length, len(sequence.evaluated_ids))
        if sequence.prefill is not None or not known or sequence.request.kernel:
            return
        try:
            self.prefix_cache.keep(sequence.request.visitor, sequence.evaluated_ids[:known], sequence.cache)
        except Exception as error:  # noqa: BLE001 - a lost prefix costs time, never an answer
            _log.warning("a finished sequence could not be kept", exc_info=error)


def _shorten(sequence: Sequence, length: int) -> None:
    if sequence.cache.length > length:
        sequence.cache.truncate(length)
