"""The one numba function that spreads kernels' work over threads: it runs a program, step by step.

Compiled once per machine (about a second) and kept on disk; :mod:`.team` loads it.
Kernels come as addresses of ``void (i64, i64, i64, i64)``, see :mod:`.emit`.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from functools import lru_cache
from typing import Any

from llvmlite import ir
from numba import njit, prange, types
from numba.extending import intrinsic

Driver = Callable[[int, int, int], None]


class Word(IntEnum):
    """The int64 words of a step: quantise ``BLOCKS`` blocks, then run ``KERNEL`` on ``ITEMS`` items.

    ``QUANTIZE`` is the address of the quantising kernel, 0 for none; ``ARGS`` that of the argument block of both.
    ``PARTS`` threads take turns at ``PIECES`` equal pieces, so that a thread that has to wait for a core holds up
    one piece only; thread i may use the scratch at ``SCRATCH + i * SCRATCH_STRIDE``.
    """

    QUANTIZE = 0
    BLOCKS = 1
    QUANTIZE_PARTS = 2
    KERNEL = 3
    ARGS = 4
    ITEMS = 5
    PARTS = 6
    PIECES = 7
    SCRATCH = 8
    SCRATCH_STRIDE = 9


_STEP_BYTES = 8 * len(Word)
(
    _QUANTIZE, _BLOCKS, _QUANTIZE_PARTS, _KERNEL, _ARGS, _ITEMS, _PARTS, _PIECES, _SCRATCH, _SCRATCH_STRIDE,
) = (8 * word.value for word in Word)  # fmt: skip


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


@intrinsic
def _load(typing_context, address):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, ARG001
    """The int64 at an address."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:  # noqa: ANN401, ARG001
        return builder.load(builder.inttoptr(values[0], ir.IntType(64).as_pointer()))

    return types.int64(types.int64), emit


@intrinsic
def _clear(typing_context, address):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, ARG001
    """Set the int64 at an address to 0."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:  # noqa: ANN401, ARG001
        word = ir.IntType(64)
        builder.store(ir.Constant(word, 0), builder.inttoptr(values[0], word.as_pointer()))
        return context.get_dummy_value()

    return types.void(types.int64), emit


def _run(program: int, steps: int, counter: int) -> None:
    """Do ``steps`` steps at the address ``program``, each with all threads at its end before the next begins.

    ``counter`` is the address of an int64 that nobody else uses meanwhile.
    """
    for index in range(steps):
        step = program + index * _STEP_BYTES
        args, scratch = _load(step + _ARGS), _load(step + _SCRATCH)
        quantize = _load(step + _QUANTIZE)
        if quantize != 0:
            blocks, quantize_parts = _load(step + _BLOCKS), _load(step + _QUANTIZE_PARTS)
            if quantize_parts == 1:
                _call(quantize, args, 0, blocks, scratch)
            else:
                for i in prange(quantize_parts):
                    _call(quantize, args, blocks * i // quantize_parts, blocks * (i + 1) // quantize_parts, scratch)
        kernel, items, parts = _load(step + _KERNEL), _load(step + _ITEMS), _load(step + _PARTS)
        if parts == 1:
            _call(kernel, args, 0, items, scratch)
        else:
            pieces, stride = _load(step + _PIECES), _load(step + _SCRATCH_STRIDE)
            _clear(counter)
            for j in prange(parts):
                piece = _next(counter)
                while piece < pieces:
                    first, last = items * piece // pieces, items * (piece + 1) // pieces
                    _call(kernel, args, first, last, scratch + j * stride)
                    piece = _next(counter)


def build_driver(*, cached: bool) -> Driver:
    """Compile :func:`_run`; ``cached``: load it from, or keep it in, numba's cache folder as set by the caller."""
    return _compile(cached=True) if cached else _in_memory()


@lru_cache(maxsize=1)
def _in_memory() -> Driver:
    return _compile(cached=False)


def _compile(*, cached: bool) -> Driver:
    signature = types.void(*[types.int64] * 3)
    compiled: Driver = njit([signature], parallel=True, nogil=True, cache=cached)(_run)
    return compiled
