"""``benchmark``: how fast a model runs on this machine, also one that is not downloaded yet."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from chatglm_backend.cli import options
from chatglm_backend.cli.output import guarded, note, say
from chatglm_backend.cli.progress import LoadBar
from chatglm_backend.errors import ConfigError
from chatglm_backend.sentences import Sentence
from chatglm_backend.settings import Settings, with_cache
from chatglm_backend.units import digits, rate, seconds

if TYPE_CHECKING:
    from chatglm_backend.benchmark.report import BenchmarkReport
    from chatglm_backend.benchmark.setup import Bench


@guarded
@options.with_settings("model", "adapter", "kernel", "threads", "context")
def benchmark(
    *,
    synthetic: Annotated[
        Optional[str],  # noqa: UP045 - typer reads it on Python 3.10 too
        typer.Option(
            "--synthetic",
            help="Full size with random weights: chatglm-6b, chatglm3-6b-32k, or another of docs/models.md.",
        ),
    ] = None,
    prompt_tokens: Annotated[str, typer.Option("--prompt-tokens", help="Prompt lengths.")] = "32,128,512",
    new_tokens: Annotated[
        int,
        typer.Option("--new-tokens", "--n-predict", "--max-new-tokens", min=2, help="Tokens to make per prompt."),
    ] = 32,
    batch: Annotated[str, typer.Option("--batch", help="How many sequences at once.")] = "1",
    threads_sweep: Annotated[bool, typer.Option("--threads-sweep", help="Try 1, 2, 4, … threads.")] = False,
    draft_tokens: Annotated[int, typer.Option("--draft-tokens", min=0, max=64, help="Draft tokens; 0: off.")] = 0,
    json_out: Annotated[Optional[Path], typer.Option("--json-out", help="Also write the JSON here.")] = None,  # noqa: UP045
    plot: Annotated[Optional[Path], typer.Option("--plot", help="Draw the figures into this PNG.")] = None,  # noqa: UP045
    json_output: options.Json = False,
    settings: Settings,
) -> None:
    """Measure TTFT, prefill and decode; the last thing on stdout is one JSON document.

    \b
    How would ChatGLM-6B run here, before downloading it?
      python -m chatglm_backend benchmark --synthetic chatglm-6b
    Eight visitors at once:
      python -m chatglm_backend benchmark --synthetic chatglm2-6b --batch 1,8 --prompt-tokens 32
    What does a fine-tune cost? It is measured in turn with the base:
      python -m chatglm_backend benchmark --model THUDM/chatglm3-6b --adapter ./my-lora
    """  # noqa: D301
    from chatglm_backend.benchmark.report import BenchmarkReport, peak_rss_gb
    from chatglm_backend.benchmark.runner import BenchmarkPlan, run_plan, sweep_threads
    from chatglm_backend.service.kernels import kernel_cache
    from chatglm_backend.service.speed import measured, remember

    plan = BenchmarkPlan(_numbers("prompt-tokens", prompt_tokens), new_tokens, _numbers("batch", batch), draft_tokens)
    _check_places(json_out, plot)
    threads = _threads(settings)
    bench = _open(synthetic, settings, threads)
    longest = max(plan.prompt_tokens) + new_tokens
    limit = bench.model.config.context_limit
    if longest > limit:
        raise ConfigError(name="prompt-tokens", value=longest, reason=Sentence("use.fewer_tokens", limit=limit))
    runs = run_plan(bench.model, plan, bench.machine, bench.adapters(settings.adapter))
    for run in runs:
        if run.batch == 1 and not run.adapter:  # the last is the longest, which tells most of long prompts
            rates, kv = (run.prefill_tok_s, run.decode_tok_s), bench.model.new_cache(1).bytes_per_token
            found = measured(bench.model.config, run.threads, run.prompt_tokens, *rates, kv)
            remember(kernel_cache(settings), bench.model.config, found)
    report = BenchmarkReport(runs, peak_rss_gb(), bench.load_s)
    if threads_sweep:
        del bench
        sweep = sweep_threads(lambda count: _open(synthetic, settings, count).engine(draft_tokens=0), threads)
        report = replace(report, sweep=sweep)
    if not json_output:
        _print_table(report)
    text = json.dumps(report.document(), ensure_ascii=False, indent=2)
    if json_out is not None:
        json_out.write_text(text + "\n", encoding="utf-8")
    if plot is not None:
        from chatglm_backend.benchmark.plot import save_plot

        save_plot(report, plot)
    say(text)


def _numbers(name: str, text: str) -> tuple[int, ...]:
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = ()
    low = 4 if name == "prompt-tokens" else 1
    if not found or min(found) < low or max(found) > 100_000:
        raise ConfigError(name=name, value=text, reason=Sentence("use.whole_numbers", low=low))
    return found


def _check_places(*files: Path | None) -> None:
    """A run of minutes must not end at a folder that is not there."""
    for file in files:
        if file is not None and (file.is_dir() or not file.absolute().parent.is_dir()):
            raise ConfigError(name="file", value=file, reason=Sentence("use.existing_folder"))


def _threads(settings: Settings) -> int:
    from chatglm_backend.hardware import Wishes, plan_threads, read_machine

    return plan_threads(read_machine(), Wishes(threads=settings.fixed("threads")), os.environ).threads


def _open(synthetic: str | None, settings: Settings, threads: int) -> Bench:
    from chatglm_backend.benchmark.setup import open_existing, open_synthetic
    from chatglm_backend.checkpoint.known import known_model
    from chatglm_backend.service.kernels import kernel_cache

    env = with_cache(settings, os.environ)
    if synthetic is not None and known_model(synthetic):
        note(Sentence("note.synthetic", name=synthetic))
    if synthetic is not None:
        return open_synthetic(synthetic, threads=threads, kernel=settings.kernel, cache=kernel_cache(settings))
    with LoadBar() as bar:
        found = replace(settings, threads=threads)
        return open_existing(settings.model, found, progress=bar, note=note, env=env)


def _print_table(report: BenchmarkReport) -> None:
    from rich.console import Console
    from rich.table import Table

    from chatglm_backend.benchmark.report import recommended_threads

    first, tuned = report.runs[0], any(run.adapter for run in report.runs)
    table = Table(title=f"{first.model}, kernel {first.kernel}, {first.threads} threads")
    if tuned:
        table.add_column("fine-tune")
    for name in ("prompt", "new", "batch", "TTFT", "prefill tok/s", "decode tok/s", "ITL p50/p95 ms", "bandwidth"):
        table.add_column(name, justify="right")
    base = first
    for run in report.runs:
        share = "" if run.bandwidth_share is None else f" ({digits(100 * run.bandwidth_share)} %)"
        if not run.adapter:
            base = run
        ratio = f" ({digits(run.decode_tok_s / base.decode_tok_s)}×)" if run.adapter and base.decode_tok_s else ""
        table.add_row(
            *([run.adapter or "-"] if tuned else []),
            str(run.prompt_tokens),
            str(run.new_tokens),
            str(run.batch),
            seconds(run.ttft_s),
            digits(run.prefill_tok_s),
            digits(run.decode_tok_s) + ratio,
            f"{digits(run.itl_p50_ms)} / {digits(run.itl_p95_ms)}",
            f"{digits(run.read_bandwidth_gb_s)} GB/s{share}",
        )
    Console(width=110).print(table)
    for point in report.sweep:
        say(f"{point.threads} threads: {rate(point.decode_tok_s)} decode, {digits(point.prefill_tok_s)} prefill")
    if report.sweep:
        say(f"Recommended here: --threads {recommended_threads(report.sweep)}")
