"""What this machine is, what would run on it and why, what is kept where, and what to fix.

The terminal's ``doctor`` and the page show it. Heavy packages are imported where they are looked at.
"""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from chatglm_backend.errors import ChatGLMError
from chatglm_backend.models.config import Family
from chatglm_backend.sentences import Sentence, plain
from chatglm_backend.service.kernels import kernel_cache
from chatglm_backend.settings import Settings, config_file, with_cache
from chatglm_backend.store.folder import data_folder

if TYPE_CHECKING:
    from chatglm_backend.int4.kernel import KernelName

_PACKAGES = ("bigdl-llm", "torch", "transformers", "sentencepiece", "gradio", "numba", "safetensors", "httpx")


@dataclass(slots=True)
class Findings:
    """Everything that was looked at; ``fixes`` are sentences, each with what to do."""

    hardware: dict[str, Any] = field(default_factory=dict)
    int4: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    models: list[dict[str, Any]] = field(default_factory=list)
    versions: dict[str, str | Sentence] = field(default_factory=dict)
    folders: dict[str, str] = field(default_factory=dict)
    cache: list[dict[str, Any]] = field(default_factory=list)
    fixes: list[Sentence | ChatGLMError] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """One document; ``ok`` when there is nothing to fix."""
        codes = [fix.code for fix in self.fixes]
        folders = {str(Sentence(f"place.{name}")): path for name, path in self.folders.items()}
        found = cast("dict[str, Any]", plain(self))
        return {"ok": not self.fixes, **found, "folders": folders, "fix_codes": codes}


def look_at_everything(settings: Settings) -> Findings:
    """Look at this machine and this installation; takes seconds. What does not work ends up in ``fixes``."""
    found = Findings()
    _look_at_hardware(found, settings)
    _look_at_int4(found, settings)
    _look_at_model(found, settings)
    found.versions = {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}}
    _look_at_models(found, settings)
    _look_at_folders(found, settings)
    _look_at_network(found, settings)
    return found


def _look_at_hardware(found: Findings, settings: Settings) -> None:
    from chatglm_backend.hardware import Wishes, report

    machine = report(os.environ, Wishes(threads=settings.fixed("threads")))
    found.hardware = machine.to_json()
    found.fixes += machine.hints


def _look_at_int4(found: Findings, settings: Settings) -> None:
    found.int4 = {"kernel": None, "kv_dtype": settings.kv_dtype}
    try:
        from chatglm_backend.hardware import read_machine
        from chatglm_backend.int4.available import available_kernels
        from chatglm_backend.int4.bigdl import default_library
        from chatglm_backend.int4.kernels.variants import host_cpu
        from chatglm_backend.int4.select import select_kernel

        library = default_library()
        found.int4 |= {"library": str(library.path), "variant": library.variant, "library_reason": library.reason}
        choice = select_kernel(cast("KernelName", settings.kernel), cache=kernel_cache(settings))
        found.int4 |= {"kernel": choice.kernel.name, "kernel_reason": choice.reason}
        listed = available_kernels(host_cpu(), read_machine().flags, kernel=choice.kernel.name, library=library.variant)
        found.int4["kernels"] = [plain(one) for one in listed]
        found.int4["prefix_reuse"] = _prefix_reuse(settings)
    except ChatGLMError as error:
        found.fixes.append(error)
    except ImportError as error:
        found.fixes.append(Sentence("fix.not_installed", name=error.name))


def _prefix_reuse(settings: Settings) -> dict[str, Sentence]:
    """By family, what is kept of earlier turns."""
    room = settings.prefix_cache_mb
    if not room:
        return dict.fromkeys(get_args(Family), Sentence("reuse.off"))
    beginnings = dict.fromkeys(get_args(Family), Sentence("reuse.on", megabytes=room))
    return beginnings | {"chatglm": Sentence("reuse.same_prompt", megabytes=room)}


