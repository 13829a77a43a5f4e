"""INT4 products per matrix: our compiled variants and bigdl's library, in turn, medians; ratios are against the first.

python -m benchmarks.kernels [--threads 2] [--rows 1,2,4,8,12,128,512] [--rounds 3]
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.flags import read_flags
from benchmarks.side_by_side.tables import product_table
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


@dataclass(frozen=True, slots=True)
class Matrices:
    """One kernel's products of several matrices with ``width`` columns; measured when asked."""

    name: str
    width: int
    products: Sequence[Callable[[Tensor], object]]

    def ask(self, **order: int) -> dict[str, object]:
        """``seconds`` of each, for so many ``rows``."""
        x, seconds = torch.randn(order["rows"], self.width), []
        for product in self.products:
            start = time.perf_counter()
            product(x)
            seconds.append(time.perf_counter() - start)
        return {"seconds": seconds}


def main() -> None:
    """Print one table per shape."""
    options = read_flags(__doc__, threads=0, rows="1,2,4,8,12,128,512", rounds=3)
    torch.set_num_threads(options.threads)
    built = {v.name: build_kernel(options.threads, only=v.name) for v in usable_variants(host_cpu())}
    library = default_library()
    kernels = {**{name: kernel for name, kernel in built.items() if kernel}, "bigdl": BigdlKernel(library)}
    print(f"CPU {host_cpu().name}, {options.threads} threads, bigdl: {library.reason}")
    for out, in_ in SHAPES:
        packed = [random_packed(out, in_) for _ in range(COPIES)]
        systems = [Matrices(n, in_, [k.prepare(p, out, in_) for p in packed]) for n, k in kernels.items()]
        print(f"\n{out}×{in_}, read bandwidth {read_bandwidth_gb_s(threads=options.threads, rounds=3):.1f} GB/s\n")
        for system in systems:
            system.ask(rows=1)
        rows = [int(part) for part in options.rows.split(",")]
        for line in product_table(systems, rows, 2 * out * in_, options.rounds):
            print(line, flush=True)


if __name__ == "__main__":
    main()
