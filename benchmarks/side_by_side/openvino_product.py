"""Times OpenVINO's compressed INT4 product for one matrix; prints one JSON document.

Run with the interpreter of the OpenVINO environment:
``python openvino_product.py THREADS OUT IN ROWS [ROWS …]``. Weights are u4 in groups of 64 with fp16 scales
and zero points, the form its own compression tool writes.
"""

from __future__ import annotations

import json
import statistics
import sys
import time

import numpy as np
import openvino as ov
from openvino import opset13 as op

GROUP = 64


def build(out: int, width: int) -> ov.Model:
    """A graph with one product: x [rows, in] fp32 times the expanded u4 matrix."""
    rng = np.random.default_rng(0)
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


def main(threads: int, out: int, width: int, rows: list[int]) -> None:
    """Compile once, then take the median of several runs per row count."""
    core = ov.Core()
    options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    request = core.compile_model(build(out, width), "CPU", options).create_infer_request()
    found = {}
    for count in rows:
        x = np.random.default_rng(1).standard_normal((count, width)).astype(np.float32)
        times = []
        for _ in range(12):
            start = time.perf_counter()
            request.infer({"x": x}, share_inputs=True)
            times.append(time.perf_counter() - start)
        found[count] = statistics.median(times[2:])
    print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), [int(n) for n in sys.argv[4:]])
