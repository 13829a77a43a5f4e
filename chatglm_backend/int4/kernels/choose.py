"""Builds the compiled kernel for this machine: which variants it has, and which is best for each shape.

A shape that was not seen before is measured for a second or two; the choice is kept as
JSON in the caller's cache folder, under a key of everything that it depends on. A damaged
or foreign file counts as no file.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import llvmlite
import torch
from torch import Tensor

from chatglm_backend import units
from chatglm_backend.errors import ConfigError
from chatglm_backend.int4.kernels.emit import FEW_ROWS
from chatglm_backend.int4.kernels.layout import LAYOUT_TAG, layout_nbytes
from chatglm_backend.int4.kernels.native import NativeKernels, compile_variant
from chatglm_backend.int4.kernels.objects import source_digest, write_whole
from chatglm_backend.int4.kernels.product import ROW_CLASSES, CompiledKernel, PickVariant, Product
from chatglm_backend.int4.kernels.team import Team
from chatglm_backend.int4.kernels.variants import HostCpu, Variant, host_cpu, usable_variants
from chatglm_backend.sentences import Sentence

CPU_TOO_OLD = "this CPU has no AVX2"
_FILE = "kernel-choice.json"
_ROUNDS = {1: 31, 2: 31, 4: 31, 16: 15, 128: 5}
"""More rounds for classes of few rows: their products are short, and neighbours on the machine disturb them more."""
_FEWEST_ROUNDS = 3
_PATIENCE_S = 0.5
"""So long a class of rows is measured at most, after its first rounds: beside other work a shape took half a minute."""
_WORTH_CHANGING = 0.97
"""A variant is passed over only for one that takes less than this part of its time: closer ones are told by chance."""
_MEASURED_BYTES = 128 << 20
"""So many bytes of matrices take turns, so that weights come from memory as in a model, not from a cache."""
_MEASURED_COPIES = 16
_KEYS = 8
"""Of so many versions, CPUs and thread counts choices are kept."""
_MEASURED_OUT = 4096
"""Measured matrices have at most this many rows: the choice depends on how a row is read, not on how many."""

Notify = Callable[[str], None]


def build_kernel(
    threads: int,
    cache: Path | None = None,
    *,
    cpu: HostCpu | None = None,
    only: str | None = None,
    notify: Notify = lambda _: None,
) -> CompiledKernel | None:
    """The compiled kernel for ``threads`` threads, or ``None`` where the CPU has too few instructions.

    ``cache`` is a folder for compiled code and choices: without one nothing is measured, and the variant
    with the widest instructions is taken, for many rows the one with AMX. ``only`` forces one variant
    by name; ``notify`` is told in words what takes time.
    """
    cpu = cpu or host_cpu()
    variants = {v.name: v for v in usable_variants(cpu)}
    if only is not None and only not in variants:
        raise ConfigError(
            name="kernel variant", value=only, reason=Sentence("kernel.offered", variants=", ".join(variants) or "none")
        )
    if not variants:
        return None
    team = Team(threads, cache)
    offered = [v for v in variants.values() if only in (None, v.name)]
    kernels = _Compiled({v.name: v for v in offered}, cache, notify)
    if len(kernels) == 1 or cache is None:
        tiles = next((v for v in offered if v.uses_amx), offered[0])
        return CompiledKernel(team, kernels, _always(offered[0].name, tiles.name))
    choices = _Choices(team, kernels, cache / _FILE, _key(cpu, team.threads), notify)
    return CompiledKernel(team, kernels, choices.pick)


class _Compiled(Mapping[str, NativeKernels]):
    """The kernels of each variant by name, compiled or read from disk when first asked for."""

    def __init__(self, variants: Mapping[str, Variant], cache: Path | None, notify: Notify) -> None:
        self._variants, self._cache, self._notify = variants, cache, notify
        self._done: dict[str, NativeKernels] = {}

    def __getitem__(self, name: str) -> NativeKernels:
        if name not in self._done:
            start = time.perf_counter()
            native = self._done[name] = compile_variant(self._variants[name], self._cache)
            if not native.kept:
                self._notify(f"compiled the {name} kernels in {units.seconds(time.perf_counter() - start)}")
        return self._done[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._variants)

    def __len__(self) -> int:
        return len(self._variants)


def _always(name: str, many: str | None = None) -> PickVariant:
    """One variant for every shape and row class, or another for classes of ``many`` rows."""
    picks = {rows: name if rows in FEW_ROWS else many or name for rows in ROW_CLASSES}
    return lambda _out, _in: picks


def _key(cpu: HostCpu, threads: int) -> str:
    """A short name for everything that a choice depends on."""
    parts = (cpu.name, *sorted(cpu.features), LAYOUT_TAG, llvmlite.__version__, str(threads), source_digest())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


class _Choices:
    """Remembers, and where it must, measures, the best variant for each shape and row class."""

    def __init__(self, team: Team, kernels: Mapping[str, NativeKernels], file: Path, key: str, notify: Notify) -> None:
        self._team, self._kernels, self._file, self._key, self._notify = team, kernels, file, key, notify
        self._known = self._read()

    def pick(self, out: int, in_: int) -> dict[int, str]:
        """See :data:`~.product.PickVariant`."""
        out = min(out, _MEASURED_OUT)
        shape = f"{out}x{in_}"
        if shape not in self._known:
            start = time.perf_counter()
            self._known[shape] = self._measure(out, in_)
            self._notify(f"compared the kernels on {shape} in {units.seconds(time.perf_counter() - start)}")
            self._write()
        return self._known[shape]

    def _measure(self, out: int, in_: int) -> dict[int, str]:
        """The fastest in a few interleaved rounds, on bytes whose values do not matter (zeros would be mapped once)."""
        nbytes = layout_nbytes(out, in_)
        count = max(1, min(_MEASURED_COPIES, _MEASURED_BYTES // nbytes))
        layouts = torch.full((count, nbytes), 17, dtype=torch.uint8)
        products: dict[str, list[Product]] = {}
        for name, native in self._kernels.items():
            single = CompiledKernel(self._team, {name: native}, _always(name))
            products[name] = [single.from_layout(layout, out, in_) for layout in layouts]
        chosen = {}
        for rows in ROW_CLASSES:
            x = torch.ones(rows, in_)
            turns = cycle(range(len(layouts)))
            calls = {name: partial(_multiply, own, turns, x) for name, own in products.items()}
            chosen[rows] = fastest(medians(calls, _ROUNDS[rows]))
        return chosen

    def _read(self) -> dict[str, dict[int, str]]:
        try:
            stored = self._stored()[self._key]
            known = {str(shape): {int(r): str(v) for r, v in picks.items()} for shape, picks in stored.items()}
        except (ValueError, KeyError, AttributeError):
            return {}
        return {
            shape: picks
            for shape, picks in known.items()
            if set(picks) == set(ROW_CLASSES) and set(picks.values()) <= set(self._kernels)
        }

    def _stored(self) -> dict[str, Any]:
        """By key; without what can be no choices."""
        try:
            stored = json.loads(self._file.read_text("utf-8"))
            return {key: shapes for key, shapes in stored.items() if isinstance(shapes, dict)}
        except (OSError, ValueError, AttributeError):
            return {}

    def _write(self) -> None:
        """The latest other keys stay: two thread counts, or processes of which one may not use AMX, may take turns."""
        others = [(key, shapes) for key, shapes in self._stored().items() if key != self._key]
        try:
            kept = dict([*others[1 - _KEYS :], (self._key, self._known)])
            write_whole(self._file, json.dumps(kept, indent=1).encode())
        except OSError as error:
            self._notify(f"the choice of kernels could not be kept: {error}")


def _multiply(products: list[Product], turns: Iterator[int], x: Tensor) -> None:
    products[next(turns)](x)


def medians(
    calls: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Seconds that each call takes, in rounds that begin with another of them each time; fewer where they take long."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    names, until = list(calls), clock() + _PATIENCE_S
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start = clock()
            calls[name]()
            seconds[name].append(clock() - start)
        if turn + 1 >= _FEWEST_ROUNDS and clock() > until:
            break
    return {name: statistics.median(values) for name, values in seconds.items()}


def fastest(seconds: Mapping[str, float]) -> str:
    """The first of the variants unless a later one is clearly faster."""
    best, *others = seconds
    for name in others:
        if seconds[name] < seconds[best] * _WORTH_CHANGING:
            best = name
    return best
