"""Runs a build's ``llama-bench`` on orders as llama.cpp's worker takes them: for ik_llama.cpp, weights repacked.

Run with any Python: ``python llama_bench.py PROGRAM FILE THREADS``. The file is loaded and repacked for every order,
which does not count. Time to the first token is that of reading the prompt.
"""

from __future__ import annotations

import json
import subprocess
import sys

from orders import serve


def main(program: str, file: str, threads: str) -> None:
    """Serve orders until standard input ends."""

    def measure(prompt_tokens: int, new_tokens: int) -> dict[str, object]:
        command = [program, "-m", file, "-t", threads, "-rtr", "1", "-r", "1", "-o", "json"]
        lengths = ["-p", str(prompt_tokens), "-n", str(new_tokens)]
        done = subprocess.run([*command, *lengths], capture_output=True, text=True, check=True)
        reading, writing = (found["avg_ts"] for found in json.loads(done.stdout[done.stdout.index("[") :]))
        return {"ttft_s": prompt_tokens / reading, "decode_tok_s": writing}

    serve(measure)


if __name__ == "__main__":
    main(*sys.argv[1:])
