"""Write a GGUF file of one model's shape with random Q4_0 weights, for llama.cpp to run.

Speed does not depend on the values, so nothing is trained or downloaded. GLM-Edge-1.5B's tied output layer is written
as Q4_0 too, as ours computes it; llama.cpp's own conversion leaves it in more bits.
Run with the interpreter of the llama.cpp environment: ``python random_gguf.py FILE [SHAPE [LAYERS]]``.
"""

from __future__ import annotations

import sys

import gguf
import numpy as np

SHAPES = {
    # layers, hidden, heads, K/V heads, features of a head that turn, FFN, vocabulary, biases
    "chatglm3-6b": (28, 4096, 32, 2, 64, 13696, 65024, True),
    "glm-4-9b-chat": (40, 4096, 32, 2, 64, 13696, 151552, True),
    "glm-edge-1.5b-chat": (28, 2048, 16, 4, 128, 6144, 59264, False),
}
HEAD_DIM, CONTEXT = 128, 8192
Q4_0_BLOCK, Q4_0_BYTES = 32, 18


def random_q4_0(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Random Q4_0 blocks, uint8 [rows, columns / 32 * 18], with one small positive scale."""
    blocks = rows * columns // Q4_0_BLOCK
    data = rng.integers(0, 256, (blocks, Q4_0_BYTES), dtype=np.uint8)
    data[:, :2] = np.frombuffer(np.float16(0.002).tobytes(), np.uint8)
    return data.reshape(rows, columns // Q4_0_BLOCK * Q4_0_BYTES)


def main(path: str, shape: str = "chatglm3-6b", fewer_layers: str = "0") -> None:
    """Write the file; about 3.9 GB for ChatGLM3-6B, a minute."""
    all_layers, hidden, heads, kv_heads, turning, ffn, vocab, biases = SHAPES[shape]
    layers = int(fewer_layers) or all_layers
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "chatglm")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(ffn)
    writer.add_block_count(layers)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(turning)
    writer.add_rope_freq_base(10000.0)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("chatglm-bpe")
    writer.add_token_list([f"t{i}" for i in range(vocab)])
    writer.add_token_types([1] * vocab)
    writer.add_token_merges(["t 1"])
    writer.add_eos_token_id(2)

    def quantised(name: str, rows: int, columns: int) -> None:
        writer.add_tensor(name, random_q4_0(rng, rows, columns), raw_dtype=gguf.GGMLQuantizationType.Q4_0)

    def ones(name: str, length: int, value: float = 1.0) -> None:
        writer.add_tensor(name, np.full(length, value, np.float32))

    writer.add_tensor("token_embd.weight", (rng.standard_normal((vocab, hidden)) * 0.02).astype(np.float16))
    ones("output_norm.weight", hidden)
    quantised("output.weight", vocab, hidden)
    qkv = (heads + 2 * kv_heads) * HEAD_DIM
    for i in range(layers):
        ones(f"blk.{i}.attn_norm.weight", hidden)
        quantised(f"blk.{i}.attn_qkv.weight", qkv, hidden)
        if biases:
            ones(f"blk.{i}.attn_qkv.bias", qkv, 0.0)
        quantised(f"blk.{i}.attn_output.weight", hidden, heads * HEAD_DIM)
        ones(f"blk.{i}.ffn_norm.weight", hidden)
        quantised(f"blk.{i}.ffn_up.weight", 2 * ffn, hidden)
        quantised(f"blk.{i}.ffn_down.weight", hidden, ffn)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
