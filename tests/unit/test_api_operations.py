"""Health, readiness and metrics."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from chatglm_backend.api.health import readiness
from chatglm_backend.api.metrics import exposition
from chatglm_backend.core import Completed, FinishReason, LoadProgress, ModelState, ModelStatus, Timing, Usage
from chatglm_backend.errors import MissingFile
from chatglm_backend.serving.metrics import Metrics


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (ModelStatus(ModelState.READY), (200, {"status": "ready"})),
        (ModelStatus(ModelState.NONE), (503, {"status": "none"})),
        (
            ModelStatus(ModelState.LOADING, LoadProgress("convert", 1, 3)),
            (503, {"status": "loading", "stage": "convert", "progress": 33.3}),
        ),
        (ModelStatus(ModelState.LOADING, LoadProgress("find")), (503, {"status": "loading", "stage": "find"})),
        (ModelStatus(ModelState.FAILED, error=MissingFile(path="/home/me/x")), (503, {"status": "failed"})),
    ],
)
def test_readiness_is_a_word_and_no_paths(status: ModelStatus, expected: tuple[int, dict[str, object]]) -> None:
    """Anyone may ask, so nothing of this machine is told."""
    assert readiness(status) == expected


def test_counters_and_histograms_reach_prometheus() -> None:
    """By reason and by kind; each bucket holds those below it too, the last one all."""
    metrics = Metrics()
    metrics.accepted = 3
    metrics.refused["queue_full"] += 2
    for value in (0.02, 0.02, 9.0):
        metrics.itl_s.observe(value)
    metrics.completed(Completed(FinishReason.STOP, Usage(5, 4, cached_tokens=2), Timing(ttft_s=0.3, total_s=1.0)))
    text, kind = exposition(metrics.snapshot(running=1, waiting=2, kv_reserved_bytes=64), ready=True)
    values = {
        sample.name.removeprefix("chatglm_") + "".join(f" {label}" for label in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }
    assert kind.startswith("text/plain")
    assert (
        values.items()
        >= {
            "requests_accepted_total": 3,
            "requests_refused_total queue_full": 2,
            "requests_finished_total stop": 1,
            "tokens_total completion": 4,
            "tokens_total cached": 2,
            "model_ready": 1,
            "running": 1,
            "waiting": 2,
            "kv_reserved_bytes": 64,
            "inter_token_seconds_bucket 0.01": 0,
            "inter_token_seconds_bucket 0.025": 2,
            "inter_token_seconds_bucket +Inf": 3,
            "inter_token_seconds_count": 3,
            "time_to_first_token_seconds_bucket 0.5": 1,
        }.items()
    )
    assert values["resident_bytes"] > 1e6


def test_without_a_model_there_are_still_metrics() -> None:
    """They say that there is none."""
    text, _ = exposition(None, ready=False)
    assert b"chatglm_model_ready 0.0" in text
    assert b"chatglm_requests" not in text
