"""Where the optional libraries for preloading lie in a Python environment. Loads none of them."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path
from typing import Literal

Allocator = Literal["none", "tcmalloc", "jemalloc"]


def find_libraries(site_packages: Path | None = None, prefix: Path | None = None) -> dict[str, Path]:
    """Those that are there: the allocators in bigdl-llm's folder, and Intel's OpenMP in the environment's ``lib``."""
    if sys.platform == "win32":
        return {}
    libs = (site_packages or Path(sysconfig.get_paths()["purelib"])) / "bigdl" / "llm" / "libs"
    places = {name: libs / f"lib{name}.so" for name in ("tcmalloc", "jemalloc")}
    places["libiomp5"] = (prefix or Path(sys.prefix)) / "lib" / "libiomp5.so"
    return {name: path for name, path in places.items() if path.is_file()}
