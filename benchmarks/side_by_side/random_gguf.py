"""Write a GGUF file of ChatGLM3-6B's shape with random Q4_0 weights, for llama.cpp to run.

Speed does not depend on the values, so nothing is trained or downloaded.
Run with the interpreter of the llama.cpp environment: ``python random_gguf.py FILE``.
"""

from __future__ import annotations

import sys

import gguf
import numpy as np

LAYERS, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, FFN, VOCAB, CONTEXT = 28, 4096, 32, 2, 128, 13696, 65024, 8192
Q4_0_BLOCK, Q4_0_BYTES = 32, 18


def random_q4_0(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Random Q4_0 blocks, uint8 [rows, columns / 32 * 18], with one small positive scale."""
    blocks = rows * columns // Q4_0_BLOCK
    data = rng.integers(0, 256, (blocks, Q4_0_BYTES), dtype=np.uint8)
    data[:, :2] = np.frombuffer(np.float16(0.002).tobytes(), np.uint8)
    return data.reshape(rows, columns // Q4_0_BLOCK * Q4_0_BYTES)


def main(path: str) -> None:
    """Write the file; about 3.9 GB, a minute."""
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "chatglm")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FFN)
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HEAD_DIM // 2)
    writer.add_rope_freq_base(10000.0)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("chatglm-bpe")
    writer.add_token_list([f"t{i}" for i in range(VOCAB)])
    writer.add_token_types([1] * VOCAB)
    writer.add_token_merges(["t 1"])
    writer.add_eos_token_id(2)

    def quantised(name: str, rows: int, columns: int) -> None:
        writer.add_tensor(name, random_q4_0(rng, rows, columns), raw_dtype=gguf.GGMLQuantizationType.Q4_0)

    def ones(name: str, length: int, value: float = 1.0) -> None:
        writer.add_tensor(name, np.full(length, value, np.float32))

    writer.add_tensor("token_embd.weight", (rng.standard_normal((VOCAB, HIDDEN)) * 0.02).astype(np.float16))
    ones("output_norm.weight", HIDDEN)
    quantised("output.weight", VOCAB, HIDDEN)
    qkv = (HEADS + 2 * KV_HEADS) * HEAD_DIM
    for i in range(LAYERS):
        ones(f"blk.{i}.attn_norm.weight", HIDDEN)
        quantised(f"blk.{i}.attn_qkv.weight", qkv, HIDDEN)
        ones(f"blk.{i}.attn_qkv.bias", qkv, 0.0)
        quantised(f"blk.{i}.attn_output.weight", HIDDEN, HEADS * HEAD_DIM)
        ones(f"blk.{i}.ffn_norm.weight", HIDDEN)
        quantised(f"blk.{i}.ffn_up.weight", 2 * FFN, HIDDEN)
        quantised(f"blk.{i}.ffn_down.weight", HIDDEN, FFN)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main(sys.argv[1])
