"""Two plots of a benchmark: decode speed against the bandwidth's ceiling, and TTFT against prompt length.

matplotlib is optional and imported here only.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from chatglm_backend.benchmark.report import BenchmarkReport, BenchmarkRun
from chatglm_backend.errors import ConfigError
from chatglm_backend.sentences import Sentence
from chatglm_backend.units import digits

_INK, _ACCENT, _CEILING = "#1f2933", "#2563eb", "#9aa5b1"
_BAR_WIDTH = 0.6


def save_plot(report: BenchmarkReport, path: Path) -> None:
    """Write a PNG of 1600 × 640 pixels. Raises ConfigError where matplotlib is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        reason = Sentence("use.matplotlib")
        raise ConfigError(name="plot", value=str(path), reason=reason) from error
    figure = Figure(figsize=(16, 6.4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    _decode(left, report.runs)
    _ttft(right, report.runs)
    run = report.runs[0]
    figure.suptitle(f"{run.model}, kernel {run.kernel}, {run.threads} threads", color=_INK)
    figure.savefig(path)


def _decode(axes: Any, runs: tuple[BenchmarkRun, ...]) -> None:  # noqa: ANN401 - an axes of an optional package
    labels = [f"{run.prompt_tokens}×{run.batch}{run.adapter and chr(10) + run.adapter}" for run in runs]
    bars = axes.bar(labels, [run.decode_tok_s for run in runs], color=_ACCENT, width=_BAR_WIDTH, label="measured")
    axes.bar_label(bars, [digits(run.decode_tok_s) for run in runs], label_type="center", color="white")
    ceilings = [run.decode_tok_s / run.bandwidth_share if run.bandwidth_share else float("nan") for run in runs]
    places = [place for place, ceiling in enumerate(ceilings) if not math.isnan(ceiling)]
    if places:
        heights = [ceilings[place] for place in places]
        edges = [[place + side * _BAR_WIDTH / 2 for place in places] for side in (-1, 1)]
        axes.hlines(heights, *edges, color=_CEILING, linewidth=3, label="as fast as the weights can be read")
    axes.set_xlabel("prompt tokens × batch")
    axes.set_ylabel("decode tok/s, all sequences")
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)


def _ttft(axes: Any, runs: tuple[BenchmarkRun, ...]) -> None:  # noqa: ANN401 - an axes of an optional package
    alone = sorted((run for run in runs if run.batch == min(r.batch for r in runs)), key=lambda run: run.prompt_tokens)
    for name in dict.fromkeys(run.adapter for run in alone):
        points = [(run.prompt_tokens, run.ttft_s) for run in alone if run.adapter == name]
        axes.plot(*zip(*points, strict=True), color=None if name else _ACCENT, marker="o", label=name or "base")
    if len({run.adapter for run in runs}) > 1:
        axes.legend(frameon=False)
    axes.set_xlabel("prompt tokens")
    axes.set_ylabel("time to first token, s")
    axes.set_ylim(bottom=0)
