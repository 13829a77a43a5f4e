"""Where the optional libraries for preloading lie in a Python environment. Loads none of them."""

from __future__ import annotations

import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Allocator = Literal["none", "tcmalloc", "jemalloc"]


@dataclass(frozen=True, slots=True)
class PreloadLibraries:
    """The files found, ``None`` where there is none."""

    tcmalloc: Path | None = None
    jemalloc: Path | None = None
    iomp: Path | None = None


def find_libraries(site_packages: Path | None = None, prefix: Path | None = None) -> PreloadLibraries:
    """Look in bigdl-llm's folder for the allocators and in the environment's ``lib`` for Intel's OpenMP."""
    if sys.platform == "win32":
        return PreloadLibraries()
    packages = site_packages or Path(sysconfig.get_paths()["purelib"])
    libs = packages / "bigdl" / "llm" / "libs"
    return PreloadLibraries(
        tcmalloc=_existing(libs / "libtcmalloc.so"),
        jemalloc=_existing(libs / "libjemalloc.so"),
        iomp=_existing((prefix or Path(sys.prefix)) / "lib" / "libiomp5.so"),
    )


def _existing(path: Path) -> Path | None:
    return path if path.is_file() else None
