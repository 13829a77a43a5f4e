"""From the start of the process to the page, the model and the first token, for a model converted before.

Starts the real command and asks it over HTTP, as an impatient person would, and then once more for the next
answer. The first round, which fills the page cache, is shown apart.

    python -m benchmarks.second_start --model DIR --rounds 3
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

__all__ = ["main"]

ROOT = Path(__file__).resolve().parent.parent
LIMIT_S = 180.0
PROMPT = "问：AI是什么？\n答："


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def seconds_until(address: str, began: float, process: subprocess.Popen[bytes]) -> float:
    """Seconds from ``began`` until the address answers 200. Raises RuntimeError when the process or the time ends."""
    while process.poll() is None and time.perf_counter() - began < LIMIT_S:
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:  # noqa: S310 - http to this machine
                if answer.status == 200:
                    return time.perf_counter() - began
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.02)
    raise RuntimeError(f"{address} never answered")


def seconds_to_token(port: int) -> float:
    """Seconds until the first piece of an answer to the recipe's own prompt."""
    body = json.dumps({"prompt": PROMPT, "max_tokens": 8, "stream": True}).encode()
    address = f"http://127.0.0.1:{port}/v1/completions"
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    began = time.perf_counter()
    with urllib.request.urlopen(request, timeout=LIMIT_S) as answer:  # noqa: S310 - http to this machine
        for line in answer:
            piece = json.loads(line[6:]) if line.startswith(b"data: {") else {}
            if any(choice["text"] or choice["finish_reason"] for choice in piece.get("choices", ())):
                return time.perf_counter() - began
    raise RuntimeError("the answer never began")


def one_start(arguments: list[str]) -> tuple[float, ...]:
    """Start the page; wait for page, model, first token and the second answer's first token; end it."""
    port = free_port()
    with tempfile.TemporaryDirectory() as data:
        command = [sys.executable, "webui.py", "--port", str(port), "--data", data, *arguments]
        began = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            page = seconds_until(f"http://127.0.0.1:{port}/", began, process)
            ready = seconds_until(f"http://127.0.0.1:{port}/ready", began, process)
            return page, ready, time.perf_counter() - began + seconds_to_token(port), seconds_to_token(port)
        finally:
            process.terminate()
            process.wait(60)


def _row(name: str, seconds: Sequence[float]) -> str:
    return f"| {name} | {' | '.join(f'{number:.2f}' for number in seconds)} |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--cache", help="where converted models are kept")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    arguments = ["--model", options.model, *(["--cache", options.cache] if options.cache else [])]
    print("| start | page answers, s | model ready, s | first token, s | first token of the next answer, s |")
    print("|---|---|---|---|---|")
    found = []
    for number in range(options.rounds + 1):
        found.append(one_start(arguments))
        print(_row(str(number or "warm-up"), found[-1]), flush=True)
    print(_row("**median**", [statistics.median(times) for times in zip(*found[1:], strict=True)]))


if __name__ == "__main__":
    main()
