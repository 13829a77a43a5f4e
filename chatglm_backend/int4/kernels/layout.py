"""The kernels' own order of the portable ``sym_int4`` bytes, and the way there and back.

Portable: per row and per 64 weights, an fp16 scale and 32 bytes; byte j holds weight j (low
nibble) and weight j + 32 (high nibble). Ours: groups of 16 rows; per group and 64-block, 8
chunks of 64 bytes; chunk c holds bytes 4c..4c+3 of each of the 16 rows, so a chunk is one
vector register of 16 rows x 4 weights. All chunks come first, then all scales
([groups, blocks, 16] fp16). Rows that fill up the last group are zeros with scale zero.

Every variant reads this one layout. The bytes are as many as the portable ones, except for the filled-up
rows. Knows numpy only.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from chatglm_backend.errors import WrongShape

BLOCK = 64
"""Weights that share a scale."""
GROUP = 16
"""Output rows that lie together."""
BLOCK_BYTES = 2 + BLOCK // 2
LAYOUT_TAG = "rows16-block64-v1"
"""Changes whenever the bytes of the layout would change."""

_STREAM_BYTES = 4 << 20
"""Bytes that are laid out at a time: source and target then stay in the caches."""

Bytes = NDArray[np.uint8]


def layout_nbytes(out: int, in_: int) -> int:
    """Bytes of the layout of an ``[out, in_]`` matrix; raises :class:`WrongShape` where it cannot be laid out."""
    return _groups(out) * _blocks(in_) * GROUP * BLOCK_BYTES


def repack(packed: Bytes, out: int, in_: int, target: Bytes | None = None, *, threads: int = 1) -> Bytes:
    """Portable bytes ``[out, in_ // 64 * 34]`` -> layout bytes ``[layout_nbytes(out, in_)]``.

    Writes into ``target`` (flat, for example a mapped file) where given. Works through the
    rows in slices, shared between ``threads``, so that little memory beyond source and target is touched.
    """
    groups, blocks = _groups(out), _blocks(in_)
    _check_size("the portable bytes", packed.size, out * blocks * BLOCK_BYTES)
    result = np.empty(layout_nbytes(out, in_), np.uint8) if target is None else target
    _check_size("the layout bytes", result.size, layout_nbytes(out, in_))
    chunks, scales = _views(result, groups, blocks)
    rows = packed.reshape(out, blocks, BLOCK_BYTES)
    step = max(1, _STREAM_BYTES // (blocks * GROUP * BLOCK_BYTES))

    def repack_slice(first: int) -> None:
        last = min(first + step, groups)
        _repack_groups(rows[first * GROUP : last * GROUP], chunks[first:last], scales[first:last])

    slices = range(0, groups, step)
    if threads > 1 and len(slices) > 1:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(repack_slice, slices))
    else:
        for first in slices:
            repack_slice(first)
    return result


def _repack_groups(rows: Bytes, chunks: NDArray[np.uint32], scales: NDArray[np.uint16]) -> None:
    """``rows`` [at most 16 * groups, blocks, 34] into the views of their groups; numpy copies without the GIL."""
    groups, blocks = scales.shape[:2]
    if rows.shape[0] < groups * GROUP:
        filled = np.zeros((groups * GROUP, blocks, BLOCK_BYTES), np.uint8)
        filled[: rows.shape[0]] = rows
        rows = filled
    words = np.ascontiguousarray(rows[..., 2:]).view(np.uint32).reshape(groups, GROUP, blocks, 8)
    chunks[...] = words.transpose(0, 2, 3, 1)
    halves = np.ascontiguousarray(rows[..., :2]).view(np.uint16).reshape(groups, GROUP, blocks)
    scales[...] = halves.transpose(0, 2, 1)


def _views(layout: Bytes, groups: int, blocks: int) -> tuple[NDArray[np.uint32], NDArray[np.uint16]]:
    flat = layout.reshape(-1)
    split = groups * blocks * GROUP * BLOCK // 2
    chunks = flat[:split].view(np.uint32).reshape(groups, blocks, 8, GROUP)
    return chunks, flat[split:].view(np.uint16).reshape(groups, blocks, GROUP)


def _groups(out: int) -> int:
    if out < 1:
        raise WrongShape(tensor="an INT4 matrix", path="memory", found=f"{out} rows", expected="at least one row")
    return -(-out // GROUP)


def _blocks(in_: int) -> int:
    if in_ < BLOCK or in_ % BLOCK:
        raise WrongShape(
            tensor="an INT4 matrix", path="memory", found=f"{in_} columns", expected=f"a multiple of {BLOCK} columns"
        )
    return in_ // BLOCK


def _check_size(what: str, found: int, expected: int) -> None:
    if found != expected:
        raise WrongShape(tensor=what, path="memory", found=f"{found} bytes", expected=f"{expected} bytes")
