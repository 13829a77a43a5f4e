"""``convert``: write a low-bit checkpoint into a folder of the user's choice."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from chatglm_backend.cli import options
from chatglm_backend.cli.output import emit_json, guarded, note, say
from chatglm_backend.cli.progress import LoadBar
from chatglm_backend.core import monotonic_clock
from chatglm_backend.errors import CheckpointError, ConfigError
from chatglm_backend.sentences import Sentence
from chatglm_backend.settings import Settings
from chatglm_backend.units import seconds, size

if TYPE_CHECKING:
    from chatglm_backend.adapters.merge import LoraMerge
    from chatglm_backend.checkpoint.progress import Progress
    from chatglm_backend.checkpoint.source import CheckpointFolder


@guarded
@options.with_settings("model", "family", "revision", "threads")
def convert_command(
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the low-bit checkpoint.")],
    adapter: Annotated[Optional[str], typer.Option("--adapter", help="LoRA fine-tune to merge.")] = None,  # noqa: UP045
    merge: Annotated[bool, typer.Option("--merge", help="Add the fine-tune to the weights.")] = False,
    json_output: options.Json = False,
    settings: Settings,
) -> None:
    """Convert a model to INT4 in a folder that can be copied to other machines.

    generate, chat and the page convert on their own; this is for keeping or moving the result.
    Never more than a slice of one tensor is in memory at full precision.

    \b
    Example:
      python -m chatglm_backend convert --model ./chatglm-6b --out ./chatglm-6b-low-bit
      python -m chatglm_backend generate --model ./chatglm-6b-low-bit
    A fine-tune of high rank costs speed beside its base; merged it costs none:
      python -m chatglm_backend convert --model ./chatglm3-6b --adapter ./my-lora --merge --out ./my-model
    """  # noqa: D301
    if settings.model is None:
        raise ConfigError(name="model", value=Sentence("value.left_out"), reason=Sentence("use.model"))
    if merge != (adapter is not None):
        raise ConfigError(name="merge", value=adapter or Sentence("value.left_out"), reason=Sentence("use.merge"))
    from chatglm_backend.checkpoint.convert import ConvertOptions, convert
    from chatglm_backend.checkpoint.manifest import read_manifest
    from chatglm_backend.checkpoint.places import expanded
    from chatglm_backend.checkpoint.resolve import resolve

    began = monotonic_clock()
    with LoadBar() as bar:
        source = resolve(
            settings.model,
            allow_download=True,
            family=settings.fixed("family"),
            revision=settings.revision,
            progress=bar,
        )
        bar.clear()
        if source.assumed:
            note(Sentence("note.found", name=source.name, reason=source.reason))
        _tell_of_tokenizer(source)
        how = ConvertOptions(threads=settings.fixed("threads"))
        change = _open_merge(adapter, source, bar) if adapter else None
        target = convert(source, expanded(out), merge=change, progress=bar, options=how)
    took = monotonic_clock() - began
    manifest = read_manifest(target)
    if json_output:
        document = {"ok": True, "model": manifest.name, "family": manifest.family, "path": str(target.resolve())}
        emit_json(
            {**document, "merged": manifest.merged, "bytes": manifest.nbytes, "seconds": took, "reason": source.reason}
        )
        return
    say(str(target.resolve()))
    note(
        Sentence(
            "note.converted", name=manifest.name, family=manifest.family, size=size(manifest.nbytes), time=seconds(took)
        )
    )


def _open_merge(adapter: str, source: CheckpointFolder, progress: Progress) -> LoraMerge:
    from chatglm_backend.adapters.find import find_adapter
    from chatglm_backend.adapters.folder import inspect_adapter
    from chatglm_backend.adapters.merge import open_merge
    from chatglm_backend.service.adapters import named_source

    name, place = named_source(adapter)
    return open_merge(inspect_adapter(find_adapter(place, progress=progress), name), source)


def _tell_of_tokenizer(source: CheckpointFolder) -> None:
    """Weights alone are worth converting, but what comes out cannot answer anybody."""
    from chatglm_backend.checkpoint.prepare import matching_tokenizer

    if source.format == "lowbit":
        return
    try:
        matching_tokenizer(source.path, source.config)
    except CheckpointError as error:
        note(Sentence("note.no_tokenizer", problem=error))
