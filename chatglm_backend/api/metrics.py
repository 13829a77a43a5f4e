"""The worker's counters in Prometheus' text form. Knows no HTTP."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from functools import partial
from itertools import accumulate
from types import SimpleNamespace

import psutil
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from chatglm_backend.core import MachineStatus, Usage
from chatglm_backend.serving.metrics import Histogram, Metrics


def exposition(snapshot: Metrics | None, *, ready: bool, machines: Sequence[MachineStatus] = ()) -> tuple[bytes, str]:
    """The page of metrics and its content type; without a worker only what is known without one."""
    collect = partial(_all, snapshot, ready=ready, machines=machines)
    return generate_latest(SimpleNamespace(collect=collect)), CONTENT_TYPE_LATEST


def _all(snapshot: Metrics | None, *, ready: bool, machines: Sequence[MachineStatus]) -> Iterator[Metric]:
    memory = psutil.Process().memory_info().rss
    yield GaugeMetricFamily("chatglm_model_ready", "1 when a model is ready", value=int(ready))
    yield GaugeMetricFamily("chatglm_resident_bytes", "Memory of this process", value=memory)
    if snapshot is not None:
        yield from _counts(snapshot)
        yield from _times(snapshot)
    if machines:
        yield from _machines(machines)


def _machines(machines: Sequence[MachineStatus]) -> Iterator[Metric]:
    families = [
        GaugeMetricFamily(f"chatglm_machine_{name}", text, labels=["machine"])
        for name, text in (
            ("ready", "1 when the machine answers"), ("running", "Answers that it makes"),
            ("places", "Answers that it can make at once"), ("tokens_per_second", "Speed of its last answer"),
        )
    ]  # fmt: skip
    about = GaugeMetricFamily(
        "chatglm_machine_info", "1; its state and model (the queue is one for all: chatglm_waiting)",
        labels=["machine", "state", "model", "hash"],
    )  # fmt: skip
    for one in machines:
        model = (one.info.name, one.info.identity) if one.info else ("", "")
        about.add_metric([one.name, one.state, *model], 1)
        values = one.state == "ready", one.running, one.places, one.tok_s or 0.0
        for family, value in zip(families, values, strict=True):
            family.add_metric([one.name], value)
    yield from (*families, about)


def _counts(now: Metrics) -> Iterator[Metric]:
    yield GaugeMetricFamily("chatglm_running", "Answers being made", value=now.running)
    yield GaugeMetricFamily("chatglm_waiting", "Requests in the queue", value=now.waiting)
    yield GaugeMetricFamily("chatglm_kv_reserved_bytes", "KV memory promised to answers", value=now.kv_reserved_bytes)
    yield CounterMetricFamily("chatglm_requests_accepted", "Requests taken into the queue", value=now.accepted)
    yield _by("chatglm_requests_by_adapter", "Requests taken into the queue for a fine-tune", "adapter", now.adapters)
    yield _by("chatglm_requests_refused", "Requests not taken", "reason", now.refused)
    yield _by("chatglm_requests_finished", "Answers that ended", "reason", now.finished)
    yield _by("chatglm_requests_failed", "Answers that failed", "reason", now.failed)
    tokens = {one.name.removesuffix("_tokens"): now.tokens[one.name] for one in fields(Usage)}
    yield _by("chatglm_tokens", "Tokens read and made", "kind", tokens)


def _times(now: Metrics) -> Iterator[Metric]:
    yield _histogram("chatglm_queue_wait_seconds", "Time in the queue", now.queue_wait_s)
    yield _histogram("chatglm_time_to_first_token_seconds", "From submission to the first token", now.ttft_s)
    yield _histogram("chatglm_inter_token_seconds", "Between two tokens of an answer", now.itl_s)
    yield _histogram("chatglm_request_seconds", "From submission to the end", now.total_s)


def _by(name: str, text: str, label: str, values: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _histogram(name: str, text: str, values: Histogram) -> Metric:
    buckets = list(zip((*map(str, values.bounds), "+Inf"), accumulate(values.counts), strict=True))
    return HistogramMetricFamily(name, text, buckets=buckets, sum_value=values.sum)
