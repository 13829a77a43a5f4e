"""Times OpenVINO's compressed INT4 product for one matrix shape: ``{"rows": 128}`` -> ``{"seconds": […]}``.

One number for each of several matrices taken in turn.
Run with the interpreter of the OpenVINO environment: ``python openvino_product.py THREADS OUT IN``. Weights
are u4 in groups of 64 with fp16 scales and zero points, the form its own compression tool writes.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import openvino as ov
from openvino import opset13 as op
from orders import serve

GROUP = 64
COPIES = 6
"""Different matrices taken in turn, so that none is still in a cache."""


def build(out: int, width: int, seed: int) -> ov.Model:
    """A graph with one product: x [rows, in] fp32 times the expanded u4 matrix."""
    rng = np.random.default_rng(seed)
    groups = width // GROUP
    packed = ov.Tensor(rng.integers(0, 256, (out * width // 2,), dtype=np.uint8), [out, groups, GROUP], ov.Type.u4)
    zero = ov.Tensor(np.full(out * groups // 2, 0x88, np.uint8), [out, groups, 1], ov.Type.u4)
    scale = op.constant((rng.standard_normal((out, groups, 1)) * 0.002).astype(np.float16))
    weight = op.convert(op.constant(packed, shared_memory=False), "f16")
    shifted = op.subtract(weight, op.convert(op.constant(zero, shared_memory=False), "f16"))
    scaled = op.reshape(op.multiply(shifted, scale), np.array([out, width], np.int64), special_zero=False)
    x = op.parameter([-1, width], np.float32, name="x")
    product = op.matmul(x, op.convert(scaled, "f32"), transpose_a=False, transpose_b=True)
    return ov.Model([op.result(product)], [x], "product")


def main(threads: int, out: int, width: int) -> None:
    """Compile several matrices, say so, and serve orders until standard input ends."""
    core = ov.Core()
    options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    requests = [
        core.compile_model(build(out, width, seed), "CPU", options).create_infer_request() for seed in range(COPIES)
    ]

    def measure(rows: int) -> dict[str, object]:
        x = np.random.default_rng(1).standard_normal((rows, width)).astype(np.float32)
        for request in requests:  # a new shape is prepared for at its first run
            request.infer({"x": x}, share_inputs=True, share_outputs=True)
        seconds = []
        for request in requests:
            start = time.perf_counter()
            request.infer({"x": x}, share_inputs=True, share_outputs=True)
            seconds.append(time.perf_counter() - start)
        return {"seconds": seconds}

    serve(measure)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
