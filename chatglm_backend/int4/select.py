"""Which kernel multiplies: by name, or the fastest that runs on this CPU."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from chatglm_backend.errors import ConfigError
from chatglm_backend.int4.bigdl import OVERRIDE, BigdlKernel, BigdlLibrary, default_library
from chatglm_backend.int4.exact import ExactKernel
from chatglm_backend.int4.kernel import Kernel, KernelName
from chatglm_backend.models.ops import Ops
from chatglm_backend.sentences import Sentence
from chatglm_backend.units import seconds


@dataclass(frozen=True, slots=True)
class KernelChoice:
    """A kernel, why it was chosen, in words for a report, and the operations that go with it."""

    kernel: Kernel
    reason: Sentence
    ops: Ops = field(default_factory=Ops)


def select_kernel(
    name: KernelName = "auto",
    *,
    threads: int | None = None,
    cache: Path | None = None,
    notify: Callable[[str], None] = lambda _: None,
    library: Callable[[], BigdlLibrary] = default_library,
) -> KernelChoice:
    """Make the kernel called ``name``.

    Raises ConfigError for an unknown name or an unusable ``CHATGLM_INT4_LIBRARY``, and NativeLibraryError.

    ``threads`` (default: torch's), ``cache`` (a folder for compiled code and choices) and ``notify`` are
    for the compiled kernels; bigdl's library takes its threads from torch.
    """
    if name == "exact":
        return KernelChoice(ExactKernel(), Sentence("kernel.exact"))
    if os.environ.get(OVERRIDE, "").strip():
        library()  # A library that was asked for and cannot be used is an error, whichever kernel multiplies.
    if name in ("auto", "vnni"):
        compiled = _compiled(threads or torch.get_num_threads(), cache, notify)
        if compiled is not None:
            return compiled
        if name == "vnni":
            raise ConfigError(name="kernel", value=name, reason=Sentence("kernel.no_avx2"))
    if name in ("auto", "bigdl"):
        chosen = library()
        return KernelChoice(BigdlKernel(chosen), chosen.reason)
    raise ConfigError(name="kernel", value=name, reason=Sentence("kernel.choices"))


def _compiled(threads: int, cache: Path | None, notify: Callable[[str], None]) -> KernelChoice | None:
    """Our own kernels, or None on a CPU without AVX2."""
    # numba takes half a second to import; the other kernels do without it.
    from chatglm_backend.int4.kernels.choose import build_kernel
    from chatglm_backend.int4.kernels.native import compile_variant
    from chatglm_backend.int4.kernels.ops import CompiledOps
    from chatglm_backend.int4.kernels.variants import host_cpu, usable_variants

    start = time.perf_counter()
    kernel = build_kernel(threads, cache, notify=notify)
    if kernel is None:
        return None
    best = usable_variants(host_cpu())[0]
    kept = compile_variant(best, cache).kept
    ops = CompiledOps(kernel.team, best, cache)
    took = seconds(time.perf_counter() - start)
    return KernelChoice(
        kernel,
        reason=Sentence("kernel.kept" if kept else "kernel.compiled", variant=best.name, time=took),
        ops=ops,
    )
