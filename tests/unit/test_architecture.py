"""The walls between the rooms, checked on the source itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

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
    "core": 1,
    "network": 1,
    "textfile": 1,
    "settings": 2,
    "logs": 3,
    "hardware": 2,
    "launcher": 3,
    "models": 3,
    "tokenizers": 3,
    "int4": 4,
    "checkpoint": 5,
    "engine": 6,
    "access": 6,
    "serving": 7,
    "store": 7,
    "service": 8,
    "testing": 9,
    "api": 10,
    "benchmark": 9,
    "cli": 11,
    "ui": 11,
    "demo_model": 0,
    "__main__": 12,
}
ALLOWED_THIRD_PARTY: dict[str, tuple[str, ...]] = {
    "gradio": ("ui", "webui"),
    "fastapi": ("api", "access", "webui", "ui"),
    "bigdl": ("int4",),
    "torch": ("models", "int4", "checkpoint", "engine", "service", "benchmark"),
    "transformers": ("engine",),
    "sentencepiece": ("tokenizers",),
    "numba": ("int4",),
}


# Circles that are on their way out.
KNOWN_CIRCLES = frozenset(
    {"tokenizers.base", "tokenizers.chatglm", "tokenizers.chatglm2", "ui.chat", "ui.history"},
)


def sources() -> list[Path]:
    """All modules of the package, and the page."""
    return [*sorted(PACKAGE.rglob("*.py")), ROOT / "webui.py"]


def room_of(path: Path) -> str:
    """Return the name of the room that a file belongs to."""
    if path == ROOT / "webui.py":
        return "webui"
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported_names(path: Path) -> set[str]:
    """Return every absolute module name that a file imports, wherever the import stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            module = node.module or ""
            found.add(module)
            if module == "chatglm_backend":
                found.update(f"{module}.{alias.name}" for alias in node.names)
    return found


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    """No room imports a room above it."""
    room = room_of(path)
    floor = 100 if room == "webui" else FLOORS[room]
    for name in imported_names(path):
        if not name.startswith("chatglm_backend."):
            continue
        other = name.split(".")[1]
        if other in FLOORS and other != room:
            assert FLOORS[other] < floor, f"{room} imports {other}"


def imports_between_modules() -> dict[str, set[str]]:
    """The package's modules that each of its modules imports, wherever the import stands, for types as well."""
    names = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
    known = {name.removesuffix(".__init__"): path for name, path in names.items()}
    graph: dict[str, set[str]] = {}
    for name, path in known.items():
        found = imported_names(path) | imported_members(path)
        graph[name] = {one.removeprefix("chatglm_backend.") for one in found} & known.keys() - {name}
    return graph


def imported_members(path: Path) -> set[str]:
    """``package.member`` for each ``from package import member``: the member may be a module."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.ImportFrom)]
    return {f"{node.module}.{alias.name}" for node in nodes for alias in node.names}


def reached_from(start: str, graph: dict[str, set[str]]) -> set[str]:
    """Every module that ``start`` imports, directly or by way of others."""
    reached: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += graph[name]
    return reached


def test_no_module_imports_itself_by_way_of_others() -> None:
    """No circles of imports, within a room either."""
    graph = imports_between_modules()
    assert {name for name in graph if name in reached_from(name, graph)} <= KNOWN_CIRCLES


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_third_parties_stay_in_their_rooms(path: Path) -> None:
    """Gradio, bigdl, torch and others appear only where the plan says."""
    room = room_of(path)
    for name in imported_names(path):
        top = name.split(".")[0]
        if top in ALLOWED_THIRD_PARTY:
            assert room in ALLOWED_THIRD_PARTY[top], f"{room} imports {top}"
        if top == "bigdl":
            assert path.name == "bigdl.py"


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


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_global_statements(path: Path) -> None:
    """Nothing rebinds module globals."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not [n.lineno for n in ast.walk(tree) if isinstance(n, ast.Global)]
