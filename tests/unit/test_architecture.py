"""The walls between the rooms, checked on the source itself."""

from __future__ import annotations

import ast
import functools
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "chatglm_backend"

# A room may import rooms of a lower number, and itself.
FLOORS: dict[str, int] = {
    "__init__": 0,
    "sentences": -2,
    "errors": -1,
    "installed": 0,
    "sampling": 0,
    "units": 0,
    "leftovers": 0,
    "imports": 0,
    "core": 1,
    "network": 1,
    "textfile": 1,
    "documents": 2,
    "settings": 2,
    "logs": 3,
    "hardware": 2,
    "launcher": 3,
    "models": 3,
    "tokenizers": 3,
    "int4": 4,
    "checkpoint": 5,
    "adapters": 6,
    "engine": 6,
    "access": 6,
    "serving": 7,
    "store": 5,
    "service": 8,
    "testing": 9,
    "api": 10,
    "batch": 11,
    "benchmark": 9,
    "cluster": 9,
    "cli": 12,
    "ui": 12,
    "demo_model": 0,
    "__main__": 13,
}
_WEB = r"api/|access/|webui\.py|ui/gradio_insides/|ui/\w+_routes\.py|ui/visitor\.py"  # in ui/: what is not Gradio's
ALLOWED_THIRD_PARTY = {
    "ray": r"cluster/on_ray\.py",
    "gradio": r"ui/|webui\.py",
    "fastapi": _WEB,
    "starlette": _WEB,
    "bigdl": r"int4/bigdl\.py",
    "torch": r"(models|int4|checkpoint|adapters|engine|service|benchmark)/",
    "transformers": r"engine/",
    "llguidance": r"engine/grammar\.py",
    "sentencepiece": r"tokenizers/",
    "tokenizers": r"tokenizers/",
    "jinja2": r"tokenizers/",
    "numba": r"int4/",
}


# Circles that are on their way out.
KNOWN_CIRCLES = {f"chatglm_backend.tokenizers.{name}" for name in ("base", "chatglm", "chatglm2", "glm4")}


def sources() -> list[Path]:
    """All modules of the package, and the page."""
    return [*sorted(PACKAGE.rglob("*.py")), ROOT / "webui.py"]


def room_of(path: Path) -> str:
    """Return the name of the room that a file belongs to."""
    if path == ROOT / "webui.py":
        return "webui"
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


@functools.cache
def parsed(path: Path) -> ast.Module:
    """The source of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def imported_names(path: Path) -> set[str]:
    """Every absolute module name that a file imports, wherever the import stands, for types as well.

    ``from package import member`` gives ``package.member`` too, which may be a module.
    """
    found: set[str] = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            found.update([node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)])
    return found


def imports() -> Iterator[tuple[Path, str, list[str]]]:
    """Each file, its room, and the parts of each name that it imports."""
    for path in sources():
        for name in imported_names(path):
            yield path, room_of(path), name.split(".")


def test_imports_point_one_way() -> None:
    """No room imports a room above it."""
    upward = [
        f"{path.relative_to(ROOT)} imports {'.'.join(name)}"
        for path, room, name in imports()
        if name[0] == "chatglm_backend" and len(name) > 1 and name[1] in FLOORS and name[1] != room
        if FLOORS[name[1]] >= FLOORS.get(room, 100)
    ]
    assert upward == []


def test_third_parties_stay_in_their_rooms() -> None:
    """Gradio, FastAPI, bigdl, torch and others appear only where the plan says."""
    astray = [
        f"{path.relative_to(ROOT)} imports {name[0]}"
        for path, _, name in imports()
        if name[0] in ALLOWED_THIRD_PARTY
        and not re.match(
            ALLOWED_THIRD_PARTY[name[0]], path.relative_to(ROOT).as_posix().removeprefix("chatglm_backend/")
        )
    ]
    assert astray == []


def test_no_module_imports_itself_by_way_of_others() -> None:
    """No circles of imports, within a room either."""
    paths = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in sources()
    }
    graph = {name: imported_names(path) & paths.keys() - {name} for name, path in paths.items()}
    known = {name: graph[name] - KNOWN_CIRCLES for name in KNOWN_CIRCLES}
    graphlib.TopologicalSorter(graph | known).prepare()


def test_every_room_has_a_floor() -> None:
    """A new room must be given its place in the plan."""
    assert {room_of(p) for p in sources()} - {"webui"} <= set(FLOORS)


def test_importing_the_package_is_light() -> None:
    """``import chatglm_backend`` and the settings load none of the heavy packages."""
    code = (
        "import sys, chatglm_backend, chatglm_backend.core, chatglm_backend.settings, chatglm_backend.hardware;"
        "heavy = {'torch', 'gradio', 'transformers', 'bigdl', 'numba', 'numpy'} & set(sys.modules);"
        "print(sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_no_global_statements() -> None:
    """Nothing rebinds module globals."""
    found = [path for path in sources() if any(isinstance(node, ast.Global) for node in ast.walk(parsed(path)))]
    assert found == []
