"""From the start of the process to the page, the model and the first token, for a model converted before.

Starts the real command and asks it over HTTP, as an impatient person would, and then once more for the next
answer. The first round, which fills the page cache, is shown apart. With ``--against``, another checkout starts in turn
with this one, each with a cache of its own, and the medians' ratios are shown.

    python -m benchmarks.second_start --model DIR --rounds 3 --against ../before
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.soaking.server import Server

PROMPT = "问：AI是什么？\n答："


def seconds_to_token(server: Server) -> float:
    """Seconds until the first piece of an answer to the recipe's own prompt."""
    began = time.perf_counter()
    with server.open("/v1/completions", {"prompt": PROMPT, "max_tokens": 8, "stream": True}) as answer:
        for line in answer:
            piece = json.loads(line[6:]) if line.startswith(b"data: {") else {}
            if any(choice["text"] or choice["finish_reason"] for choice in piece.get("choices", ())):
                return time.perf_counter() - began
    raise RuntimeError("the answer never began")


def one_start(flags: Sequence[str], root: Path) -> tuple[float, ...]:
    """Start the page; wait for page, model, first token and the second answer's first token; end it."""
    with tempfile.TemporaryDirectory() as data, Server(Path(data), "second-start", flags, root) as server:
        page, page_work = server.seconds_until("/"), server.processor_seconds()
        ready = server.seconds_until("/ready")
        first, work = ready + seconds_to_token(server), server.processor_seconds()
        times = page, ready, first, seconds_to_token(server), page_work, work
        server.terminate()
        return times


def _row(name: str, numbers: Sequence[float]) -> str:
    return f"| {name} | {' | '.join(f'{number:.2f}' for number in numbers)} |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="default: the one that the page begins with")
    parser.add_argument("--cache", type=Path, help="where converted models and kernels are kept")
    parser.add_argument("--against", type=Path, help="another checkout; its cache has the name of ours with -against")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    flags = ["--model", options.model] if options.model else []
    cache = options.cache and options.cache.absolute()
    runs = {"here": (Path(__file__).resolve().parents[1], cache)}
    if options.against:
        runs["against"] = options.against.resolve(), cache and cache.with_name(f"{cache.name}-against")
    names = "page answers, s", "model ready, s", "first token, s", "first token of the next answer, s"
    print("| start |", " | ".join((*names, "processor time to the page, s", "to the first token, s")), "|")
    print("|---|---|---|---|---|---|---|")
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in runs}
    for number in range(options.rounds + 1):
        for name, (root, place) in runs.items():
            found[name].append(one_start([*flags, *(["--cache", str(place)] if place else [])], root))
            print(_row(f"{name}, {number or 'warm-up'}", found[name][-1]), flush=True)
    medians = {
        name: [statistics.median(times) for times in zip(*rows[1:], strict=True)] for name, rows in found.items()
    }
    for name, times in medians.items():
        print(_row(f"**{name}, median**", times))
    if options.against:
        print(_row("**ratio**", [a / b for a, b in zip(medians["here"], medians["against"], strict=True)]))


if __name__ == "__main__":
    main()
