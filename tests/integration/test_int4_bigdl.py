"""The real native libraries of bigdl-llm."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from chatglm_backend.checkpoint.mapping import HeldTensors
from chatglm_backend.errors import WrongShape
from chatglm_backend.hardware import read_machine
from chatglm_backend.int4.bigdl import OVERRIDE, BigdlKernel, choose_library, default_library, dequantize, quantize
from chatglm_backend.int4.libraries import missing_features, shipped_variants
from chatglm_backend.int4.select import select_kernel
from chatglm_backend.int4.weights import Int4Weights
from tests.bigdl_python import run_bigdl
from tests.unit.checkpoint_helpers import quantize as slow_quantize

pytestmark = pytest.mark.model

RUNNABLE = [
    variant.name
    for variant in shipped_variants(sys.platform)
    if not missing_features(variant, read_machine().flags) and variant.name != "amx"
]


def random_weight(out: int, in_: int) -> Tensor:
    """Return reproducible weights with a zero row and a tiny one."""
    weight = torch.randn(out, in_, generator=torch.Generator().manual_seed(1))
    weight[0] = 0
    weight[1] *= 1e-6
    return weight


@pytest.mark.parametrize("variant", RUNNABLE)
def test_every_library_quantises_to_the_same_bytes(variant: str) -> None:
    """The low-bit checkpoint does not depend on the CPU that wrote it; the tests' own quantiser gives it too."""
    weight = random_weight(48, 256)
    library = choose_library(read_machine().flags, {OVERRIDE: variant})
    assert torch.equal(library.quantize(weight), slow_quantize(weight))


@pytest.mark.parametrize("variant", RUNNABLE)
@pytest.mark.parametrize("rows", [1, 5, 130])
def test_every_library_multiplies(variant: str, rows: int) -> None:
    """Rounding the activations to int8 costs less than a hundredth."""
    library = choose_library(read_machine().flags, {OVERRIDE: variant})
    packed = library.quantize(random_weight(96, 256))
    x = torch.randn(rows, 256)
    expected = x @ dequantize(packed, 96, 256).T
    found = BigdlKernel(library).prepare(packed, 96, 256)(x)
    assert float((found - expected).norm() / expected.norm()) < 0.01


def test_the_bytes_are_those_of_bigdls_own_python(tmp_path: Path) -> None:
    """Our call of the native function and ``ggml_convert_qtype`` give the same bytes."""
    weight = random_weight(32, 128)
    torch.save(weight, tmp_path / "weight")
    script = "torch.save(ggml_convert_qtype(torch.load(sys.argv[1], weights_only=True), 2), sys.argv[2])"
    run_bigdl(script, tmp_path / "weight", tmp_path / "packed")
    assert torch.equal(torch.load(tmp_path / "packed", weights_only=True).view(32, -1), quantize(weight))


def test_several_threads_quantise_at_once() -> None:
    """Conversion may use threads: each gets the bytes it would get alone."""
    weights = [torch.randn(64, 512, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    expected = [quantize(weight) for weight in weights]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda weight: [quantize(weight) for _ in range(20)][-1], weights))
    assert all(map(torch.equal, found, expected))


def test_unusual_widths_are_refused() -> None:
    """A width that is not whole blocks never reaches native code."""
    with pytest.raises(WrongShape):
        quantize(torch.zeros(4, 100))
    with pytest.raises(WrongShape):
        BigdlKernel(default_library()).prepare(torch.zeros(10, dtype=torch.uint8), 4, 64)


def test_loading_says_nothing_and_imports_little() -> None:
    """No log lines on the terminal, and neither transformers nor bigdl's Python side is imported."""
    script = (
        "import sys\n"
        "from chatglm_backend.int4.bigdl import default_library\n"
        "default_library()\n"
        "loaded = [name for name in ('transformers', 'bigdl', 'bigdl.llm') if name in sys.modules]\n"
        "sys.exit(str(loaded) if loaded else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("kernel", ["auto", "bigdl", "exact"])
def test_packed_weights_as_models_ask_for_them(kernel: str) -> None:
    """Linears add their bias, embeddings read rows, vectors become fp32."""
    weight, bias, table = random_weight(64, 128), torch.randn(64).half(), torch.randn(10, 64).half()
    tensors = {"a.weight": quantize(weight), "a.bias": bias, "e.weight": table}
    weights = Int4Weights(HeldTensors(tensors), select_kernel(kernel).kernel)  # type: ignore[arg-type]
    x = torch.randn(3, 128)
    expected = x @ dequantize(tensors["a.weight"], 64, 128).T + bias.float()
    found = weights.linear("a")(x)
    assert float((found - expected).norm() / expected.norm()) < 0.01
    assert torch.equal(weights.embedding("e")(torch.tensor([7, 2])), table[[7, 2]].float())
    assert torch.equal(weights.vector("a.bias"), bias.float())


def test_the_dense_form_is_not_taken_for_packed() -> None:
    """Handing fp16 weights to the INT4 side is a named error."""
    with pytest.raises(WrongShape, match=r"a\.weight"):
        Int4Weights(HeldTensors({"a.weight": torch.zeros(4, 68).half()}), "exact").linear("a")
