"""The state of one request on its way from a prompt to an answer.

Turns chosen tokens into events; never calls the model. Not thread-safe.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from chatglm_backend.core import (
    CancelToken,
    Completed,
    Event,
    FinishReason,
    GenerationRequest,
    PrefillProgress,
    TokenEvent,
    Usage,
)
from chatglm_backend.engine.draft import Drafter
from chatglm_backend.engine.sampler import Sampler
from chatglm_backend.engine.stop import StopFilter
from chatglm_backend.engine.timing import RequestTimer
from chatglm_backend.models.base import Prefill
from chatglm_backend.models.kv_cache import KVCache
from chatglm_backend.tokenizers.streaming import StreamingDecoder


class Sequence:
    """One request inside the engine: its KV cache, its tokens, its text.

    ``prefill`` is set until the prompt is read; ``finished`` once :class:`Completed` was made.
    Completion tokens are counted without the stop id that ends the answer, which is never shown either.
    """

    def __init__(
        self,
        request: GenerationRequest,
        cancel: CancelToken,
        *,
        prompt_ids: tuple[int, ...],
        max_new_tokens: int,
        stop_ids: frozenset[int],
        cache: KVCache,
        prefill: Prefill,
        cached_tokens: int,
        decoder: StreamingDecoder,
        draft: Drafter | None,
        timer: RequestTimer,
    ) -> None:
        self.request = request
        self.cancel = cancel
        self.prompt_ids = prompt_ids
        self.cache = cache
        self.prefill: Prefill | None = prefill
        self.cached_tokens = cached_tokens
        self.generated: list[int] = []
        self.timer = timer
        self.finished = False
        self._max_new_tokens = max_new_tokens
        self._stop_ids = frozenset() if request.ignore_stop_ids else stop_ids
        self._decoder = decoder
        self._stop = StopFilter(request.params.stop)
        self._sampler = Sampler(request.params, prompt_ids)
        self._draft = draft
        self._draft_tokens = 0
        self._accepted_draft_tokens = 0
        self._progress_told = -1

    def progress(self) -> list[Event]:
        """How far the prompt is read, unless that was told already."""
        done = len(self.prompt_ids) if self.prefill is None else self.cached_tokens + self.prefill.done
        if done == self._progress_told:
            return []
        self._progress_told = done
        return [PrefillProgress(done, len(self.prompt_ids), self.cached_tokens)]

    def next_feed(self, room: int, cost: Callable[[int], float]) -> tuple[int, ...]:
        """The ids to evaluate next: the last token, and up to ``room`` guesses that may follow it.

        ``cost`` is the relative time of a step by its guesses.
        """
        last = self.generated[-1]
        room = min(room, self._max_new_tokens - len(self.generated) - 1)
        if self._draft is None or room <= 0:
            return (last,)
        return (last, *self._draft.propose(room, cost))

    def take(self, logits: Tensor, feed: tuple[int, ...] = ()) -> list[Event]:
        """Choose from ``logits`` [rows, vocab]; row i follows ``feed[: i + 1]``, or the prompt if there is no feed.

        Guesses that the model does not confirm end the walk. Raises EngineFailure for unusable logits.
        """
        events: list[Event] = []
        guesses = feed[1:]
        accepted = 0
        for row in range(logits.shape[0]):
            token = self._sampler.choose(logits[row])
            events += self._accept(token)
            if self.finished or row >= len(guesses):
                break
            if token != guesses[row]:
                break
            accepted += 1
        if guesses:
            self._draft_tokens += len(guesses)
            self._accepted_draft_tokens += accepted
            if self._draft is not None:
                self._draft.verdict(len(guesses), accepted)
        return events

    @property
    def evaluated_ids(self) -> tuple[int, ...]:
        """The ids whose K/V the cache holds, or should hold: all but the newest token."""
        return (*self.prompt_ids, *self.generated[:-1])

    def finish(self, reason: FinishReason) -> Completed:
        """The last event, with the text that was held back."""
        self.finished = True
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
        timing = self.timer.finish(evaluated_prompt_tokens=prompt - self.cached_tokens)
        return Completed(reason, usage, timing, text)

    def _accept(self, token: int) -> list[Event]:
        if token in self._stop_ids:
            return [self.finish(FinishReason.STOP)]
        self.timer.token()
        self.generated.append(token)
        if self._draft is not None:
            self._draft.append(token)
        text = self._stop.feed(self._decoder.add(token))
        events: list[Event] = [TokenEvent(len(self.generated) - 1, token, text)]
        if self._stop.stopped:
            events.append(self.finish(FinishReason.STOP))
        elif len(self.generated) >= self._max_new_tokens:
            events.append(self.finish(FinishReason.LENGTH))
        return events
