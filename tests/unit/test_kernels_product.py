"""The compiled INT4 products: every variant against exact and against int8-activation arithmetic."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from refusals import refused

from chatglm_backend.errors import ConfigError, WrongShape
from chatglm_backend.int4.blocks import dequantize
from chatglm_backend.int4.kernels.choose import build_kernel
from chatglm_backend.int4.kernels.layout import layout_nbytes, repack
from chatglm_backend.int4.kernels.native import compile_variant
from chatglm_backend.int4.kernels.product import ROW_CLASSES, CompiledKernel
from chatglm_backend.int4.kernels.team import Team
from chatglm_backend.int4.kernels.variants import (
    AVX512AMX,
    AVX512VNNI,
    AVXVNNI,
    VARIANTS,
    HostCpu,
    host_cpu,
    usable_variants,
)
from chatglm_backend.models.low_rank import low_rank

ROW_COUNTS = [*range(1, 18), 33, 128, 200, 513]
"""For the widest variant of this CPU, and for AMX."""
FEWER_ROW_COUNTS = [1, 2, 3, 4, 5, 17, 33, 200]
"""For the others, which are made by the same code as the widest."""


AVXVNNI_IN_AVX512VL = replace(
    AVXVNNI, name="avxvnni in its AVX512-VL encoding", target=AVX512VNNI.target, features=AVX512VNNI.features,
    needs=AVX512VNNI.needs,
)  # fmt: skip
"""The 256-bit kernels' arithmetic where a CPU has AVX512-VNNI only: the same instructions, encoded differently."""
TESTED = (*VARIANTS, AVXVNNI_IN_AVX512VL)


@pytest.fixture(scope="module")
def kernels(compiled: Path) -> dict[str, CompiledKernel]:
    """Every variant that this CPU can run, with two threads; compiled once."""
    built = {v.name: build_kernel(2, compiled, only=v.name) for v in usable_variants(host_cpu())}
    found = {name: kernel for name, kernel in built.items() if kernel is not None}
    if host_cpu().features >= AVXVNNI_IN_AVX512VL.needs:
        name = AVXVNNI_IN_AVX512VL.name
        native = compile_variant(AVXVNNI_IN_AVX512VL, with_assembly=True)
        found[name] = CompiledKernel(Team(2), {name: native}, lambda _out, _in: dict.fromkeys(ROW_CLASSES, name))
    return found


@pytest.fixture(params=[v.name for v in TESTED])
def kernel(request: pytest.FixtureRequest, kernels: dict[str, CompiledKernel]) -> CompiledKernel:
    """Each variant in turn."""
    variant = next(v for v in TESTED if v.name == request.param)
    if variant.name not in kernels:
        missing = ", ".join(sorted(variant.needs - host_cpu().features))
        pytest.skip(f"this CPU has no {missing}, which the {variant.name} kernel needs")
    return kernels[variant.name]


def make_packed(out: int, in_: int, seed: int = 0) -> np.ndarray:
    """Random portable bytes with scales of both signs."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (out, in_ // 64, 34), dtype=np.uint8)
    scales = (rng.standard_normal((out, in_ // 64, 1)) * 0.01).astype(np.float16)
    blocks[..., :2] = scales.view(np.uint8)
    return blocks.reshape(out, -1)


def exact(packed: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The product in float64 with unrounded activations."""
    return x.astype(np.float64) @ dequantize(torch.from_numpy(packed), len(packed), x.shape[1]).double().numpy().T


