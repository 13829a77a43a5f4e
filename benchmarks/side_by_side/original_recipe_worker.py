"""Runs the original recipe on orders from standard input, in its own environment of 2023.

Run with the interpreter of that environment: ``python original_recipe_worker.py FOLDER THREADS``. The folder
needs THUDM's modelling code beside the weights; where it is missing the comparison says 'not run'.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch


def main(folder: str, threads: int) -> None:
    """Load as the recipe does, say so, and serve orders until standard input ends."""
    if not (Path(folder) / "modeling_chatglm.py").exists():
        print(json.dumps({"ready": False, "reason": "put THUDM's modelling code into the folder"}), flush=True)
        return
    from bigdl.llm.transformers import AutoModel

    torch.set_num_threads(threads)
    model = AutoModel.from_pretrained(folder, load_in_4bit=True, trust_remote_code=True)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        ids = [(i * 7919) % 60000 + 10 for i in range(order["prompt_tokens"] - 2)] + [130001, 130004]
        inputs = torch.tensor([ids])
        with torch.inference_mode():
            start = time.perf_counter()
            model.generate(inputs, max_new_tokens=1, min_new_tokens=1)
            first = time.perf_counter() - start
            start = time.perf_counter()
            model.generate(inputs, max_new_tokens=order["new_tokens"], min_new_tokens=order["new_tokens"])
            whole = time.perf_counter() - start
        decode = (order["new_tokens"] - 1) / (whole - first)
        print(json.dumps({"ttft_s": first, "decode_tok_s": decode}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
