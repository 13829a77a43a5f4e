"""What a fine-tune costs beside its base: speed, memory, and how long adding it takes. Two Markdown tables.

A full-size model of random weights, and fine-tunes of random numbers written as the trainers do. Base and fine-tune
make their tokens in turn, one token each, each from its own prompt, so that a machine that changes its speed
changes both; prompts are read in turn too, layer by layer.

    python -m benchmarks.adapters --model chatglm3-6b
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import torch
from safetensors.torch import save_file
from torch import Tensor

from chatglm_backend.benchmark.counted_prompts import CountedPrompts
from chatglm_backend.benchmark.setup import Bench, open_synthetic
from chatglm_backend.checkpoint.known import MODELS
from chatglm_backend.core import CancelToken, GenerationParams, GenerationRequest
from chatglm_backend.engine.engine import Engine
from chatglm_backend.engine.options import EngineOptions
from chatglm_backend.hardware import plan_threads, read_machine
from chatglm_backend.models.adapter import Adapter
from chatglm_backend.models.config import ModelConfig
from chatglm_backend.models.layout import tensor_specs
from chatglm_backend.service.kernels import kernel_cache
from chatglm_backend.settings import Settings

QKV, ALL, PREFIX, PROJECTED = "LoRA 8, query_key_value", "LoRA 16, all linears", "prefix 128", "prefix 128, projected"
PREFIX_ROWS, VISITORS = 128, 4
OPTIONS = EngineOptions(draft_tokens=0, prefix_cache_bytes=0, idle_units=1)
SAMPLE_S = 0.003


def write_lora(folder: Path, config: ModelConfig, rank: int, only: str = "") -> Path:
    """A LoRA of that rank beside every product whose name holds ``only``, as PEFT saves it."""
    tensors: dict[str, Tensor] = {}
    for spec in tensor_specs(config):
        if spec.kind == "linear" and only in spec.name:
            start = f"base_model.model.{spec.name.removesuffix('.weight')}"
            tensors[f"{start}.lora_A.weight"] = (torch.randn(rank, spec.shape[1]) / spec.shape[1] ** 0.5).half()
            tensors[f"{start}.lora_B.weight"] = (torch.randn(spec.shape[0], rank) * 0.02).half()
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": rank}
    return _write(folder, {"adapter_config.json": settings}, "adapter_model.safetensors", tensors)


def write_prefix(folder: Path, config: ModelConfig, *, projected: bool = False) -> Path:
    """A P-Tuning v2 prefix as the authors' trainers save it."""
    full, hidden = 2 * config.num_layers * config.num_kv_heads * config.head_dim, config.hidden_size
    width = hidden if projected and config.family == "chatglm" else full
    shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (PREFIX_ROWS, width)}
    if projected:
        shapes |= {"trans.0.weight": (hidden, width), "trans.0.bias": (hidden,)}
        shapes |= {"trans.2.weight": (full, hidden), "trans.2.bias": (full,)}
    tensors = {f"transformer.prefix_encoder.{n}": torch.empty(s).normal_(0, 0.02).half() for n, s in shapes.items()}
    return _write(folder, {"config.json": {"pre_seq_len": PREFIX_ROWS}}, "model.safetensors", tensors)


def _write(folder: Path, files: Mapping[str, object], name: str, tensors: dict[str, Tensor]) -> Path:
    folder.mkdir()
    for file, content in files.items():
        (folder / file).write_text(json.dumps(content), encoding="utf-8")
    save_file(tensors, folder / name)
    return folder


class Memory:
    """How much anonymous memory the process takes, and the most of it since the beginning; mapped files apart."""

    def __init__(self) -> None:
        _give_back()
        self.start = self.most = self.now()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    @staticmethod
    def now() -> int:
        """Bytes."""
        found = psutil.Process().memory_info()
        return int(found.rss - found.shared)

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_S):
            self.most = max(self.most, self.now())

    def end(self) -> tuple[int, int]:
        """Bytes more than at the beginning, now and at most."""
        self._ended.set()
        self._thread.join()
        _give_back()
        now = self.now()
        return now - self.start, max(self.most, now) - self.start


def _give_back() -> None:
    """Freed memory to the system, where it would be taken again unseen, or counted as taken."""
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def added(bench: Bench, folders: Mapping[str, Path], into: dict[str, Adapter]) -> Iterator[str]:
    """Adds them to the loaded base; a line for each."""
    yield "| fine-tune | file, MB | seconds to add | takes, MB | of them its own | peak meanwhile, MB |"
    yield "|---|---|---|---|---|---|"
    for name, folder in folders.items():
        memory, began = Memory(), time.perf_counter()
        (into[name],) = bench.adapters([f"one={folder}"]).values()
        seconds = time.perf_counter() - began
        taken, most = memory.end()
        sizes = (max(file.stat().st_size for file in folder.iterdir()), taken, into[name].nbytes, most)
        file, taken_mb, own, peak = (f"{size / 1e6:.1f}" for size in sizes)
        yield f"| {name} | {file} | {seconds:.2f} | {taken_mb} | {own} | {peak} |"


