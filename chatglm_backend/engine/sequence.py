"""The state of one request on its way from a prompt to an answer.

Turns chosen tokens into events; never calls the model. Not thread-safe.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from chatglm_backend.core import (
    CancelToken,
    Completed,
    Event,
    FinishReason,
    PrefillProgress,
    PromptChances,
    TokenChance,
    TokenEvent,
    Usage,
)
from chatglm_backend.engine.draft import Drafter
from chatglm_backend.engine.options import PreparedRequest
from chatglm_backend.engine.sampler import Sampler
from chatglm_backend.engine.stop import StopFilter
from chatglm_backend.engine.timing import RequestTimer
from chatglm_backend.engine.told_prompt import ToldPrefill, chances_of
from chatglm_backend.errors import EngineFailure, RequestError
from chatglm_backend.models.kv_cache import KVCache
from chatglm_backend.models.prefill import Prefill
from chatglm_backend.sentences import Sentence
from chatglm_backend.tokenizers.streaming import SpelledDecoder, StreamingDecoder

StepResult = Event | RequestError
"""What a step says about a sequence; an error, like :class:`~chatglm_backend.core.Completed`, is the last word."""


class Sequence:
    """One request inside the engine: its KV cache, its tokens, its text, and what is to be told of it.

    ``finished`` once the last word is among the results; ``failed`` where that is an error.
    Up to ``most_certain`` tokens that its grammar leaves no choice of are evaluated in one step.
    Completion tokens are counted without the stop id that ends the answer, which is never shown either.
    """

    def __init__(
        self,
        prepared: PreparedRequest,
        cancel: CancelToken,
        *,
        stop_ids: frozenset[int],
        part_ids: frozenset[int],
        cache: KVCache,
        prefill: Prefill | ToldPrefill,
        cached_tokens: int,
        decoder: StreamingDecoder | SpelledDecoder,
        spelling: Callable[[int], bytes],
        draft: Drafter | None,
        most_certain: int,
        timer: RequestTimer,
    ) -> None:
        self.request = request = prepared.request
        self.cancel = cancel
        self.prompt_ids = prepared.prompt_ids
        self.cache = cache
        self.cached_tokens = cached_tokens
        self.generated: list[int] = []
        self.finished = False
        self.failed = False
        self._prefill: Prefill | ToldPrefill | None = prefill
        self._timer = timer
        self._max_new_tokens = prepared.max_new_tokens
        self._stop_ids = frozenset(request.params.stop_ids) | (frozenset() if request.ignore_stop_ids else stop_ids)
        self._part_ids = part_ids
        self._openings = prepared.openings
        self._grammar = prepared.grammar
        self._decoder = decoder
        self._spelling = spelling
        self._stop = StopFilter(request.params.stop)
        self._sampler = Sampler(request.params, prepared.prompt_ids)
        self._draft = draft
        self._most_certain = most_certain
        self._proposed = False
        self._draft_tokens = 0
        self._accepted_draft_tokens = 0
        self._progress_told = -1
        self._results: list[StepResult] = []

    @property
    def cancelled(self) -> bool:
        """Whether its visitor wants no more of it."""
        return self.cancel.cancelled

    @property
    def reading(self) -> bool:
        """Whether its prompt is not yet in its cache."""
        return self._prefill is not None

    @property
    def evaluated_ids(self) -> tuple[int, ...]:
        """The ids whose K/V the cache holds, or should hold: all but the newest token."""
        return (*self.prompt_ids, *self.generated[:-1])

    def take_results(self) -> list[StepResult]:
        """What has happened since the last call, in order."""
        results, self._results = self._results, []
        return results

    def read_on(self) -> Tensor | None:
        """One unit of the prompt; at its end the logits [1, vocab] behind its last token."""
        if self._prefill is None:
            raise EngineFailure(reason=Sentence("engine.read_twice"))
        self._timer.work_begins()
        if not self._prefill.advance():
            return None
        prefill, self._prefill = self._prefill, None
        logits = prefill.logits
        self._timer.prompt_read()
        self.tell_progress()
        if isinstance(prefill, ToldPrefill):
            self._results.append(PromptChances(tuple(prefill.chances)))
        return logits[-1:]

    def tell_progress(self) -> None:
        """How far the prompt is read, unless that was told already."""
        done = len(self.prompt_ids) if self._prefill is None else self.cached_tokens + self._prefill.done
        if done != self._progress_told and not self.finished:
            self._progress_told = done
            self._results.append(PrefillProgress(done, len(self.prompt_ids), self.cached_tokens))

    def next_feed(self, room: int, cost: Callable[[int], float]) -> tuple[int, ...]:
        """The ids to evaluate next: the last token, and up to ``room`` draft tokens that may follow it.

        ``cost`` is the relative time of a step by its draft tokens.
        """
        last = self.generated[-1]
        room = min(room, self._max_new_tokens - len(self.generated) - 1)
        if room <= 0:
            return (last,)
        certain = self._grammar.certain()[: min(room, self._most_certain)] if self._grammar is not None else ()
        self._proposed = not certain and self._draft is not None
        if certain or self._draft is None:
            return (last, *certain)
        draft = self._draft.propose(room, cost)
        return (last, *(draft if self._grammar is None else draft[: self._grammar.fitting(draft)]))

    def choose(self, logits: Tensor, feed: tuple[int, ...] = ()) -> None:
        """Choose from ``logits`` [rows, vocab]; row i follows ``feed[: i + 1]``, or the prompt if there is no feed.

        Ends at the first draft token that the model does not confirm. Raises EngineFailure for unusable logits.
        """
        if self.request.prompt_only:
            self.finish(FinishReason.LENGTH)
            return
        draft = feed[1:]
        accepted = 0
        for index, row in enumerate(logits):
            possible = row if self._grammar is None else self._grammar.mask(row)
            token = self._sampler.choose(self._opening(possible))
            self._accept(token, possible)
            if self.finished or index >= len(draft) or token != draft[index]:
                break
            accepted += 1
        self._draft_tokens += len(draft)
        self._accepted_draft_tokens += accepted
        if draft and self._draft is not None and self._proposed:
            self._draft.verdict(len(draft), accepted)

    def finish(self, reason: FinishReason) -> None:
        """Make the last event, with the text that was held back."""
        text = self._stop.feed(self._decoder.finish())
        if self._stop.stopped:
            reason = FinishReason.STOP
        text += self._stop.flush()
        prompt = len(self.prompt_ids)
        usage = Usage(
            prompt_tokens=prompt,
            completion_tokens=len(self.generated),
            cached_tokens=self.cached_tokens,
            draft_tokens=self._draft_tokens,
            accepted_draft_tokens=self._accepted_draft_tokens,
        )
        timing = self._timer.finish(evaluated_prompt_tokens=prompt - self.cached_tokens)
        self._results.append(Completed(reason, usage, timing, text))
        self.finished = True

    def fail(self, error: RequestError) -> None:
        """End with an error."""
        self._results.append(error)
        self.finished = self.failed = True

    def _opening(self, logits: Tensor) -> Tensor:
        """``logits`` [vocab] with only those tokens possible by which an opening goes on, until one is whole."""
        count = len(self.generated)
        begun = (ids for ids in self._openings if len(ids) > count and list(ids[:count]) == self.generated)
        allowed = [ids[count] for ids in begun]
        if not allowed:
            return logits
        places = torch.tensor(allowed)
        return torch.full_like(logits, -torch.inf).index_copy_(0, places, logits[places])

    def _accept(self, token: int, logits: Tensor) -> None:
        if token in self._stop_ids:
            if self.request.prompt_chances:
                self._results.append(TokenEvent(len(self.generated), token, "", self._chances(token, logits)))
            self.finish(FinishReason.STOP)
            return
        self._timer.token()
        self.generated.append(token)
        whole = self._grammar is not None and self._grammar.accept(token)
        if self._draft is not None:
            self._draft.append(token)
        ends_part = token in self._part_ids
        text = self._stop.feed(self._decoder.finish() if ends_part else self._decoder.add(token))
        if ends_part:  # what is held back belongs to the part that ends
            text += self._stop.flush()
        self._results.append(TokenEvent(len(self.generated) - 1, token, text, self._chances(token, logits), ends_part))
        if self._stop.stopped or whole:
            self.finish(FinishReason.STOP)
        elif len(self.generated) >= self._max_new_tokens:
            self.finish(FinishReason.LENGTH)

    def _chances(self, token: int, logits: Tensor) -> tuple[TokenChance, ...]:
        """See :func:`chances_of`; none unless asked for."""
        count = self.request.params.logprobs
        return () if count is None else chances_of(token, logits, count, self._spelling)
