"""Without torch, the unit tests that need it are left out, so that the others can run on any Python in a minute."""

from __future__ import annotations

import ast
import importlib.util
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HAS_TORCH = importlib.util.find_spec("torch") is not None


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out a test file that imports torch, itself or through what it imports."""
    if HAS_TORCH or collection_path.suffix != ".py":
        return None
    return _imports_torch(collection_path) or None


def _imports_torch(path: Path) -> bool:
    """Whether importing a file imports torch. Imports inside functions and for type checkers do not count."""
    waiting, seen = [path], set()
    while waiting:
        file = waiting.pop()
        if file in seen:
            continue
        seen.add(file)
        names = _imported(file)
        if any(name.partition(".")[0] == "torch" for name in names):
            return True
        waiting += [found for name in names for found in _files_of(name)]
    return False


@cache
def _imported(file: Path) -> tuple[str, ...]:
    names: list[str] = []
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(names)


def _files_of(module: str) -> list[Path]:
    """The project's own files that importing a module runs."""
    parts = module.split(".")
    if parts[0] not in ("chatglm_backend", "tests", "benchmarks", "tools", "webui"):
        return []
    places = [ROOT.joinpath(*parts[:count]) for count in range(1, len(parts) + 1)]
    files = [file for place in places for file in (place / "__init__.py", place.with_suffix(".py"))]
    return [file for file in files if file.is_file()]
