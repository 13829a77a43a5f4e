"""A small speed test of the model that is loaded, through the queue that ordinary requests take.

Imports no torch. One measurement is one call, so that the
caller can show progress and stop in between.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from chatglm_backend.core import CancelToken, Completed, Event, GenerationParams, GenerationRequest
from chatglm_backend.service import Service
from chatglm_backend.serving.ticket import Ticket

_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class QuickItem:
    """One measurement: ``batch`` prompts of about ``prompt_tokens``, each answered with ``new_tokens``."""

    prompt_tokens: int
    batch: int
    new_tokens: int = 24


QUICK_RUNS = 3
QUICK_PLAN = (QuickItem(32, 1), QuickItem(128, 1), QuickItem(384, 1), QuickItem(32, 2), QuickItem(32, 4))


@dataclass(frozen=True, slots=True)
class QuickResult:
    """One measurement's figures. ``prompt_tokens`` were really read.

    Rates are tokens per second, the decode rate that of the whole batch; ``disturbed`` says that
    somebody else's answer ran at the same time.
    """

    prompt_tokens: int
    batch: int
    new_tokens: int
    ttft_s: float
    prefill_tok_s: float
    decode_tok_s: float
    disturbed: bool


def wait_until_idle(busy: Callable[[], int], cancel: CancelToken, timeout_s: float = 120.0) -> bool:
    """Wait for other answers to end; False when time is up or the test was stopped."""
    deadline = time.monotonic() + timeout_s
    while busy() and not cancel.cancelled and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    return not busy() and not cancel.cancelled


def measure(service: Service, item: QuickItem, cancel: CancelToken, *, visitor: str) -> QuickResult | None:
    """Measure one item; ``None`` when stopped. Raises what the service's ``submit`` raises."""
    if cancel.cancelled:
        return None
    before = _accepted(service)
    requests = [_request(service, item, f"{visitor}-speed-{row}") for row in range(item.batch)]
    tickets: list[Ticket] = []
    try:
        tickets.extend(service.submit(request) for request in requests)
        done = [_follow(ticket, cancel) for ticket in tickets]
    finally:
        for ticket in tickets:
            ticket.cancel()
    if cancel.cancelled or any(completed is None for completed in done):
        return None
    ended = [completed for completed in done if completed is not None]
    first = ended[0]
    ttft = first.timing.ttft_s or 0.0
    # Each answer's own rate holds the time that it gave to the others, so the sum is the batch's.
    rate = sum(completed.timing.decode_tok_s or 0.0 for completed in ended)
    disturbed = _accepted(service) - before != item.batch
    return QuickResult(
        prompt_tokens=first.usage.prompt_tokens,
        batch=item.batch,
        new_tokens=item.new_tokens,
        ttft_s=ttft,
        prefill_tok_s=first.timing.prefill_tok_s or 0.0,
        decode_tok_s=rate,
        disturbed=disturbed,
    )


def _accepted(service: Service) -> int:
    """The requests ever taken, to notice others' in between."""
    metrics = service.metrics()
    return 0 if metrics is None else metrics.accepted


def _follow(ticket: Ticket, cancel: CancelToken) -> Completed | None:
    last: Event | None = None
    for event in ticket.events():
        last = event
        if cancel.cancelled:
            ticket.cancel()
    return last if isinstance(last, Completed) else None


def _request(service: Service, item: QuickItem, visitor: str) -> GenerationRequest:
    """A request whose prompt nothing was kept of, as near to the wanted length as whole words allow."""
    # Sampled, because answers to random words repeat themselves, and right draft tokens would be measured instead.
    params = GenerationParams(max_new_tokens=item.new_tokens, temperature=1.0, seed=1)
    words = [format(secrets.randbelow(1000), "03d") for _ in range(item.prompt_tokens)]

    def made(count: int) -> GenerationRequest:
        return GenerationRequest(
            secrets.token_hex(8), visitor, prompt=" ".join(words[:count]), prompt_format="raw",
            params=params, ignore_stop_ids=True,
        )  # fmt: skip

    low, high = 1, item.prompt_tokens
    while low < high:
        middle = (low + high + 1) // 2
        if len(service.preview_prompt(made(middle)).ids) <= item.prompt_tokens:
            low = middle
        else:
            high = middle - 1
    return made(low)
