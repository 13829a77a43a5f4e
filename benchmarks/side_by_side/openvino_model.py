"""Runs an exported stateful model through OpenVINO, on orders as llama.cpp's worker takes them.

Run with the interpreter of the OpenVINO environment: ``python openvino_model.py FOLDER THREADS``. Where the folder is
empty a Llama of ChatGLM3-6B's sizes with random weights is exported to it first: ``python openvino_model.py FOLDER
export LAYERS``, INT4 symmetric in groups of 64, output layer and embedding included, as ours.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from orders import serve


def export(folder: str, layers: int) -> None:
    """Write the model; takes some 14 GB of memory for eight layers."""
    import torch
    from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=4096, intermediate_size=13696, num_hidden_layers=layers, num_attention_heads=32,
        num_key_value_heads=2, vocab_size=65024, max_position_embeddings=8192, tie_word_embeddings=False,
    )  # fmt: skip
    torch.set_default_dtype(torch.bfloat16)
    with tempfile.TemporaryDirectory() as plain:
        LlamaForCausalLM(config).save_pretrained(plain)
        int4 = OVWeightQuantizationConfig(bits=4, sym=True, group_size=64, ratio=1.0, all_layers=True)
        OVModelForCausalLM.from_pretrained(plain, export=True, quantization_config=int4).save_pretrained(folder)


def main(folder: str, threads: int) -> None:
    """Compile, say so, and serve orders until standard input ends."""
    import openvino as ov

    path = Path(folder) / "openvino_model.xml"
    options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    request = ov.Core().compile_model(path, "CPU", options).create_infer_request()
    names = {name for port in request.model_inputs for name in port.get_names()}

    def step(ids: list[int], before: int) -> int:
        inputs = {
            "input_ids": np.array([ids], np.int64),
            "attention_mask": np.ones((1, before + len(ids)), np.int64),
            "position_ids": np.arange(before, before + len(ids), dtype=np.int64)[None],
            "beam_idx": np.zeros(1, np.int32),
        }
        request.infer({name: value for name, value in inputs.items() if name in names})
        return int(request.get_output_tensor(0).data[0, -1].argmax())

    def measure(prompt_tokens: int, new_tokens: int) -> dict[str, object]:
        request.reset_state()
        ids = [(i * 7919) % 60000 + 10 for i in range(prompt_tokens)]
        start = time.perf_counter()
        token, stamps = step(ids, 0), [time.perf_counter()]
        for place in range(new_tokens - 1):
            token = step([token], prompt_tokens + place)
            stamps.append(time.perf_counter())
        return {"ttft_s": stamps[0] - start, "decode_tok_s": (new_tokens - 1) / (stamps[-1] - stamps[0])}

    serve(measure)


if __name__ == "__main__":
    if sys.argv[2] == "export":
        export(sys.argv[1], int(sys.argv[3]))
    else:
        main(sys.argv[1], int(sys.argv[2]))
