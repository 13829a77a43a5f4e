"""INT4 products per matrix: our compiled variants against bigdl's library, interleaved, medians.

Run: python -m benchmarks.kernels [--threads 2] [--rows 1,2,4,8,12,128,512] [--rounds 15]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from chatglm_backend.benchmark.bandwidth import read_bandwidth_gb_s
from chatglm_backend.int4.bigdl import BigdlKernel, default_library
from chatglm_backend.int4.kernels.choose import build_kernel
from chatglm_backend.int4.kernels.variants import host_cpu, usable_variants

SHAPES = ((16384, 4096), (4096, 16384))
COPIES = 6
"""Different matrices taken in turn, so that none is still in a cache."""


def random_packed(out: int, in_: int) -> Tensor:
    """Valid portable bytes with scales of both signs."""
    blocks = torch.randint(0, 256, (out, in_ // 64, 34), dtype=torch.uint8)
    blocks[..., :2] = (torch.randn(out, in_ // 64, 1) * 0.004).half().view(torch.uint8)
    return blocks.view(out, -1)


def time_products(
    systems: dict[str, list[Callable[[Tensor], Tensor]]], x: Tensor, rounds: int
) -> dict[str, list[float]]:
    """Seconds of every call; each round calls every system once, on the next matrix."""
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    for index in range(rounds + 1):
        for name, products in systems.items():
            start = time.perf_counter()
            products[index % COPIES](x)
            seconds[name].append(time.perf_counter() - start)
    return {name: values[1:] for name, values in seconds.items()}


def main() -> None:
    """Print one table per shape."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rows", default="1,2,4,8,12,128,512")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    kernels = {v.name: build_kernel(options.threads, only=v.name) for v in usable_variants(host_cpu())}
    library = default_library()
    print(f"CPU {host_cpu().name}, {options.threads} threads, bigdl: {library.reason}")
    for out, in_ in SHAPES:
        packed = [random_packed(out, in_) for _ in range(COPIES)]
        systems = {
            name: [kernel.prepare(p, out, in_) for p in packed]
            for name, kernel in kernels.items()
            if kernel is not None
        }
        bigdl = BigdlKernel(library)
        systems["bigdl"] = [bigdl.prepare(p, out, in_) for p in packed]
        print(f"\n{out}x{in_}, read bandwidth {read_bandwidth_gb_s(threads=options.threads, rounds=3):.1f} GB/s")
        for rows in map(int, options.rows.split(",")):
            found = time_products(systems, torch.randn(rows, in_), options.rounds)
            reference = found["bigdl"]
            for name, seconds in found.items():
                median = statistics.median(seconds)
                ratio = statistics.median(b / a for a, b in zip(seconds, reference, strict=True))
                print(
                    f"rows {rows:4d}  {name:11s} {median * 1e3:8.2f} ms  min {min(seconds) * 1e3:8.2f} ms  "
                    f"{packed[0].numel() / median / 1e9:6.1f} GB/s  {2e-9 * rows * out * in_ / median:7.0f} GFLOP/s  "
                    f"x{ratio:.2f} of bigdl",
                    flush=True,
                )


if __name__ == "__main__":
    main()
