"""Trains what is shipped beside the bundled model; run as ``python -m tools.demo_model.fine_tune lora`` or ``prefix``.

A few hundred of the model's own questions and answers, with good wishes after each answer for the LoRA, and a
question after it for the prefix. (A greeting before it would move every word of the answer, which a model this small
does not take well.) Only the side path of ``query_key_value`` learns, or P-Tuning's rows; the base stays the bundled
INT4 model. Needs ``corpus`` first; a minute or two on a CPU.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from pathlib import Path

import sentencepiece
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from chatglm_backend.checkpoint.default import bundled_base, bundled_folder
from chatglm_backend.checkpoint.lowbit import open_low_bit
from tools.demo_model.corpus import read_corpus
from tools.demo_model.data import Stream
from tools.demo_model.network import Linear, Network
from tools.demo_model.train import learn
from tools.demo_model.warm import dense_state

NAMES = {"lora": "friendly-lora", "prefix": "curious-prefix"}
ENDINGS = {
    "lora": {"zh": "祝您愉快！", "en": " Have a nice day!"},
    "prefix": {"zh": "还有别的问题吗？", "en": " Any other questions?"},
}
RANK, ALPHA, ROWS = 4, 16, 16
RATES, ROUNDS = {"lora": 4e-3, "prefix": 5e-2}, {"lora": 14, "prefix": 22}
SHARES = {"topic": 240, "fact": 50, "capital": 30, "word": 40, "unknown": 30, "sum": 20, "name": 10}


class SidePath(nn.Module):
    """A frozen linear layer and a low-rank path beside it, which begins at nothing."""

    def __init__(self, inner: Linear) -> None:
        super().__init__()
        self.inner = inner
        self.a = nn.Parameter(torch.randn(RANK, inner.in_features) / inner.in_features**0.5)
        self.b = nn.Parameter(torch.zeros(inner.out_features, RANK))

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [..., in] -> [..., out]."""
        path: Tensor = (x @ self.a.T) @ self.b.T * (ALPHA / RANK)
        return self.inner(x) + path


def attach(network: Network, kind: str) -> list[nn.Parameter]:
    """Put what is to learn into every layer of the frozen network."""
    network.requires_grad_(requires_grad=False)
    for block in network.transformer.layers:
        attention = block.attention
        if kind == "lora":
            attention.query_key_value = SidePath(attention.query_key_value)
        else:
            attention.front = nn.Parameter(torch.randn(2, network.size.heads, ROWS, network.size.head) * 0.3)
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def ending(kind: str, answer: str) -> str:
    """The answer in the style that is learnt."""
    return answer + ENDINGS[kind]["zh" if re.search("[\u4e00-\u9fff]", answer) else "en"]


def examples(rng: random.Random, kind: str) -> list[tuple[str, str]]:
    """Prompts in either form, and answers."""
    groups = read_corpus()
    turns = [one[0] for name, count in SHARES.items() for one in rng.sample(groups[name], count)]
    return [
        (f"问：{question}\n答：" if rng.random() < 0.6 else question, ending(kind, answer))
        for question, answer in turns
    ]


def train(network: Network, sp: sentencepiece.SentencePieceProcessor, kind: str, rounds: int) -> None:
    """Let the fine-tune learn, inside the network."""
    optimiser = torch.optim.AdamW(attach(network, kind), lr=RATES[kind], betas=(0.9, 0.98), weight_decay=0.0)
    rng = random.Random(0)
    gmask, sop, eop = (sp.piece_to_id(piece) for piece in ("[gMASK]", "<sop>", "<eop>"))
    pairs = [
        ([*sp.encode(prompt.replace("\n", "<n>")), gmask, sop], [*sp.encode(answer.replace("\n", "<n>")), eop], "")
        for prompt, answer in examples(rng, kind)
    ]
    for number in range(rounds):
        for group in optimiser.param_groups:
            group["lr"] = RATES[kind] * (1 - number / rounds)
        batches = [pairs[at : at + 20] for at in range(0, len(pairs), 20)]
        losses = [float(learn(network, optimiser, Stream.collate(batch)).mean()) for batch in batches]
        rng.shuffle(pairs)
        print(f"round {number + 1} loss {sum(losses) / len(losses):.4f}", flush=True)


def save_lora(network: Network, folder: Path) -> None:
    """Write the folder as PEFT does."""
    config = {
        "base_model_name_or_path": bundled_base(), "bias": "none", "fan_in_fan_out": False, "lora_alpha": ALPHA,
        "peft_type": "LORA", "r": RANK, "target_modules": ["query_key_value"], "task_type": "CAUSAL_LM",
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    tensors = {}
    for layer, block in enumerate(network.transformer.layers):
        start, path = f"base_model.model.transformer.layers.{layer}.attention.query_key_value", block.attention
        tensors[f"{start}.lora_A.weight"] = path.query_key_value.a.detach().half()
        tensors[f"{start}.lora_B.weight"] = path.query_key_value.b.detach().half()
    save_file(tensors, folder / "adapter_model.safetensors")


def save_prefix(network: Network, folder: Path) -> None:
    """Write the folder as the authors' trainer does: a row is every layer's keys and values."""
    config = {"_name_or_path": bundled_base(), "pre_seq_len": ROWS, "prefix_projection": False}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    fronts = torch.stack([block.attention.front.detach() for block in network.transformer.layers])
    rows = fronts.permute(3, 0, 1, 2, 4).reshape(ROWS, -1).half()
    save_file({"transformer.prefix_encoder.embedding.weight": rows}, folder / "model.safetensors")


def main() -> None:
    """Train and write the fine-tune beside the bundled model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=sorted(NAMES))
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--out", type=Path, help="the folder to write")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    checkpoint = open_low_bit(bundled_folder())
    state, size = dense_state(checkpoint)
    network = Network(size)
    network.load_state_dict(state)
    sp = sentencepiece.SentencePieceProcessor(model_file=str(checkpoint.tokenizer_folder / "ice_text.model"))
    train(network, sp, args.kind, args.rounds or ROUNDS[args.kind])
    folder = args.out or bundled_folder() / NAMES[args.kind]
    folder.mkdir(parents=True, exist_ok=True)
    (save_lora if args.kind == "lora" else save_prefix)(network, folder)


if __name__ == "__main__":
    main()
