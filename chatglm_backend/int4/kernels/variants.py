"""Which dot-product instructions a CPU has, and the kernel variants made of them.

Knows feature names as LLVM spells them; knows nothing of layouts, tensors or threads.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18
"""Linux on x86-64: the number of the call, and its words (``ARCH_REQ_XCOMP_PERM``, ``XFEATURE_XTILEDATA``)."""


@dataclass(frozen=True, slots=True)
class Prefetch:
    """Asking for nibbles ``ahead`` bytes early: ``lines`` of a block's 8, into the cache of ``level`` 1 or 2.

    CPUs fetch ahead by themselves, but many stop at the next page of 4 KiB. One line a block, into the larger
    cache, wakes them on the next page; all lines help where that is not enough, and get in the way where it is.
    """

    ahead: int
    lines: int
    level: int


_SPARSE = Prefetch(ahead=8192, lines=1, level=2)
_FULL = Prefetch(ahead=8192, lines=8, level=1)


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to compile the kernels.

    ``lanes`` is the number of int32 sums in a vector register (16 or 8). ``target`` and
    ``features`` are what LLVM compiles for; ``needs`` are the CPU features it then requires.
    ``tile_rows`` activation rows share each read of a weight in the kernel for many rows. ``prefetch_streaming``
    is for kernels of so few rows that they wait for nothing but weights, ``prefetch`` for the others.
    """

    name: str
    lanes: int
    target: str
    features: str
    needs: frozenset[str]
    tile_rows: int
    uses_vnni: bool
    uses_amx: bool = False
    prefetch: Prefetch | None = _FULL
    prefetch_streaming: Prefetch | None = _FULL


_AMX = frozenset({"amx-tile", "amx-int8"})
_AVX2_NEEDS = frozenset({"avx2", "fma", "f16c", "bmi", "bmi2"})

AVX512VNNI = Variant(
    name="avx512vnni",
    lanes=16,
    target="x86-64-v4",
    features="+avx512vnni",
    needs=_AVX2_NEEDS | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512vnni"},
    tile_rows=1,
    uses_vnni=True,
    prefetch_streaming=_SPARSE,
)
AVX512VNNI_PLAIN = replace(AVX512VNNI, name="avx512vnni-plain", prefetch=None, prefetch_streaming=None)
AVX512VNNI_FULL = replace(AVX512VNNI, name="avx512vnni-full", prefetch_streaming=_FULL)
AVX512AMX = replace(
    AVX512VNNI,
    name="avx512amx",
    features="+avx512vnni,+gfni,+amx-tile,+amx-int8",
    needs=AVX512VNNI.needs | _AMX | {"gfni"},
    uses_amx=True,
)
AVXVNNI = Variant(
    name="avxvnni",
    lanes=8,
    target="x86-64-v3",
    features="+avxvnni",
    needs=_AVX2_NEEDS | {"avxvnni"},
    tile_rows=4,
    uses_vnni=True,
)
AVX2 = Variant(
    name="avx2",
    lanes=8,
    target="x86-64-v3",
    features="",
    needs=_AVX2_NEEDS,
    tile_rows=4,
    uses_vnni=False,
)

VARIANTS: tuple[Variant, ...] = (AVX512VNNI, AVX512VNNI_PLAIN, AVX512VNNI_FULL, AVX512AMX, AVXVNNI, AVX2)
"""Which is the fastest for a shape is measured; the first that a CPU has names kept layouts and does all else."""


@dataclass(frozen=True, slots=True)
class HostCpu:
    """The CPU this process runs on: LLVM's name for it and its feature names.

    ``withheld`` are features that it has, and that the operating system does not let this process use.
    """

    name: str
    features: frozenset[str]
    withheld: frozenset[str] = frozenset()


def host_cpu() -> HostCpu:
    """Ask LLVM about this CPU; features that the operating system does not enable are left out."""
    import llvmlite.binding as llvm

    features = frozenset(name for name, on in llvm.get_host_cpu_features().items() if on)
    return permitted(HostCpu(str(llvm.get_host_cpu_name()), features))


@lru_cache(maxsize=1)
def may_use_tiles() -> bool:
    """Linux lets a process use AMX's registers once it has asked; where that fails they end the process."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    asked: int = ctypes.CDLL(None, use_errno=True).syscall(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA)
    return asked == 0


def permitted(cpu: HostCpu, ask: Callable[[], bool] = may_use_tiles) -> HostCpu:
    """``cpu`` with what this process may use of AMX.

    Only a CPU that has the products is asked for: from then on Linux refuses signal stacks too small for the tiles.
    """
    if not cpu.features >= _AMX or ask():
        return cpu
    return replace(cpu, features=cpu.features - _AMX, withheld=cpu.features & _AMX)


def usable_variants(cpu: HostCpu) -> tuple[Variant, ...]:
    """The variants whose instructions ``cpu`` has, widest first; empty means none of ours can run."""
    return tuple(v for v in VARIANTS if v.needs <= cpu.features)
