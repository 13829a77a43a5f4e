"""What a benchmark measured, as numbers: the JSON document and the text table's rows.

Knows no model and runs nothing. GB are 10⁹ bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import psutil


@dataclass(frozen=True, slots=True)
class BenchmarkRun:
    """One prompt length × batch, with the fine-tune of that name or with the base, "".

    ``ttft_s`` and ``prefill_tok_s`` are of one prompt alone; ``decode_tok_s`` is the total of
    the batch once all its sequences are writing; ``bandwidth_share`` = INT4 bytes read per
    token × ``decode_tok_s`` / read bandwidth, for batch 1 only. ``draft_tokens`` is the setting, 0 for off;
    the two counts after it say how many draft tokens were tried and how many of them were right.
    """

    model: str
    prompt_tokens: int
    new_tokens: int
    batch: int
    ttft_s: float
    prefill_tok_s: float
    decode_tok_s: float
    itl_p50_ms: float
    itl_p95_ms: float
    kernel: str
    threads: int
    read_bandwidth_gb_s: float
    bandwidth_share: float | None
    draft_tokens: int
    proposed_draft_tokens: int
    accepted_draft_tokens: int
    adapter: str = ""


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """Decode speed of one sequence at one thread count."""

    threads: int
    decode_tok_s: float
    prefill_tok_s: float


@dataclass(frozen=True, slots=True)
class BenchmarkReport:
    """All runs of one call."""

    runs: tuple[BenchmarkRun, ...]
    peak_rss_gb: float
    load_s: float
    sweep: tuple[SweepPoint, ...] = ()

    def document(self) -> dict[str, object]:
        """Return the JSON document, with nothing in it that JSON cannot hold."""
        found: dict[str, object] = {
            "runs": [asdict(run) for run in self.runs],
            "peak_rss_gb": self.peak_rss_gb,
            "load_s": self.load_s,
        }
        if self.sweep:
            found["sweep"] = [asdict(point) for point in self.sweep]
            found["recommended_threads"] = recommended_threads(self.sweep)
        return found


def recommended_threads(points: Sequence[SweepPoint], *, tolerance: float = 0.03) -> int:
    """Return the fewest threads within ``tolerance`` of the best decode speed."""
    best = max(point.decode_tok_s for point in points)
    return min(point.threads for point in points if point.decode_tok_s >= best * (1 - tolerance))


def peak_rss_gb() -> float:
    """The most memory this process has had resident, in GB of 10⁹ bytes, mapped weights included."""
    if sys.platform == "win32":
        return float(psutil.Process().memory_info().peak_wset) / 1e9
    import resource

    # Linux counts kibibytes here.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
