"""What a batch takes of the engine's speed: its lines against as many visitors as there are rows, in turn.

One process, one engine with full-size random weights, one worker; a batch is read, answered and written as the command
does it, every line to the disk.

    python -m benchmarks.batch --synthetic chatglm3-6b
"""

from __future__ import annotations

import json
import logging
import statistics
import tempfile
from pathlib import Path

from benchmarks.flags import read_flags
from benchmarks.page_overhead import loaded, make_engine
from benchmarks.visitors import Visitors
from chatglm_backend.api.answering import Answering
from chatglm_backend.batch.inputs import COMPLETION, read_lines
from chatglm_backend.batch.journal import Journal
from chatglm_backend.batch.runner import BatchRun
from chatglm_backend.checkpoint.known import MODELS
from chatglm_backend.service import Service
from chatglm_backend.settings import Settings

_OFTEN = 100_000


def answer(service: Service, rows: int, prompts: list[str], new_tokens: int) -> float:
    """Tokens/s of a batch, from its start to its end."""
    bodies = [{"prompt": prompt, "max_tokens": new_tokens} for prompt in prompts]
    lines = [
        json.dumps({"custom_id": body["prompt"], "method": "POST", "url": COMPLETION, "body": body}) for body in bodies
    ]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "in.jsonl")
        source.write_text("\n".join(lines), encoding="utf-8")
        with Journal(Path(folder, "out.jsonl")) as journal:
            answering = Answering(service, service.settings)
            run = BatchRun(answering, read_lines(source), journal, visitor="batch", at_once=rows + 4)
            run.wait()
            if run.error is not None:
                raise run.error
            return run.progress().rate


def main() -> None:
    """Measure and print a Markdown table."""
    options = read_flags(
        __doc__, sorted(MODELS), synthetic="chatglm3-6b", rows=8, lines=16, prompt_tokens=32, new_tokens=32, rounds=3,
        threads=0,
    )  # fmt: skip
    logging.disable(logging.INFO)
    engine = make_engine(options.synthetic, options.threads)
    settings = Settings(visitor_limit=_OFTEN, queue_limit=_OFTEN, request_timeout=0.0)
    held = loaded(engine, options.threads, options.rows, settings)
    service = Service(settings, loader=lambda *_, **__: held)
    service.load()
    service.wait_ready(120)
    visitors = Visitors(held.worker)
    visitors.together(options.rows, options.prompt_tokens, 4)  # warms up
    print(f"{options.synthetic}, {options.threads} threads, {options.rows} rows, {options.new_tokens} tokens each\n")
    print("| round | visitors: tok/s | batch: tok/s | ratio |\n|---|---|---|---|", flush=True)
    ratios = []
    for number in range(1, options.rounds + 1):
        plain, _ = visitors.together(options.rows, options.prompt_tokens, options.new_tokens)
        prompts = [f"{options.prompt_tokens}/{1000 * number + i}" for i in range(options.lines)]
        batch = answer(service, options.rows, prompts, options.new_tokens)
        ratios.append(batch / plain)
        print(f"| {number} | {plain:.2f} | {batch:.2f} | {ratios[-1]:.3f} |", flush=True)
    print(f"\nmedian {statistics.median(ratios):.3f}")
    service.close()


if __name__ == "__main__":
    main()
