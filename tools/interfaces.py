"""Writes what the documents say of signatures and settings from the code itself.

    python -m tools.interfaces

Fills the blocks between the marks in ``docs/architecture.md`` and ``docs/models.md``, and ``docs/settings.md``. Loads
nothing heavy.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from chatglm_backend.checkpoint.known import KNOWN, WORKING_MEMORY, disk_bytes, kv_values, low_bit_bytes
from chatglm_backend.settings import SettingSpec, specs
from chatglm_backend.units import size

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- python -m tools.interfaces: begin -->\n", "<!-- end -->"
SHOWN = (
    "GenerationParams", "GenerationRequest", "load_settings", "policy_from", "Weights", "Feed", "Prefill", "ChatModel",
    "build_model", "Tokenizer", "load_tokenizer", "Kernel", "select_kernel", "inspect_folder", "Preparation", "prepare",
    "Engine", "Worker", "serving/Ticket", "ConversationStore", "Service", "PageAnswers",
)  # fmt: skip
"""The interfaces that hold the rooms together, from below to above; with a room where others use the name as well."""
_LARGE = 1e12  # bounds beyond it say nothing to a reader
Function = ast.FunctionDef | ast.AsyncFunctionDef
Named = ast.ClassDef | Function


def definitions() -> Iterator[tuple[str, Named]]:
    """The file and the definition of every name in :data:`SHOWN`. Raises ValueError unless there is just one."""
    package = ROOT / "chatglm_backend"
    found: dict[str, list[tuple[str, Named]]] = {}
    for path in sorted(package.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, Named):
                found.setdefault(node.name, []).append((path.relative_to(package).as_posix(), node))
    for shown in SHOWN:
        room, _, name = shown.rpartition("/")
        places = [place for place in found.get(name, ()) if place[0].startswith(room)]
        if len(places) != 1:
            raise ValueError(
                f"{shown} is defined in {[file for file, _ in places]}: change SHOWN in tools/interfaces.py"
            )
        yield places[0]


def interfaces() -> str:
    """The block of ``docs/architecture.md``."""
    lines, last = ["```python"], ""
    for file, node in definitions():
        if file != last:
            lines.append(f"# {file}")
        last = file
        lines += _class(node) if isinstance(node, ast.ClassDef) else [_signature(node)]
    return "\n".join([*lines, "```", ""])


def _class(node: ast.ClassDef) -> Iterator[str]:
    bases = ", ".join(map(ast.unparse, node.bases))
    yield f"class {node.name}{f'({bases})' if bases else ''}:{_remark(node)}"
    fields = [
        f"{ast.unparse(f.target)}: {ast.unparse(f.annotation)}" for f in node.body if isinstance(f, ast.AnnAssign)
    ]
    if fields:
        yield f"    {', '.join(fields)}"
    for part in node.body:
        if isinstance(part, Function) and (not part.name.startswith("_") or part.name == "__init__"):
            plain = {ast.unparse(decorator) for decorator in part.decorator_list}
            yield f"    {'property ' if 'property' in plain else ''}{_signature(part)}"


def _signature(node: Function) -> str:
    returned = f" -> {ast.unparse(node.returns)}" if node.returns and node.name != "__init__" else ""
    word = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    return f"{word} {node.name}({ast.unparse(node.args)}){returned}"


def _remark(node: ast.ClassDef) -> str:
    first = (ast.get_docstring(node) or "").split("\n")[0]
    return f"  # {first}" if first else ""


def settings() -> str:
    """``docs/settings.md``."""
    return "\n".join(
        [
            "# Settings\n",
            "Defaults < TOML file (`doctor` prints where it lies) < environment < flags.",
            "Written by `python -m tools.interfaces`.\n",
            "| flag | variable | default | what it does |",
            "|---|---|---|---|",
            *map(_row, specs().values()),
            "",
        ]
    )


def _row(spec: SettingSpec) -> str:
    switch, on = spec.kind == "bool", spec.default is True
    flags = "`, `".join(flag.replace("--", "--no-") if on else flag for flag in spec.flags)
    default = ("on" if on else "off") if switch else "" if spec.default in (None, "", ()) else f"`{spec.default}`"
    choices = f" One of {', '.join(f'`{choice}`' for choice in spec.choices)}." if spec.choices else ""
    bounds = "" if abs(spec.low) > _LARGE else f" ({spec.low:,.9g} to {spec.high:,.9g})"
    return f"| `{flags}` | `{spec.variable}` | {default} | {spec.help}{bounds}{choices} |"


def models() -> str:
    """The block of ``docs/models.md``: the models that people can get."""
    rows = [
        "| model | hub id | download | on disk in INT4 | memory, without K/V | context | K/V when full | good for |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in KNOWN:
        config = row.config
        memory, kv = low_bit_bytes(config) + WORKING_MEMORY, 2 * kv_values(config) * config.context_limit
        sizes = [size(row.download_bytes), size(disk_bytes(config)), size(memory), str(config.context_limit), size(kv)]
        name = row.name if row.checked else f"{row.name} \\*"
        rows.append(f"| {name} | `{row.hub_id}` | {' | '.join(sizes)} | {row.use} |")
    return "\n".join([*rows, ""])


def documents() -> dict[Path, str]:
    """What each document should be."""
    docs = ROOT / "docs"
    blocks = {docs / "architecture.md": interfaces(), docs / "models.md": models()}
    made = {docs / "settings.md": settings()}
    for path, block in blocks.items():
        before, rest = path.read_text(encoding="utf-8").split(BEGIN)
        made[path] = before + BEGIN + block + END + rest.split(END, 1)[1]
    return made


if __name__ == "__main__":
    for file, text in documents().items():
        file.write_text(text, encoding="utf-8")