def _look_at_model(found: Findings, settings: Settings) -> None:
    if settings.model is not None:
        found.model = {"model": settings.model, "reason": Sentence("default.set")}
        _look_for(found, settings)
        return
    from chatglm_backend.checkpoint.default import default_model

    try:
        chosen = default_model(with_cache(settings, os.environ))
    except ChatGLMError as error:
        found.model = {"model": None, "reason": Sentence("default.none")}
        found.fixes.append(error)
        return
    found.model = {"model": chosen.model, "reason": chosen.notice or Sentence("default.here")}


def _look_at_models(found: Findings, settings: Settings) -> None:
    """What is kept here, and what every model that people can get takes."""
    from chatglm_backend.checkpoint.cache import list_cache
    from chatglm_backend.service.needs import Reckoning
    from chatglm_backend.service.speed import recall

    speed = recall(kernel_cache(settings), found.hardware["plan"]["threads"])
    env = with_cache(settings, os.environ)
    try:
        entries = list_cache(env)
    except OSError as error:
        entries = ()
        found.fixes.append(Sentence("fix.unreadable", path=error.filename, problem=error.strerror))
    for entry in entries:
        found.cache.append({"name": entry.name, "kind": entry.kind, "bytes": entry.nbytes, "complete": entry.complete})
        if not entry.complete:
            found.fixes.append(Sentence("fix.incomplete", name=entry.name))
    for offer in Reckoning(settings, env, entries).offers():
        row, needs, time = offer.model, offer.needs, None
        if speed is not None and needs.tokens:
            time = speed.said(row.config, needs.tokens, needs.kv / needs.context)
        found.models.append(
            {"name": row.short, "model": row.hub_id, "checked": row.checked, "good_for": row.use, "here": offer.here,
             "download_bytes": row.download_bytes, "disk_bytes": needs.disk, "memory_bytes": needs.memory,
             "context": needs.context, "kv_bytes_per_token": needs.kv // needs.context, "kv_bytes_full": needs.kv,
             "fit": needs.fit, "tokens": needs.tokens, "hint": needs.hint, "time": time}
        )  # fmt: skip


def _look_for(found: Findings, settings: Settings) -> None:
    """Whether the model that the settings name is here and can be used."""
    from chatglm_backend.checkpoint.resolve import resolve

    try:
        place = resolve(
            str(settings.model),
            allow_download=False,
            family=settings.fixed("family"),
            revision=settings.revision,
            env=with_cache(settings, os.environ),
        )
    except ChatGLMError as error:
        found.fixes.append(error)
    else:
        found.model["reason"] = Sentence("default.set_is", reason=place.reason)


def _look_at_folders(found: Findings, settings: Settings) -> None:
    from chatglm_backend.checkpoint.places import cache_root, hub_cache

    env = with_cache(settings, os.environ)
    found.folders = {
        "program": str(Path(__file__).resolve().parents[2]),
        "packages": sys.prefix,
        "low_bit": str(cache_root(env)),
        "downloads": str(hub_cache(env)),
        "conversations": str(data_folder(settings)),
        "configuration": str(config_file()),
    }
    for name, folder, variable in (
        ("low_bit", cache_root(env), "CHATGLM_CACHE"),
        ("downloads", hub_cache(env), "HF_HOME"),
    ):
        if not _may_write(folder):
            place = Sentence(f"place.{name}")
            found.fixes.append(Sentence("fix.folder", name=place, path=folder, variable=variable))


def _look_at_network(found: Findings, settings: Settings) -> None:
    """What a download would stumble over."""
    from chatglm_backend.checkpoint.hub import hub_access
    from chatglm_backend.checkpoint.hub_client import check_way

    try:
        check_way(hub_access(with_cache(settings, os.environ)))
    except ChatGLMError as error:
        found.fixes.append(error)


def _may_write(folder: Path) -> bool:
    """Whether a file could be made in the folder, which may still have to be made itself."""
    place = folder.absolute()
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    return place.is_dir() and os.access(place, os.W_OK | os.X_OK)


def _version(name: str) -> str | Sentence:
    try:
        return version(name)
    except PackageNotFoundError:
        return Sentence("value.not_installed")