def rounded(packed: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The product in float64 with activations rounded to int8 per 64 values, as the kernels do."""
    blocks = x.reshape(len(x), -1, 64)
    x_scales = (np.abs(blocks).max(-1) / np.float32(127)).astype(np.float32)
    inverse = np.divide(np.float32(1), x_scales, out=np.zeros_like(x_scales), where=x_scales > 0)
    quantized = np.rint(blocks * inverse[..., None]).astype(np.float64)
    return exact(packed, (quantized * x_scales[..., None].astype(np.float64)).reshape(len(x), -1))


def multiplied(kernel: CompiledKernel, packed: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The kernel's product of portable bytes and fp32 rows."""
    return kernel.prepare(torch.from_numpy(packed), len(packed), x.shape[1])(torch.from_numpy(x)).numpy()


def normal(rows: int, in_: int, seed: int = 1) -> np.ndarray:
    """Random activations, fp32 [rows, in]."""
    return np.random.default_rng(seed).standard_normal((rows, in_)).astype(np.float32)


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """The norm of the difference over the norm of what was expected."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("in_", [64, 128, 320])
def test_products_equal_integer_arithmetic_on_rounded_activations(
    kernel: CompiledKernel, kernels: dict[str, CompiledKernel], in_: int
) -> None:
    """Every row count gives what integer sums give, with the same bits; it stays close to exact INT4 arithmetic."""
    packed = make_packed(64, in_)
    product = kernel.prepare(torch.from_numpy(packed), 64, in_)
    widest = usable_variants(host_cpu())[0].name
    reference = kernels[widest].prepare(torch.from_numpy(packed), 64, in_)
    for rows in ROW_COUNTS if product.variants[1] in (widest, AVX512AMX.name) else FEWER_ROW_COUNTS:
        x = normal(rows, in_, rows)
        found = product(torch.from_numpy(x)).numpy()
        assert (rows, 64) == found.shape
        assert np.array_equal(found, reference(torch.from_numpy(x)).numpy()), rows
        assert relative(found, rounded(packed, x)) < 1e-5, rows
        assert relative(found, exact(packed, x)) < 1.2e-2, rows


@pytest.mark.parametrize("out", [1, 15, 17, 600])
@pytest.mark.parametrize("rows", [1, 3, 40])
def test_output_rows_need_not_fill_a_group(kernel: CompiledKernel, out: int, rows: int) -> None:
    """Matrices whose rows are no multiple of 16 give exactly their own rows."""
    packed, x = make_packed(out, 128), normal(rows, 128)
    found = multiplied(kernel, packed, x)
    assert (rows, out) == found.shape
    assert relative(found, rounded(packed, x)) < 1e-5


@pytest.mark.parametrize("rows", [1, 4, 5, 200])
def test_a_bias_is_added_once(kernel: CompiledKernel, rows: int) -> None:
    """As if added afterwards, bit for bit; also in long rows and where the last group is not full."""
    out, in_ = 40, 64 * 130
    product = kernel.prepare(torch.from_numpy(make_packed(out, in_)), out, in_)
    x, bias = torch.randn(rows, in_), torch.randn(out)
    assert torch.equal(product.with_bias(bias)(x), product(x) + bias)


@pytest.mark.parametrize("rows", [1, 4, 5, 11, 200])
def test_side_paths_are_added_to_their_rows(kernel: CompiledKernel, rows: int) -> None:
    """Several adapters in one product, and none; the last group is not full; a row's bits depend on no other row."""
    torch.manual_seed(0)
    out, in_ = 40, 128
    factors = [low_rank(torch.randn(rank, in_) * 0.1, torch.randn(out, rank) * 1e-4, 250.0) for rank in (1, 8, 9)]
    product = kernel.prepare(torch.from_numpy(make_packed(out, in_)), out, in_).with_bias(torch.randn(out))
    x, sides = torch.randn(rows, in_), list(zip(_slices(rows), factors, strict=False))
    expected = product(x)
    for some, one in sides:
        one.add_to(expected[some], x[some])
    found = product.with_sides(x, sides)
    torch.testing.assert_close(found, expected)
    for some, one in sides:
        for row in range(*some.indices(rows)):
            assert torch.equal(found[row : row + 1], product.with_sides(x[row : row + 1], [(slice(None), one)]))


def _slices(rows: int) -> list[slice]:
    """Parts of the rows with gaps between them: all of a single one, a block and more of many."""
    return [slice(None)] if rows == 1 else [slice(0, 1), slice(1, rows - 2), slice(rows - 1, rows)]


def test_factors_too_large_for_half_precision_are_divided(kernel: CompiledKernel) -> None:
    """By a power of two, which the scale makes up for."""
    factors = low_rank(torch.full((1, 64), 1e5), torch.full((16, 1), 0.5), 1.0)
    product = kernel.prepare(torch.from_numpy(make_packed(16, 64) * 0), 16, 64)
    found = product.with_sides(torch.ones(2, 64), [(slice(None), factors)])
    torch.testing.assert_close(found, torch.full((2, 16), 32e5), rtol=1e-3, atol=0.0)


def test_long_rows_add_up(kernel: CompiledKernel) -> None:
    """A product of many blocks, not a round number of them."""
    packed, x = make_packed(32, 64 * 130), normal(9, 64 * 130)
    assert relative(multiplied(kernel, packed, x), rounded(packed, x)) < 1e-5


@pytest.mark.parametrize("rows", [2, 20])
def test_extreme_nibbles_and_activations_do_not_overflow(kernel: CompiledKernel, rows: int) -> None:
    """All weights at one end and all activations at their largest stay exact."""
    for nibbles, sign in ((0x00, 1.0), (0xFF, 1.0), (0xFF, -1.0)):
        blocks = np.full((16, 2, 34), nibbles, np.uint8)
        blocks[..., :2] = np.frombuffer(np.float16(1.0).tobytes(), np.uint8)
        packed = blocks.reshape(16, -1)
        x = np.full((rows, 128), sign, np.float32)
        np.testing.assert_allclose(multiplied(kernel, packed, x), exact(packed, x), rtol=1e-6)


@pytest.mark.parametrize("scale", [0.0, 6e-8, -6e-8, 65504.0])
def test_unusual_weight_scales_keep_their_value(kernel: CompiledKernel, scale: float) -> None:
    """Zero, subnormal and the largest fp16 scales are read as what they are."""
    packed = make_packed(16, 64)
    packed.reshape(16, 1, 34)[..., :2] = np.frombuffer(np.float16(scale).tobytes(), np.uint8)
    x = normal(2, 64)
    np.testing.assert_allclose(multiplied(kernel, packed, x), rounded(packed, x), rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("rows", [3, 17])
def test_a_bad_activation_spoils_only_its_own_row(kernel: CompiledKernel, bad: float, rows: int) -> None:
    """Not-a-number and infinity make their row not-a-number; the others stay right."""
    packed, x = make_packed(32, 128), normal(rows, 128)
    clean = rounded(packed, x)
    x[1, 70] = bad
    found = multiplied(kernel, packed, x)
    assert np.isnan(found[1]).all()
    others = [row for row in range(rows) if row != 1]
    assert relative(found[others], clean[others]) < 1e-5


def test_zero_and_tiny_activations_give_zero_or_tiny_results(kernel: CompiledKernel) -> None:
    """A block of zeros does not divide by zero, and magnitudes below fp32's normal range stay finite."""
    packed = make_packed(16, 64)
    x = torch.zeros(2, 64)
    x[1] = 1e-42
    found = kernel.prepare(torch.from_numpy(packed), 16, 64)(x)
    assert torch.equal(torch.zeros(16), found[0])
    assert found[1].abs().max() < 1e-36


def test_laid_out_bytes_are_used_in_place(kernel: CompiledKernel) -> None:
    """Bytes laid out earlier, for example mapped from a file, give the same result without a copy."""
    packed = make_packed(48, 128)
    layout = torch.from_numpy(repack(packed, 48, 128))
    product = kernel.from_layout(layout, 48, 128)
    x = torch.randn(2, 128)
    assert torch.equal(kernel.prepare(torch.from_numpy(packed), 48, 128)(x), product(x))
    assert layout.data_ptr() == product.layout.data_ptr()


def test_wrong_shapes_are_refused(kernel: CompiledKernel) -> None:
    """Bytes or activations of another size raise instead of reading past the end."""
    packed = torch.from_numpy(make_packed(16, 128))
    product = kernel.prepare(packed, 16, 128)
    for call in (
        lambda: kernel.prepare(packed, 17, 128),
        lambda: kernel.prepare(packed, 16, 100),
        lambda: kernel.from_layout(torch.zeros(layout_nbytes(16, 128) - 1, dtype=torch.uint8), 16, 128),
        lambda: product(torch.zeros(1, 64)),
        lambda: product(torch.zeros(1, 128, dtype=torch.float64)),
    ):
        with pytest.raises(WrongShape):
            call()


def test_no_rows_give_no_rows(kernel: CompiledKernel) -> None:
    """An empty batch is allowed."""
    product = kernel.prepare(torch.from_numpy(make_packed(16, 64)), 16, 64)
    assert tuple(product(torch.zeros(0, 64)).shape) == (0, 16)


def test_a_result_may_be_written_into_given_memory(kernel: CompiledKernel) -> None:
    """The same bits, and no other memory."""
    product = kernel.prepare(torch.from_numpy(make_packed(32, 128)), 32, 128)
    x, place = torch.randn(140, 128), torch.full((140, 32), 7.0)
    result = product(x, place)
    assert result.data_ptr() == place.data_ptr()
    assert torch.equal(place, product(x))


def test_memory_that_does_not_fit_is_refused(kernel: CompiledKernel) -> None:
    """Nothing is written beyond its end, and no result is cut out of it."""
    strided, double = torch.zeros(3, 64)[:, ::2], torch.zeros(3, 32).double()
    places = {
        32: (torch.zeros(2, 32), torch.zeros(3, 48), strided, double),
        40: (torch.zeros(3, 40), torch.zeros(3, 48)),
    }
    for out, unfit in places.items():
        product = kernel.prepare(torch.from_numpy(make_packed(out, 128)), out, 128)
        for place in unfit:
            with pytest.raises(WrongShape):
                product(torch.randn(3, 128), place)


def test_several_threads_may_call_at_once(kernels: dict[str, CompiledKernel]) -> None:
    """Products called from worker threads, at the same time, do not disturb each other."""
    if not kernels:
        pytest.skip("this CPU has no AVX2")
    kernel = next(iter(kernels.values()))
    product = kernel.prepare(torch.from_numpy(make_packed(64, 256)), 64, 256)
    inputs = [torch.randn(rows, 256) for rows in (1, 3, 20, 64)]
    expected = [product(x) for x in inputs]

    def right(index: int) -> bool:
        return all(torch.equal(expected[index], product(inputs[index])) for _ in range(20))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(right, range(4)))


def test_the_thread_count_does_not_change_results(kernels: dict[str, CompiledKernel]) -> None:
    """One and two threads give the same bits; more threads than the machine has are cut to what it has."""
    results = []
    if not kernels:
        pytest.skip("this CPU has no AVX2")
    name = next(iter(kernels))
    for threads in (1, 2, 999):
        kernel = build_kernel(threads, only=name)
        assert kernel is not None
        results.append(kernel.prepare(torch.from_numpy(make_packed(64, 256)), 64, 256)(torch.ones(40, 256)))
        assert kernel.team.threads <= threads
    assert all(torch.equal(results[0], result) for result in results[1:])


def test_the_other_encoding_is_of_256_bits() -> None:
    """The stand-in for the 256-bit variant has its dot products in ymm registers, none in zmm registers."""
    code = compile_variant(AVXVNNI_IN_AVX512VL, with_assembly=True).assembly
    products = [line for line in code.splitlines() if "vpdpbusd" in line]
    assert products
    assert all("%ymm" in line and "%zmm" not in line for line in products)


def test_amx_multiplies_in_tiles_and_gives_them_back() -> None:
    """On CPUs without it, it is at least compiled. Tiles that are not released slow down every change of process."""
    code = compile_variant(AVX512AMX, with_assembly=True).assembly
    assert "tdpbssd" in code
    assert "tilerelease" in code


def test_a_cpu_without_avx2_gets_no_compiled_kernel() -> None:
    """The caller then takes bigdl's library."""
    assert build_kernel(1, cpu=HostCpu("old", frozenset({"sse4.2"}))) is None


def test_forcing_a_variant_that_the_cpu_lacks_is_refused() -> None:
    """The error says what there is."""
    cpu = HostCpu("haswell", frozenset({"avx2", "fma", "f16c", "bmi", "bmi2"}))
    with refused(ConfigError, "kernel.offered", variants="avx2"):
        build_kernel(1, cpu=cpu, only="avx512vnni")


def test_a_team_has_at_least_one_thread() -> None:
    """Zero or negative counts become one."""
    assert Team(0).threads == 1
