"""What a benchmark says: the document's keys, counted prompts, the advice on threads."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from chatglm_backend.benchmark.counted_prompts import CountedPrompts
from chatglm_backend.benchmark.report import BenchmarkReport, BenchmarkRun, SweepPoint, recommended_threads
from chatglm_backend.models.config import Family, ModelConfig

RUN_KEYS = {
    "prompt_tokens", "new_tokens", "batch", "ttft_s", "prefill_tok_s", "decode_tok_s", "itl_p50_ms", "itl_p95_ms",
    "kernel", "threads", "read_bandwidth_gb_s", "bandwidth_share", "draft_tokens",
}  # fmt: skip


def run(**changes: Any) -> BenchmarkRun:
    """Return a run with figures of its own in every field."""
    values: dict[str, Any] = {
        "model": "chatglm2-6b", "prompt_tokens": 32, "new_tokens": 16, "batch": 1, "ttft_s": 1.5, "prefill_tok_s": 21.0,
        "decode_tok_s": 5.0, "itl_p50_ms": 200.0, "itl_p95_ms": 210.0, "kernel": "vnni", "threads": 2,
        "read_bandwidth_gb_s": 20.0, "bandwidth_share": 0.8, "draft_tokens": 0, "proposed_draft_tokens": 0,
        "accepted_draft_tokens": 0,
    }  # fmt: skip
    return BenchmarkRun(**(values | changes))


def config(family: Family) -> ModelConfig:
    """Return a small config with the special ids of its family."""
    special = {"gmask_id": 301, "mask_id": 300, "bos_id": 304} if family == "chatglm" else {}
    return ModelConfig(family, 2, 8, 1, 1, 8, 8, 320, 256, 1e-5, (305,), **special)


def test_the_document_has_the_promised_keys() -> None:
    """Programs read these names; a sweep adds its own two: thread counts with their speeds, and the one to use."""
    runs = (run(), run(batch=4, bandwidth_share=None))
    sweep = (SweepPoint(1, 3.0, 9.0), SweepPoint(2, 5.5, 17.0))
    document: Any = BenchmarkReport(runs, 4.2, 3.5).document()
    assert set(document) == {"runs", "peak_rss_gb", "load_s"}
    assert [entry["batch"] for entry in document["runs"]] == [1, 4]
    assert set(document["runs"][0]) >= RUN_KEYS
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    document = BenchmarkReport(runs, 1.0, 1.0, sweep).document()
    assert document["recommended_threads"] == 2
    assert document["sweep"] == [
        {"threads": 1, "decode_tok_s": 3.0, "prefill_tok_s": 9.0},
        {"threads": 2, "decode_tok_s": 5.5, "prefill_tok_s": 17.0},
    ]


@pytest.mark.parametrize(
    ("speeds", "best"), [([3.0], 1), ([3.0, 5.9, 6.0], 2), ([3.0, 5.0, 6.0], 4), ([6.0, 5.0, 4.0], 1)]
)
def test_the_fewest_threads_that_are_nearly_best(speeds: list[float], best: int) -> None:
    """Three per cent more speed is not worth more threads; less speed never is."""
    points = [SweepPoint(1 << i, speed, 1.0) for i, speed in enumerate(speeds)]
    assert recommended_threads(points) == best


@pytest.mark.parametrize("family", ["chatglm", "chatglm2", "chatglm3"])
@pytest.mark.parametrize("length", [4, 32, 200])
def test_prompts_have_the_length_that_they_name(family: Family, length: int) -> None:
    """Every id counts, those that end ChatGLM-6B's prompts too; no other special id is among them."""
    prompts = CountedPrompts(config(family))
    ids = prompts.encode_prompt(f"{length}/0", "raw").ids
    tail, special = ((301, 304), {300, 301, 304, 305}) if family == "chatglm" else ((), {305})
    body = ids[: length - len(tail)]
    assert len(ids) == length
    assert ids[len(body) :] == tail
    assert not special & set(body)
    assert all(0 <= token < 320 for token in body)
    assert prompts.stop_ids == frozenset()  # no token ends a run early
    firsts = [prompts.encode_prompt(f"{length}/{variant}", "raw").ids[0] for variant in range(8)]
    assert len(set(firsts)) == 8  # nothing that was read before can be used again, from the first token on


def test_bandwidth_is_read_from_a_buffer_beyond_any_cache() -> None:
    """At least five sums over at least 1 GB, unless a test asks for less."""
    pytest.importorskip("torch")
    from chatglm_backend.benchmark.bandwidth import read_bandwidth_gb_s

    defaults = {name: p.default for name, p in inspect.signature(read_bandwidth_gb_s).parameters.items()}
    assert defaults["rounds"] >= 5
    assert defaults["size_bytes"] >= 10**9
    assert read_bandwidth_gb_s(threads=1, size_bytes=1 << 16, rounds=2) > 0


def test_the_plot_is_a_picture_of_both_figures(tmp_path: Path) -> None:
    """1600 × 640 pixels, for one run, several batches (one without a bandwidth share) and a fine-tune."""
    pytest.importorskip("matplotlib", reason="matplotlib is optional")
    from chatglm_backend.benchmark.plot import save_plot

    save_plot(BenchmarkReport((run(batch=4, bandwidth_share=None),), 4.2, 3.5), tmp_path / "plot.png")
    report = BenchmarkReport(
        (run(), run(prompt_tokens=128, adapter="poet"), run(batch=4, bandwidth_share=None)), 4.2, 3.5
    )
    save_plot(report, tmp_path / "plot.png")
    header = (tmp_path / "plot.png").read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert (int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")) == (1600, 640)
