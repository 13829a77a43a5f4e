"""The worker's counters in Prometheus' text form. Knows no HTTP."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from types import SimpleNamespace

import psutil
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from chatglm_backend.serving.metrics import HistogramSnapshot, MetricsSnapshot


def exposition(snapshot: MetricsSnapshot | None, *, ready: bool) -> tuple[bytes, str]:
    """The page of metrics and its content type; without a worker only what is known without one."""
    return generate_latest(SimpleNamespace(collect=partial(_all, snapshot, ready=ready))), CONTENT_TYPE_LATEST


def _all(snapshot: MetricsSnapshot | None, *, ready: bool) -> Iterator[Metric]:
    memory = psutil.Process().memory_info().rss
    yield GaugeMetricFamily("chatglm_model_ready", "1 when a model is ready", value=int(ready))
    yield GaugeMetricFamily("chatglm_resident_bytes", "Memory of this process", value=memory)
    if snapshot is not None:
        yield from _counts(snapshot)
        yield from _times(snapshot)


def _counts(now: MetricsSnapshot) -> Iterator[Metric]:
    yield GaugeMetricFamily("chatglm_running", "Answers being made", value=now.running)
    yield GaugeMetricFamily("chatglm_waiting", "Requests in the queue", value=now.waiting)
    yield GaugeMetricFamily("chatglm_kv_reserved_bytes", "KV memory promised to answers", value=now.kv_reserved_bytes)
    yield CounterMetricFamily("chatglm_requests_accepted", "Requests taken into the queue", value=now.accepted)
    yield _by("chatglm_requests_by_adapter", "Requests taken into the queue for a fine-tune", "adapter", now.adapters)
    yield _by("chatglm_requests_refused", "Requests not taken", "reason", now.refused)
    yield _by("chatglm_requests_finished", "Answers that ended", "reason", now.finished)
    yield _by("chatglm_requests_failed", "Answers that failed", "reason", now.failed)
    tokens = {
        "prompt": now.prompt_tokens,
        "cached": now.cached_tokens,
        "completion": now.completion_tokens,
        "draft": now.draft_tokens,
        "accepted_draft": now.accepted_draft_tokens,
    }
    yield _by("chatglm_tokens", "Tokens read and made", "kind", tokens)


def _times(now: MetricsSnapshot) -> Iterator[Metric]:
    yield _histogram("chatglm_queue_wait_seconds", "Time in the queue", now.queue_wait_s)
    yield _histogram("chatglm_time_to_first_token_seconds", "From submission to the first token", now.ttft_s)
    yield _histogram("chatglm_inter_token_seconds", "Between two tokens of an answer", now.itl_s)
    yield _histogram("chatglm_request_seconds", "From submission to the end", now.total_s)


def _by(name: str, text: str, label: str, values: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _histogram(name: str, text: str, values: HistogramSnapshot) -> Metric:
    buckets: list[tuple[str, float]] = []
    total = 0
    for bound, count in zip((*map(str, values.bounds), "+Inf"), values.counts, strict=True):
        total += count
        buckets.append((bound, total))
    return HistogramMetricFamily(name, text, buckets=buckets, sum_value=values.sum)
