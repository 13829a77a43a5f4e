"""The one numba function that spreads a kernel's work over threads.

Compiled once per machine (about a second) and kept on disk; :mod:`.team` loads it.
Kernels come as addresses of ``void (i64, i64, i64, i64)``, see :mod:`.emit`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from llvmlite import ir
from numba import njit, prange, types
from numba.extending import intrinsic

__all__ = ["build_driver"]

Driver = Callable[[int, int, int, int, int, int, int, int, int, int, int], None]


@intrinsic
def _call(typing_context, kernel, args, first, last, scratch):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, ARG001
    """Call the kernel at an address."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:  # noqa: ANN401, ARG001
        word = ir.IntType(64)
        kind = ir.FunctionType(ir.VoidType(), [word] * 4)
        builder.call(builder.inttoptr(values[0], kind.as_pointer()), values[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), emit


@intrinsic
def _next(typing_context, counter):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, ARG001
    """Add one to the int64 at an address, all threads in turn; what it was before."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:  # noqa: ANN401, ARG001
        word = ir.IntType(64)
        place = builder.inttoptr(values[0], word.as_pointer())
        return builder.atomic_rmw("add", place, ir.Constant(word, 1), "monotonic")

    return types.int64(types.int64), emit


def _product(
    quantize: int,
    kernel: int,
    args: int,
    blocks: int,
    quantize_parts: int,
    groups: int,
    parts: int,
    scratch: int,
    scratch_stride: int,
    pieces: int,
    counter: int,
) -> None:
    """Quantise ``blocks`` blocks of activations (unless ``quantize`` is 0), then do ``groups`` groups of rows.

    ``parts`` threads take turns at ``pieces`` equal pieces, so that a thread that has to wait for a core holds up
    one piece only; thread i may use the scratch at ``scratch + i * scratch_stride``. ``counter`` is the address
    of an int64 that is 0.
    """
    if quantize != 0:
        if quantize_parts == 1:
            _call(quantize, args, 0, blocks, scratch)
        else:
            for i in prange(quantize_parts):
                _call(quantize, args, blocks * i // quantize_parts, blocks * (i + 1) // quantize_parts, scratch)
    if parts == 1:
        _call(kernel, args, 0, groups, scratch)
    else:
        for j in prange(parts):
            piece = _next(counter)
            while piece < pieces:
                first, last = groups * piece // pieces, groups * (piece + 1) // pieces
                _call(kernel, args, first, last, scratch + j * scratch_stride)
                piece = _next(counter)


def build_driver(*, cached: bool) -> Driver:
    """Compile :func:`_product`; ``cached``: load it from, or keep it in, numba's cache folder as set by the caller."""
    return _compile(cached=True) if cached else _in_memory()


@lru_cache(maxsize=1)
def _in_memory() -> Driver:
    return _compile(cached=False)


def _compile(*, cached: bool) -> Driver:
    signature = types.void(*[types.int64] * 11)
    compiled: Driver = njit([signature], parallel=True, nogil=True, cache=cached)(_product)
    return compiled
