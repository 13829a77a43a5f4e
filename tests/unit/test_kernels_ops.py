"""The compiled operations between products, against eager torch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from chatglm_backend.int4.kernels.ops import CompiledOps
from chatglm_backend.int4.kernels.team import Team
from chatglm_backend.int4.kernels.variants import VARIANTS, host_cpu, usable_variants
from chatglm_backend.models.int8_rows import row_width, to_rows
from chatglm_backend.models.ops import Ops, rotary_table

FORMATS = (torch.float16, torch.int8)


@pytest.fixture(scope="module")
def team() -> Team:
    """Two threads."""
    return Team(2)


@pytest.fixture(scope="module", params=[v.name for v in VARIANTS])
def ops(request: pytest.FixtureRequest, team: Team, compiled: Path) -> CompiledOps:
    """The operations compiled for each instruction set that this CPU has."""
    variant = next(v for v in VARIANTS if v.name == request.param)
    if variant not in usable_variants(host_cpu()):
        pytest.skip(f"this CPU has no {', '.join(sorted(variant.needs - host_cpu().features))}")
    return CompiledOps(team, variant, compiled)


@pytest.mark.parametrize(
    ("kind", "heads", "kv_heads", "dim"),
    [(torch.float16, 4, 4, 128), (torch.float16, 8, 2, 16), (torch.float16, 3, 1, 16), (torch.int8, 4, 4, 128),
     (torch.int8, 8, 2, 128)],
)  # fmt: skip
@pytest.mark.parametrize("rows", [1, 3, 4, 21])
def test_attention_equals_torch(
    ops: CompiledOps, kind: torch.dtype, heads: int, kv_heads: int, dim: int, rows: int
) -> None:
    """Rows that see different numbers of tokens, strided queries, part of a larger cache; each as if it were alone.

    Bytes are multiplied with queries and weights of 16 bits.
    """
    torch.manual_seed(0)
    q = torch.randn(rows, heads, 3 * dim)[..., dim : 2 * dim]
    cache = to_rows(torch.randn(2, kv_heads, 150, dim), kind)
    keys, values = cache[0][:, :140], cache[1][:, :140]
    visible = [140 - rows + 1 + row for row in range(rows)]
    expected = Ops().attention(q, keys, values, visible)
    found = ops.attention(q, keys, values, visible)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-6 if kind is torch.float16 else 2e-4)
    for row in range(rows):
        assert torch.equal(found[row : row + 1], ops.attention(q[row : row + 1], keys, values, visible[row : row + 1]))


@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim"), [(8, 2, 32), (32, 2, 128), (12, 2, 64), (16, 4, 128), (4, 4, 32)]
)
@pytest.mark.parametrize("tokens", [1, 6, 64, 83, 900])
@pytest.mark.parametrize("kind", FORMATS)
def test_a_rows_attention_does_not_depend_on_what_is_computed_beside_it(
    ops: CompiledOps, heads: int, kv_heads: int, dim: int, tokens: int, kind: torch.dtype
) -> None:
    """Bit for bit: heads of a group together, one by one, or with other rows, behind few tokens and behind many."""
    torch.manual_seed(tokens)
    q, cache = torch.randn(5, heads, dim), to_rows(torch.randn(2, kv_heads, tokens + 3, dim), kind)
    keys, values = cache[0], cache[1]
    together = ops.attention(q, keys, values, [tokens] * 5)
    alone = torch.cat([ops.attention(q[row : row + 1], keys, values, [tokens]) for row in range(5)])
    assert torch.equal(together, alone)


def test_unseen_tokens_have_no_influence(ops: CompiledOps) -> None:
    """What lies behind the visible tokens, even large numbers, changes nothing."""
    q, keys, values = torch.randn(5, 2, 16), torch.randn(2, 20, 16).half(), torch.randn(2, 20, 16).half()
    visible = [1, 2, 7, 3, 16]
    before = ops.attention(q, keys, values, visible)
    keys[:, 16:], values[:, 16:] = 1000.0, 1000.0
    assert torch.equal(before, ops.attention(q, keys, values, visible))


def test_very_different_scores_stay_finite(ops: CompiledOps) -> None:
    """One token that outweighs all others gives its own value."""
    q = torch.full((1, 1, 16), 30.0)
    keys, values = -torch.ones(1, 40, 16).half(), torch.randn(1, 40, 16).half()
    keys[:, 11] = 1.0
    expected = values[0, 11].float().unsqueeze(0)
    torch.testing.assert_close(ops.attention(q, keys, values, [40]), expected)


@pytest.mark.parametrize("rows", [1, 4])
def test_tokens_far_below_the_best_weigh_nothing(ops: CompiledOps, rows: int) -> None:
    """Not even 1e-38 of a large value: sums of such numbers are denormal, and take a hundred times as long."""
    q, keys, values = torch.ones(rows, 2, 32), torch.full((2, 20, 32), -20.0), torch.full((2, 20, 32), 6e4)
    keys[:, 13], values[:, 13] = 20.0, 0.0
    assert torch.equal(ops.attention(q, keys.half(), values.half(), [20] * rows), torch.zeros(rows, 64))


def test_other_caches_are_left_to_torch(ops: CompiledOps) -> None:
    """fp32 keys and values, as in exact checks, give torch's own result."""
    q, keys, values = torch.randn(2, 2, 32), torch.randn(2, 20, 32), torch.randn(2, 20, 32)
    assert torch.equal(Ops().attention(q, keys, values, [19, 20]), ops.attention(q, keys, values, [19, 20]))


