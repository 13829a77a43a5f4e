"""bigdl-llm's native libraries, and which of them a CPU can run. Reads no machine, loads nothing.

What each build needs was read from the instructions in it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LibraryVariant:
    """One build: its short name, its file, and the CPU features (named as in /proc/cpuinfo) it needs."""

    name: str
    file: str
    needs: frozenset[str]


_AVX = frozenset({"avx", "ssse3"})
_AVX2 = _AVX | {"avx2", "fma", "f16c"}
_AVX512 = _AVX2 | {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd", "avx512_vnni"}

_LINUX = (
    LibraryVariant("amx", "libllama_amx.so", _AVX512 | {"amx_tile", "amx_int8"}),
    LibraryVariant("avx512", "libllama_avx512.so", _AVX512),
    LibraryVariant("avxvnni", "libllama_avxvnni.so", _AVX2 | {"avx_vnni"}),
    LibraryVariant("avx2", "libllama_avx2.so", _AVX2),
    LibraryVariant("avx", "libllama_avx.so", _AVX),
)
_WINDOWS = (
    LibraryVariant("avxvnni", "libllama_vnni.dll", _AVX2 | {"avx_vnni"}),
    LibraryVariant("avx2", "llama.dll", _AVX2),
    LibraryVariant("avx", "libllama_avx.dll", _AVX),
)


def shipped_variants(platform: str) -> tuple[LibraryVariant, ...]:
    """The builds for ``platform`` (as ``sys.platform`` names it), fastest first; none where there are none."""
    if platform == "win32":
        return _WINDOWS
    return _LINUX if platform.startswith("linux") else ()


def missing_features(variant: LibraryVariant, flags: Collection[str]) -> tuple[str, ...]:
    """The features that ``variant`` needs and the CPU lacks, sorted."""
    return tuple(sorted(variant.needs.difference(flags)))
