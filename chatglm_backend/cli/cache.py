"""``cache list`` and ``cache delete``: what is kept on this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated

import typer

from chatglm_backend.cli import options
from chatglm_backend.cli.output import emit_error, emit_json, guarded, note, say
from chatglm_backend.sentences import Sentence
from chatglm_backend.settings import with_cache
from chatglm_backend.units import size


def build_cache_app() -> typer.Typer:
    """The two commands."""
    app = typer.Typer(help="What is kept on this machine: converted checkpoints and downloads.", no_args_is_help=True)
    app.command("list")(list_command)
    app.command("delete")(delete_command)
    return app


@guarded
def list_command(*, json_output: options.Json = False) -> None:
    """List converted checkpoints and downloads with their sizes."""
    from chatglm_backend.checkpoint.cache import list_cache

    entries = list_cache(_environment())
    if json_output:
        found = [asdict(entry) for entry in entries]
        for one in found:
            one["bytes"] = one.pop("nbytes")
        emit_json({"ok": True, "entries": found, "bytes": sum(entry.nbytes for entry in entries)})
        return
    if not entries:
        note(Sentence("note.nothing_kept"))
    for entry in entries:
        state = "" if entry.complete else "  (incomplete)"
        say(f"{entry.name}  {entry.kind}  {size(entry.nbytes)}  {entry.path}{state}")


@guarded
def delete_command(
    *,
    name: Annotated[str, typer.Argument(help="A name that 'cache list' shows.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json_output: options.Json = False,
) -> int:
    """Delete one entry of 'cache list'."""
    from chatglm_backend.checkpoint.cache import delete_cached, list_cache

    env = _environment()
    found = next((entry for entry in list_cache(env) if entry.name == name), None)
    if found is None:
        missing = str(Sentence("note.not_kept", name=name))
        note(missing)
        if json_output:
            emit_error("not_kept", missing)
        return 1
    asked = not yes and sys.stdin.isatty()
    if asked and not typer.confirm(f"Delete {found.path} ({size(found.nbytes)})?", err=True):
        note(Sentence("note.nothing_deleted"))
        if json_output:
            emit_json({"ok": False, "name": name, "path": str(found.path), "bytes": 0})
        return 1
    entry = delete_cached(name, env)
    if json_output:
        emit_json({"ok": True, "name": entry.name, "path": str(entry.path), "bytes": entry.nbytes})
    else:
        say(f"Deleted {entry.path} ({size(entry.nbytes)}).")
    return 0


def _environment() -> Mapping[str, str]:
    """Where to look: the configuration file may name another cache folder."""
    return with_cache(options.read_settings({}), os.environ)
