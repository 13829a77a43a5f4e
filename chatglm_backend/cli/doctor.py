"""``doctor``: this machine, what would run on it and why, what is kept where, and what to fix."""

from __future__ import annotations

from chatglm_backend.cli import options
from chatglm_backend.cli.output import emit_json, guarded, say
from chatglm_backend.sentences import Sentence
from chatglm_backend.service.report import Findings, look_at_everything
from chatglm_backend.settings import Settings
from chatglm_backend.units import size


@guarded
@options.with_settings("threads", "kernel")
def doctor(*, json_output: options.Json = False, settings: Settings) -> None:
    """Show this machine, the INT4 library and the threads chosen for it, and what to fix.

    \b
    Examples:
      python -m chatglm_backend doctor
      python -m chatglm_backend doctor --json
    """  # noqa: D301
    found = look_at_everything(settings)
    if json_output:
        emit_json(found.to_json())
    else:
        say(_text(found))


def _text(found: Findings) -> str:
    hardware, int4, plan = found.hardware, found.int4, found.hardware["plan"]
    features = ", ".join(hardware["features"]) or "unknown"
    memory = f"{size(hardware['memory_available'])} free of {size(hardware['memory_total'])}"
    if hardware["memory_limit"]:
        memory += f", limited to {size(hardware['memory_limit'])}"
    models = [
        f"{m['name']}: {size(m['memory_bytes'])} of memory, and {size(m['kv_bytes_full'])} for a visitor with "
        f"{m['context']} tokens: {m['hint']}{'; ' if m['time'] else ''}{m['time'] or ''}"
        for m in found.models
    ]
    if not any(m["time"] for m in found.models):
        models.append(str(Sentence("known.time_unknown")))
    cores = (
        f"{hardware['sockets']} socket(s), {hardware['physical_cores']} cores, {hardware['logical_cpus']} logical CPUs"
    )
    kept = [f"{e['name']} ({e['kind']}, {size(e['bytes'])})" for e in found.cache]
    rows: list[tuple[str, list[str]]] = [
        ("CPU", [f"{hardware['cpu'] or 'unknown'} ({hardware['system']}, {hardware['architecture']})"]),
        ("", [f"{cores}, {len(hardware['allowed_cpus'])} allowed", features]),
        ("Memory", [memory]),
        ("Threads", [f"{plan['threads']} (profile {plan['profile']})", *plan["reasons"]]),
        ("Library", [f"{int4.get('variant', 'none')}: {int4.get('library_reason', 'see below')}"]),
        ("", [str(int4["library"])] if "library" in int4 else []),
        ("Kernel", [f"{int4['kernel'] or 'none'}: {int4.get('kernel_reason', 'see below')}"]),
        ("", [f"{one['kernel']} ({one['variant']}): {one['reason']}" for one in int4.get("kernels", [])]),
        ("KV cache", [int4["kv_dtype"]]),
        ("", [f"reuse of earlier turns, {name}: {how}" for name, how in int4.get("prefix_reuse", {}).items()]),
        ("Model", [f"{found.model['model'] or 'none'}: {found.model['reason']}"]),
        ("Models", models),
        ("Versions", [", ".join(f"{name} {number}" for name, number in found.versions.items())]),
        ("Folders", [f"{name}: {path}" for name, path in found.to_json()["folders"].items()]),
        ("Kept", kept or ["nothing"]),
    ]
    lines = [f"{title if index == 0 else '':<11}{text}" for title, texts in rows for index, text in enumerate(texts)]
    lines += ["", "To fix:" if found.fixes else "Nothing to fix.", *(f"- {fix}" for fix in found.fixes)]
    return "\n".join(lines)
