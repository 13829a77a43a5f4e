"""Ours against its peers, interleaved in one run; prints a Markdown table with ratios.

Each system is a process of its own with its own interpreter; rounds alternate between them, and
the median of each is compared. Peers whose interpreter is not named are left out and say 'not run'.

    python -m benchmarks.side_by_side.run --family chatglm3-6b --threads 2 --rounds 3 \
        --llama-cpp ENV/bin/python --gguf FILE [--original ENV/bin/python --folder DIR]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import TextIO, cast

HERE = Path(__file__).resolve().parent


class Worker:
    """A system under test: orders in, figures out."""

    def __init__(self, name: str, command: list[str]) -> None:
        self.name = name
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=HERE.parent.parent
        )
        self.greeting = self._answer()

    @property
    def ready(self) -> bool:
        """Whether the system loaded its model."""
        return bool(self.greeting.get("ready"))

    def measure(self, prompt_tokens: int, new_tokens: int) -> dict[str, float]:
        """One answer's figures."""
        order = json.dumps({"prompt_tokens": prompt_tokens, "new_tokens": new_tokens})
        stdin = cast("TextIO", self._process.stdin)
        stdin.write(order + "\n")
        stdin.flush()
        return cast("dict[str, float]", self._answer())

    def close(self) -> None:
        """End the process."""
        cast("TextIO", self._process.stdin).close()
        self._process.wait(timeout=60)

    def _answer(self) -> dict[str, object]:
        for line in cast("TextIO", self._process.stdout):
            if line.startswith("{"):
                return cast("dict[str, object]", json.loads(line))
        return {"ready": False, "reason": f"ended with {self._process.wait()}"}


def compare(workers: list[Worker], prompts: list[int], new_tokens: int, rounds: int) -> None:
    """Interleave the systems and print the table."""
    print("| prompt tokens | system | TTFT s | ratio | prefill tok/s | decode tok/s | ratio | spread of decode |")
    print("|---|---|---|---|---|---|---|---|")
    for worker in workers:
        worker.measure(min(prompts), 4)
    for length in prompts:
        found: dict[str, list[dict[str, float]]] = {worker.name: [] for worker in workers}
        for _ in range(rounds):
            for worker in workers:
                found[worker.name].append(worker.measure(length, new_tokens))
        ours = found[workers[0].name]
        our_ttft, our_decode = (statistics.median(f[k] for f in ours) for k in ("ttft_s", "decode_tok_s"))
        for worker in workers:
            ttft, decode = (statistics.median(f[k] for f in found[worker.name]) for k in ("ttft_s", "decode_tok_s"))
            low, high = (pick(f["decode_tok_s"] for f in found[worker.name]) for pick in (min, max))
            print(
                f"| {length} | {worker.name} | {ttft:.2f} | {our_ttft / ttft:.2f} | {length / ttft:.1f} "
                f"| {decode:.2f} | {our_decode / decode:.2f} | {low:.2f}-{high:.2f} |",
                flush=True,
            )


def main() -> None:
    """Start the systems that are at hand and compare them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--family", default="chatglm3-6b")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompt-tokens", default="32,128,512")
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--kernel", default="auto")
    parser.add_argument("--llama-cpp", help="interpreter of the llama.cpp environment")
    parser.add_argument("--gguf", help="file written by random_gguf.py")
    parser.add_argument("--original", help="interpreter of the original recipe's environment")
    parser.add_argument("--folder", help="full-size fp16 folder with THUDM's modelling code")
    args = parser.parse_args()
    threads = str(args.threads)
    ours = [sys.executable, "-m", "benchmarks.side_by_side.ours_worker", args.family, threads, args.kernel]
    workers = [Worker("ours", ours)]
    if args.llama_cpp:
        workers.append(Worker("llama.cpp", [args.llama_cpp, str(HERE / "llama_cpp_worker.py"), args.gguf, threads]))
    if args.original:
        script = str(HERE / "original_recipe_worker.py")
        workers.append(Worker("original recipe", [args.original, script, args.folder, threads]))
    running = [worker for worker in workers if worker.ready]
    for worker in workers:
        if not worker.ready:
            print(f"{worker.name}: not run ({worker.greeting.get('reason')})")
    compare(running, [int(n) for n in args.prompt_tokens.split(",")], args.new_tokens, args.rounds)
    for worker in workers:
        worker.close()


if __name__ == "__main__":
    main()
