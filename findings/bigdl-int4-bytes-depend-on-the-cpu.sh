#!/bin/sh
# bigdl-llm 2.4.0, seen 2026-11-28 on an x86-64 CPU with AVX2.
# What one would expect: sym_int4 is a format, so the same weights become the same bytes on every machine.
# What happens: bigdl-llm loads the build of its library that fits the CPU, and the builds for AVX2 and later multiply and
# add in one rounding (FMA) where the one for AVX rounds twice: a few weights of some million that lie between two of
# the 16 levels go to the other one. A saved low-bit model, and any checksum of it, depends on who quantised it. (The
# Windows builds, run through Wine, round twice like the one for AVX.)
# Below: 40 million normal numbers, packed by the builds for AVX and for AVX2 of the Linux wheel.
# Seen: bytes that differ: 4 of 21420000, steps of the two weights: [(0, 1), (1, 0)]
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check "numpy>=1.26,<3"
"$folder/venv/bin/pip" install -q --disable-pip-version-check --no-deps bigdl-llm==2.4.0
cat > "$folder/try.py" <<'PY'
import ctypes
import sys
from pathlib import Path

import numpy as np

ROWS, COLUMNS, SYM_INT4 = 10_000, 4032, 2
libs = next(Path(sys.prefix).glob("lib/python*/site-packages/bigdl/llm/libs"))
weight = np.random.Generator(np.random.PCG64(4608)).standard_normal((ROWS, COLUMNS), dtype=np.float32)


def packed(build):
    library = ctypes.CDLL(str(libs / f"libllama_{build}.so"))
    library.llama_init_backend()
    out = np.zeros(weight.size // 64 * 34, np.uint8)
    histogram = (ctypes.c_int64 * 16)()
    quantize = library.ggml_quantize_tensor
    quantize.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
    quantize(weight.ctypes.data, out.ctypes.data, SYM_INT4, weight.size, weight.shape[1], ctypes.addressof(histogram))
    return out


first, second = packed("avx"), packed("avx2")
where = np.flatnonzero(first != second)
one, other = first[where].astype(int), second[where].astype(int)
pairs = zip(one.tolist(), other.tolist())
steps = sorted({(abs((a & 15) - (b & 15)), abs((a >> 4) - (b >> 4))) for a, b in pairs})
print(f"bytes that differ: {len(where)} of {len(first)}, steps of the two weights: {steps}")
PY
seen=$("$folder/venv/bin/python" "$folder/try.py" | grep differ)
echo "$seen"
[ "$seen" = "bytes that differ: 4 of 21420000, steps of the two weights: [(0, 1), (1, 0)]" ]
