"""``doctor``: this machine, what would run on it and why, what is kept where, and what to fix."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import platformdirs

from chatglm_backend.cli import options
from chatglm_backend.cli.output import emit_json, guarded, plain_size, say
from chatglm_backend.cli.session import read_settings
from chatglm_backend.errors import ChatGLMError
from chatglm_backend.settings import AUTO, Settings, config_file

if TYPE_CHECKING:
    from chatglm_backend.int4.kernel import KernelName

__all__ = ["doctor"]

_PACKAGES = ("bigdl-llm", "torch", "transformers", "sentencepiece", "gradio", "numba", "safetensors", "huggingface_hub")
_KV_VALUES_PER_TOKEN = {"chatglm": 2 * 28 * 4096, "chatglm2": 2 * 28 * 2 * 128, "chatglm3": 2 * 28 * 2 * 128}
_DTYPE_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}


@dataclass(slots=True)
class _Findings:
    """Everything that was looked at; ``fixes`` are sentences, each with what to do."""

    hardware: dict[str, Any] = field(default_factory=dict)
    int4: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    folders: dict[str, str] = field(default_factory=dict)
    cache: list[dict[str, Any]] = field(default_factory=list)
    fixes: list[str] = field(default_factory=list)


@guarded
def doctor(
    json_output: options.Json = False,  # noqa: FBT002
    threads: options.Threads = None,
    kernel: options.Kernel = None,
) -> None:
    """Show this machine, the INT4 library and the threads chosen for it, and what to fix.

    \b
    Examples:
      python -m chatglm_backend doctor
      python -m chatglm_backend doctor --json
    """  # noqa: D301
    settings = read_settings({"threads": threads, "kernel": kernel})
    found = _Findings()
    _look_at_hardware(found, settings)
    _look_at_int4(found, settings)
    _look_at_model(found, settings)
    found.versions = {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}}
    _look_at_folders(found, settings)
    if json_output:
        names = ("hardware", "int4", "model", "versions", "folders", "cache", "fixes")
        emit_json({"ok": not found.fixes, **{name: getattr(found, name) for name in names}})
    else:
        say(_text(found))


def _look_at_hardware(found: _Findings, settings: Settings) -> None:
    from chatglm_backend.hardware import Wishes, report

    wanted = None if settings.threads == AUTO else int(settings.threads)
    machine = report(os.environ, Wishes(threads=wanted))
    found.hardware = machine.to_json()
    found.fixes += [str(hint) for hint in machine.hints]


def _look_at_int4(found: _Findings, settings: Settings) -> None:
    found.int4 = {"kernel": None, "kv_dtype": settings.kv_dtype}
    size = _DTYPE_BYTES[settings.kv_dtype]
    found.int4["kv_bytes_per_token"] = {name: count * size for name, count in _KV_VALUES_PER_TOKEN.items()}
    try:
        from chatglm_backend.int4.bigdl import default_library
        from chatglm_backend.int4.select import select_kernel

        library = default_library()
        found.int4 |= {"library": str(library.path), "variant": library.variant, "library_reason": library.reason}
        choice = select_kernel(cast("KernelName", settings.kernel))
        found.int4 |= {"kernel": choice.kernel.name, "kernel_reason": choice.reason}
    except ChatGLMError as error:
        found.fixes.append(str(error))
    except ImportError as error:
        found.fixes.append(
            f"{error.name} is not installed: run ./launch.sh --setup-only, or pip install -r requirements.txt."
        )


def _look_at_model(found: _Findings, settings: Settings) -> None:
    if settings.model is not None:
        found.model = {"model": settings.model, "reason": "it is set in the environment or the configuration file"}
        return
    from chatglm_backend.checkpoint.default import default_model

    try:
        chosen = default_model()
    except ChatGLMError as error:
        found.model = {"model": None, "reason": "this machine has no model"}
        found.fixes.append(str(error))
        return
    found.model = {"model": chosen.model, "reason": chosen.notice or "it is on this machine"}


def _look_at_folders(found: _Findings, settings: Settings) -> None:
    from chatglm_backend.checkpoint.cache import list_cache
    from chatglm_backend.checkpoint.places import cache_root, hub_cache

    env = {**os.environ, "CHATGLM_CACHE": settings.cache} if settings.cache else dict(os.environ)
    data = settings.data or platformdirs.user_data_dir("chatglm-cpu", appauthor=False)
    found.folders = {
        "program": str(Path(__file__).resolve().parents[2]),
        "low-bit checkpoints": str(cache_root(env)),
        "downloads": str(hub_cache(env)),
        "conversations": str(Path(data).expanduser()),
        "configuration": str(config_file()),
    }
    for entry in list_cache(env):
        found.cache.append({"name": entry.name, "kind": entry.kind, "bytes": entry.nbytes, "complete": entry.complete})
        if not entry.complete:
            found.fixes.append(
                f"{entry.name} is not complete: run the same command again, or python -m chatglm_backend cache delete "
                f"{entry.name}."
            )


def _text(found: _Findings) -> str:
    hardware, int4, plan = found.hardware, found.int4, found.hardware["plan"]
    features = ", ".join(hardware["features"]) or "unknown"
    memory = f"{plain_size(hardware['memory_available'])} free of {plain_size(hardware['memory_total'])}"
    if hardware["memory_limit"]:
        memory += f", limited to {plain_size(hardware['memory_limit'])}"
    per_token = (f"{name} {nbytes / 1024:.0f} KiB" for name, nbytes in int4["kv_bytes_per_token"].items())
    cores = (
        f"{hardware['sockets']} socket(s), {hardware['physical_cores']} cores, {hardware['logical_cpus']} logical CPUs"
    )
    kept = [f"{e['name']} ({e['kind']}, {plain_size(e['bytes'])})" for e in found.cache]
    rows: list[tuple[str, list[str]]] = [
        ("CPU", [f"{hardware['cpu'] or 'unknown'} ({hardware['system']}, {hardware['architecture']})"]),
        ("", [f"{cores}, {len(hardware['allowed_cpus'])} allowed", features]),
        ("Memory", [memory]),
        ("Threads", [f"{plan['threads']} (profile {plan['profile']})", *plan["reasons"]]),
        ("Library", [f"{int4.get('variant', 'none')}: {int4.get('library_reason', 'none works here')}"]),
        ("", [str(int4["library"])] if "library" in int4 else []),
        ("Kernel", [f"{int4['kernel'] or 'none'}: {int4.get('kernel_reason', 'see below')}"]),
        ("KV cache", [f"{int4['kv_dtype']}; per token: {', '.join(per_token)}"]),
        ("Model", [f"{found.model['model'] or 'none'}: {found.model['reason']}"]),
        ("Versions", [", ".join(f"{name} {number}" for name, number in found.versions.items())]),
        ("Folders", [f"{name}: {path}" for name, path in found.folders.items()]),
        ("Kept", kept or ["nothing"]),
    ]
    lines = [f"{title if index == 0 else '':<11}{text}" for title, texts in rows for index, text in enumerate(texts)]
    lines += ["", "To fix:" if found.fixes else "Nothing to fix.", *(f"- {fix}" for fix in found.fixes)]
    return "\n".join(lines)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
