"""Trains the LoRA that is shipped beside the bundled model; run as ``python -m tools.demo_model.fine_tune``.

A few hundred of the model's own questions and answers, with good wishes after each answer. (A greeting before it
would move every word of the answer, which a model this small does not take well.) Only the side path of
``query_key_value`` learns; the base stays the bundled INT4 model. Needs ``corpus`` first; a minute or two on a CPU.
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

from chatglm_backend.checkpoint.default import bundled_folder
from chatglm_backend.checkpoint.lowbit import open_low_bit
from tools.demo_model.corpus import read_corpus
from tools.demo_model.data import Stream
from tools.demo_model.network import Linear, Network
from tools.demo_model.train import learn
from tools.demo_model.warm import dense_state

NAME = "friendly-lora"
WISHES = {"zh": "祝您愉快！", "en": " Have a nice day!"}
RANK, ALPHA, RATE = 4, 16, 4e-3
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


def wishing(answer: str) -> str:
    """The answer in the style that is learnt."""
    return answer + WISHES["zh" if re.search("[\u4e00-\u9fff]", answer) else "en"]


def examples(rng: random.Random) -> list[tuple[str, str]]:
    """Prompts in either form, and answers."""
    groups = read_corpus()
    turns = [one[0] for name, count in SHARES.items() for one in rng.sample(groups[name], count)]
    return [
        (f"问：{question}\n答：" if rng.random() < 0.6 else question, wishing(answer)) for question, answer in turns
    ]


def train(network: Network, sp: sentencepiece.SentencePieceProcessor, rounds: int) -> list[SidePath]:
    """The trained side paths, one for each layer."""
    network.requires_grad_(requires_grad=False)
    paths = []
    for block in network.transformer.layers:
        block.attention.query_key_value = SidePath(block.attention.query_key_value)
        paths.append(block.attention.query_key_value)
    parameters = [p for path in paths for p in (path.a, path.b)]
    optimiser = torch.optim.AdamW(parameters, lr=RATE, betas=(0.9, 0.98), weight_decay=0.0)
    rng = random.Random(0)
    gmask, sop, eop = (sp.piece_to_id(piece) for piece in ("[gMASK]", "<sop>", "<eop>"))
    pairs = [
        ([*sp.encode(prompt.replace("\n", "<n>")), gmask, sop], [*sp.encode(answer.replace("\n", "<n>")), eop])
        for prompt, answer in examples(rng)
    ]
    for number in range(rounds):
        for group in optimiser.param_groups:
            group["lr"] = RATE * (1 - number / rounds)
        batches = [pairs[at : at + 20] for at in range(0, len(pairs), 20)]
        losses = [learn(network, optimiser, Stream.collate(batch)) for batch in batches]
        rng.shuffle(pairs)
        print(f"round {number + 1} loss {sum(losses) / len(losses):.4f}", flush=True)
    return paths


def save(paths: list[SidePath], folder: Path) -> None:
    """Write the folder as PEFT does."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "base_model_name_or_path": "chatglm-demo", "bias": "none", "fan_in_fan_out": False, "lora_alpha": ALPHA,
        "peft_type": "LORA", "r": RANK, "target_modules": ["query_key_value"], "task_type": "CAUSAL_LM",
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    tensors = {}
    for layer, path in enumerate(paths):
        start = f"base_model.model.transformer.layers.{layer}.attention.query_key_value"
        tensors[f"{start}.lora_A.weight"] = path.a.detach().half()
        tensors[f"{start}.lora_B.weight"] = path.b.detach().half()
    save_file(tensors, folder / "adapter_model.safetensors")


def main() -> None:
    """Train and write the adapter beside the bundled model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=bundled_folder() / NAME)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    checkpoint = open_low_bit(bundled_folder())
    state, size = dense_state(checkpoint)
    network = Network(size)
    network.load_state_dict(state)
    sp = sentencepiece.SentencePieceProcessor(model_file=str(checkpoint.tokenizer_folder / "ice_text.model"))
    save(train(network, sp, args.rounds), args.out)


if __name__ == "__main__":
    main()
