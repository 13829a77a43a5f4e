"""``download``: fetch a hub model once; running it again resumes."""

from __future__ import annotations

from chatglm_backend.cli import options
from chatglm_backend.cli.output import emit_json, guarded, note, say
from chatglm_backend.cli.progress import LoadBar
from chatglm_backend.sentences import Sentence
from chatglm_backend.settings import Settings
from chatglm_backend.units import size


@guarded
@options.with_settings("model", "revision")
def download(*, settings: Settings, json_output: options.Json = False) -> None:
    """Fetch a model's config, tokenizer and weights into the hub's cache.

    --model takes a hub id, or a short name of the table in docs/models.md, which says how large each is; doctor
    and the page's Model tab list them too. A stopped download goes on where it was.
    HF_ENDPOINT names a mirror, HF_HOME another place.

    \b
    Examples:
      python -m chatglm_backend download --model THUDM/chatglm-6b
      HF_ENDPOINT=https://mirror.example python -m chatglm_backend download --model chatglm3-6b
    """  # noqa: D301
    from chatglm_backend.checkpoint.default import DEFAULT_MODEL
    from chatglm_backend.checkpoint.resolve import fetch

    wanted = settings.model or DEFAULT_MODEL
    with LoadBar() as bar:
        path = fetch(wanted, revision=settings.revision, progress=bar)
    nbytes = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    if json_output:
        emit_json({"ok": True, "model": wanted, "path": str(path), "bytes": nbytes})
        return
    say(str(path))
    note(Sentence("note.downloaded", model=wanted, size=size(nbytes)))