class Answers:
    """Prompts read by an engine of their own, one for each of ``adapters`` (None: the base), and answered together."""

    def __init__(self, bench: Bench, adapters: Sequence[Adapter | None], prompt_tokens: int, new_tokens: int) -> None:
        self._engine = Engine(bench.model, CountedPrompts(bench.model.config), OPTIONS)
        names = [f"{number}" if adapter else "" for number, adapter in enumerate(adapters)]
        self._engine.adapters = {name: one for name, one in zip(names, adapters, strict=True) if one}
        params = GenerationParams(max_new_tokens=new_tokens)
        prompts = [f"{prompt_tokens}/{number}" for number in range(len(names))]
        asked = [
            GenerationRequest(prompt, prompt=prompt, prompt_format="raw", params=params, adapter=name)
            for prompt, name in zip(prompts, names, strict=True)
        ]
        self._sequences = [self._engine.start(replace(one, ignore_stop_ids=True), CancelToken(), 0.0) for one in asked]

    @property
    def reading(self) -> bool:
        """Whether someone has no first token yet."""
        return any(sequence.reading for sequence in self._sequences)

    def step(self) -> float:
        """Seconds of one more token for everyone, or, while a prompt is read, of a layer of it."""
        began = time.perf_counter()
        self._engine.step()
        return time.perf_counter() - began


def compared(name: str, pairs: Sequence[tuple[float, float]], target: float, *, slower: bool = False) -> str:
    """A line of medians, the median of the ratios and their middle half; ``slower`` turns the ratio round."""
    ratios = sorted(tuned / base if slower else base / tuned for base, tuned in pairs)
    low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
    base, tuned = (1e3 * statistics.median(column) for column in zip(*pairs, strict=True))
    ratio, sign = statistics.median(ratios), "≤" if slower else "≥"
    met = "" if (ratio <= target if slower else ratio >= target) else " **missed**"
    return f"| {name} | {base:.1f} | {tuned:.1f} | {ratio:.3f} | {low:.3f} to {high:.3f} | {sign} {target}{met} |"


def in_turn(bench: Bench, adapters: Sequence[Adapter], rounds: int, prompt_tokens: int) -> list[tuple[float, float]]:
    """Seconds of a token of the base's answers and of the adapters', as many of them as adapters."""
    tokens = rounds + 5
    base, tuned = (Answers(bench, some, prompt_tokens, tokens) for some in ([None] * len(adapters), adapters))
    for answers in (base, tuned):
        while answers.reading:
            answers.step()
    found = [_pair(number, base.step, tuned.step) for number in range(rounds + 2)]
    return found[2:]


def prompts_in_turn(bench: Bench, adapter: Adapter | None, prompts: int, tokens: int) -> list[tuple[float, float]]:
    """Seconds until the first token of the base and of the adapter, whose prompts are read together."""
    found = []
    for _ in range(prompts):
        base, tuned = (Answers(bench, [one], tokens, 2) for one in (None, adapter))
        layers: list[tuple[float, float]] = []
        while base.reading and tuned.reading:
            layers.append(_pair(len(layers), base.step, tuned.step))
        found.append((sum(one for one, _ in layers), sum(other for _, other in layers)))
    return found


def _pair(number: int, base: Callable[[], float], tuned: Callable[[], float]) -> tuple[float, float]:
    order = (base, tuned) if number % 2 else (tuned, base)
    times = [work() for work in order]
    return (times[0], times[1]) if number % 2 else (times[1], times[0])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=sorted(MODELS), default="chatglm3-6b")
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=48, help="tokens; a prompt is read in every sixth of them")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--only", default="add,decode,ttft,visitors", help="which parts, with commas")
    options = parser.parse_args()
    parts = options.only.split(",")
    threads = options.threads or plan_threads(read_machine()).threads
    bench = open_synthetic(options.model, threads=threads, cache=kernel_cache(Settings()))
    config = bench.model.config
    adapters: dict[str, Adapter] = {}
    with tempfile.TemporaryDirectory() as place:
        here = Path(place)
        folders = {
            QKV: write_lora(here / "qkv", config, 8, "query_key_value"),
            ALL: write_lora(here / "all", config, 16),
            PREFIX: write_prefix(here / "prefix", config),
        }
        if "add" in parts:
            folders[PROJECTED] = write_prefix(here / "projected", config, projected=True)
        print(f"{options.model}, {threads} threads, prompts of {options.prompt_tokens} tokens\n")
        for line in added(bench, folders, adapters):
            print(line, flush=True)
        names = (QKV, ALL, PREFIX) if "visitors" in parts else ()
        sources = {name: [f"{number}={folders[name]}" for number in range(VISITORS)] for name in names}
        four = {name: list(bench.adapters(some).values()) for name, some in sources.items()}
    print("\n| what | base, ms | with it, ms | ratio | middle half | target |")
    print("|---|---|---|---|---|---|")
    if "decode" in parts:
        for name, target in ((QKV, 0.98), (ALL, 0.95), (PREFIX, 0.97)):
            pairs = in_turn(bench, [adapters[name]], options.rounds, options.prompt_tokens)
            print(compared(f"decode, {name}", pairs, target), flush=True)
    for name in (QKV, ALL, PREFIX) if "ttft" in parts else ():
        pairs = prompts_in_turn(bench, adapters[name], options.rounds // 6, options.prompt_tokens)
        print(compared(f"TTFT, {name}", pairs, 1.03, slower=True), flush=True)
    for name, some in four.items():
        pairs = in_turn(bench, some, options.rounds // 2, options.prompt_tokens)
        print(compared(f"four visitors, four of {name}", pairs, 0.85), flush=True)


if __name__ == "__main__":
    main()
