"""Runs the original recipe in its own environment of 2023, on orders as llama.cpp's worker takes them.

Run with the interpreter of that environment: ``python original_recipe_worker.py FOLDER THREADS``. The folder
needs THUDM's modelling code beside the weights; where it is missing the comparison says 'not run'.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from orders import serve


def main(folder: str, threads: int) -> None:
    """Load as the recipe does, say so, and serve orders until standard input ends."""
    if not (Path(folder) / "modeling_chatglm.py").exists():
        print(json.dumps({"ready": False, "reason": "put THUDM's modelling code into the folder"}), flush=True)
        return
    from bigdl.llm.transformers import AutoModel

    torch.set_num_threads(threads)
    model = AutoModel.from_pretrained(folder, load_in_4bit=True, trust_remote_code=True)

    def measure(prompt_tokens: int, new_tokens: int) -> dict[str, object]:
        ids = [(i * 7919) % 60000 + 10 for i in range(prompt_tokens - 2)] + [130001, 130004]
        inputs, ended = torch.tensor([ids]), [time.perf_counter()]
        for count in (1, new_tokens):
            with torch.inference_mode():
                model.generate(inputs, max_new_tokens=count, min_new_tokens=count)
            ended.append(time.perf_counter())
        first, whole = ended[1] - ended[0], ended[2] - ended[1]
        return {"ttft_s": first, "decode_tok_s": (new_tokens - 1) / (whole - first)}

    serve(measure)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
