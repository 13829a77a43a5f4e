"""Our engine, or our INT4 product for one matrix shape, on the orders of a comparison.

Run with the project's interpreter: ``python -m benchmarks.side_by_side.ours THREADS KERNEL MODEL LAYERS`` (0: all of
them), or with ``OUT IN`` instead of the model and its layers. Orders are those of :mod:`.llama_cpp_worker` and
:mod:`.openvino_product`.
"""

from __future__ import annotations

import itertools
import sys
from functools import partial
from typing import cast

import torch

from benchmarks.kernels import COPIES, Matrices, random_packed
from benchmarks.side_by_side.orders import serve
from chatglm_backend.benchmark.runner import run_prompts
from chatglm_backend.benchmark.setup import open_synthetic
from chatglm_backend.int4.kernel import KernelName, Product
from chatglm_backend.int4.kernels.product import Product as CompiledProduct
from chatglm_backend.int4.select import select_kernel
from chatglm_backend.service.kernels import kernel_cache
from chatglm_backend.settings import Settings


def answers(threads: int, kernel: str, model: str, layers: int) -> None:
    """Build the model in memory with so many of its layers (0: all), and time a fresh prompt for each order."""
    cache = kernel_cache(Settings())
    bench = open_synthetic(model, threads=threads, kernel=kernel, cache=cache, layers=layers or None)
    engine, numbers = bench.engine(draft_tokens=0), itertools.count()

    def measure(prompt_tokens: int, new_tokens: int) -> dict[str, object]:
        prompt = f"{prompt_tokens}/{next(numbers)}"
        found = run_prompts(engine, [prompt], new_tokens)
        return {"ttft_s": found.ttft_s, "decode_tok_s": found.decode_tok_s}

    serve(measure, kernel=bench.machine.kernel)


def in_place(product: Product, x: torch.Tensor) -> Product:
    """``product`` into memory that was used before, as OpenVINO's requests keep theirs."""
    result = product(x)
    return partial(product, into=result) if isinstance(product, CompiledProduct) else product


def products(threads: int, kernel: str, out: int, in_: int) -> None:
    """Lay several matrices out, and time a product with each for every order."""
    torch.set_num_threads(threads)
    chosen = select_kernel(cast("KernelName", kernel), threads=threads, cache=kernel_cache(Settings())).kernel
    laid_out = [chosen.prepare(random_packed(out, in_), out, in_) for _ in range(COPIES)]

    def measure(rows: int) -> dict[str, object]:
        x = torch.randn(rows, in_)
        return Matrices("ours", in_, [in_place(product, x) for product in laid_out]).ask(rows=rows)

    serve(measure, kernel=chosen.name)


if __name__ == "__main__":
    threads, kernel, what, number = sys.argv[1:]
    if what.isdigit():
        products(int(threads), kernel, int(what), int(number))
    else:
        answers(int(threads), kernel, what, int(number))