@pytest.mark.parametrize("width", [64, 30])
@pytest.mark.parametrize("rows", [1, 5])
def test_gelu_and_swiglu_equal_torch(ops: CompiledOps, width: int, rows: int) -> None:
    """Also for widths that the compiled code does not take, and for very large and small inputs."""
    x = torch.randn(rows, 2 * width) * 4
    x[0, :4] = torch.tensor([0.0, -200.0, 200.0, 1e-20])
    torch.testing.assert_close(ops.gelu(x.clone()), Ops().gelu(x.clone()), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ops.swiglu(x.clone()), Ops().swiglu(x.clone()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(5, 3, 64), (1, 2, 32), (5, 2, 2, 64), (200, 32, 2, 64), (3, 2, 24)])
@pytest.mark.parametrize("name", ["rotate_halves", "rotate_pairs"])
def test_rotary_equals_torch_bit_for_bit(ops: CompiledOps, name: str, shape: tuple[int, ...]) -> None:
    """Strided views of a wider tensor turn as in torch; what lies beside them stays."""
    torch.manual_seed(0)
    table = rotary_table(dim=shape[-1], positions=50, fp16_frequencies=True)
    positions = torch.randint(0, 50, (shape[0],))
    whole = torch.randn(*shape[:-1], 3 * shape[-1])
    expected = whole.clone()
    for owner, x in ((ops, whole), (Ops(), expected)):
        getattr(owner, name)(x[..., shape[-1] : 2 * shape[-1]], table, positions)
    assert torch.equal(expected, whole)


@pytest.mark.parametrize("position", [-51, 50])
def test_positions_outside_the_table_are_refused(ops: CompiledOps, position: int) -> None:
    """Nothing is read behind the table's end: torch refuses the index."""
    table = rotary_table(dim=32, positions=50, fp16_frequencies=False)
    with pytest.raises(IndexError):
        ops.rotate_halves(torch.ones(1, 2, 32), table, torch.tensor([position]))


@pytest.mark.parametrize(("rows", "width"), [(1, 64), (5, 30), (7, 128), (130, 4096)])
def test_norms_equal_torch(ops: CompiledOps, rows: int, width: int) -> None:
    """Of rows in a wider tensor, far from zero; also for widths that the compiled code does not take."""
    torch.manual_seed(0)
    x = (torch.randn(rows, width + 16) * 3 + 5)[:, :width]
    weight, bias = torch.randn(width), torch.randn(width)
    expected = Ops().layer_norm(x, weight, bias, 1e-5)
    torch.testing.assert_close(ops.layer_norm(x, weight, bias, 1e-5), expected, rtol=1e-5, atol=1e-5)
    expected = Ops().rms_norm(x, weight, 1e-5)
    torch.testing.assert_close(ops.rms_norm(x, weight, 1e-5), expected, rtol=1e-5, atol=1e-6)


def test_a_rows_norm_does_not_depend_on_the_others(ops: CompiledOps) -> None:
    """Alone or among others, a row gives the same bits."""
    x, weight, bias = torch.randn(9, 64), torch.randn(64), torch.randn(64)
    alone = torch.cat([ops.layer_norm(row.unsqueeze(0), weight, bias, 1e-5) for row in x])
    assert torch.equal(alone, ops.layer_norm(x, weight, bias, 1e-5))


@pytest.mark.parametrize(("rows", "width"), [(1, 64), (5, 30), (130, 128)])
def test_residuals_equal_torch(ops: CompiledOps, rows: int, width: int) -> None:
    """Of rows in wider tensors; also for widths that the compiled code does not take. The update stays."""
    base, update = torch.randn(rows, width + 16)[:, :width], torch.randn(rows, width)
    before = update.clone()
    expected = Ops().add_scaled(base, 7.48, update)
    torch.testing.assert_close(ops.add_scaled(base.clone(), 7.48, update), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(before, update)


@pytest.mark.parametrize("dtype", [*FORMATS, torch.float32])
@pytest.mark.parametrize(("rows", "heads", "dim"), [(1, 4, 64), (5, 2, 16), (3, 2, 24)])
def test_a_cache_is_written_as_by_torch(ops: CompiledOps, rows: int, heads: int, dim: int, dtype: torch.dtype) -> None:
    """Bit for bit, from strided keys and values into the middle of a cache; what lies around them stays."""
    whole = torch.randn(rows, heads, 3 * dim) * 100
    whole[0, 0], whole[0, 1, 5] = 0.0, torch.inf
    k, v = whole[..., dim : 2 * dim], whole[..., 2 * dim :]
    memories = [torch.full((2, heads, 20, row_width(dim, dtype)), 3, dtype=dtype) for _ in range(2)]
    for owner, memory in zip((ops, Ops()), memories, strict=True):
        owner.store(k, v, memory[0][:, 7 : 7 + rows], memory[1][:, 7 : 7 + rows])
    assert torch.equal(*memories)
