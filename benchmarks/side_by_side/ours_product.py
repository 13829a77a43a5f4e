"""Times our INT4 product for one matrix shape, on orders as :mod:`.openvino_product` takes them.

Run with the project's interpreter: ``python -m benchmarks.side_by_side.ours_product THREADS OUT IN KERNEL``.
"""

from __future__ import annotations

import json
import sys
import time
from functools import partial
from typing import cast

import torch

from benchmarks.kernels import COPIES, random_packed
from chatglm_backend.int4.kernel import KernelName, Product
from chatglm_backend.int4.kernels.product import Product as CompiledProduct
from chatglm_backend.int4.select import select_kernel
from chatglm_backend.service.kernels import kernel_cache
from chatglm_backend.settings import Settings


def in_place(product: Product, x: torch.Tensor) -> Product:
    """``product`` into memory that was used before, as OpenVINO's requests keep theirs."""
    result = product(x)
    return partial(product, into=result) if isinstance(product, CompiledProduct) else product


def main(threads: int, out: int, in_: int, kernel: str) -> None:
    """Lay several matrices out, say so, and serve orders until standard input ends."""
    torch.set_num_threads(threads)
    chosen = select_kernel(cast("KernelName", kernel), threads=threads, cache=kernel_cache(Settings())).kernel
    products = [chosen.prepare(random_packed(out, in_), out, in_) for _ in range(COPIES)]
    print(json.dumps({"ready": True, "kernel": chosen.name}), flush=True)
    for line in sys.stdin:
        x = torch.randn(json.loads(line)["rows"], in_)
        calls = [in_place(product, x) for product in products]
        seconds = []
        for call in calls:
            start = time.perf_counter()
            call(x)
            seconds.append(time.perf_counter() - start)
        print(json.dumps({"seconds": seconds}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
