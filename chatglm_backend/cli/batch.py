"""``batch``: a file of requests or prompts, answered into a file."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chatglm_backend.cli import options
from chatglm_backend.cli.output import INTERRUPTED, emit_json, guarded, note, say
from chatglm_backend.cli.progress import StatusLine, drawn
from chatglm_backend.cli.session import open_service
from chatglm_backend.errors import BatchRefused
from chatglm_backend.sampling import sampling_fields
from chatglm_backend.sentences import Sentence
from chatglm_backend.settings import Settings

if TYPE_CHECKING:
    from chatglm_backend.batch.runner import BatchRun, Progress

_ROWS, _WAITING = 16, 4
_POLL_S = 0.1
_NO_LIMIT = 100_000


@guarded
@options.with_settings("model", *sampling_fields(), *options.ENGINE, "max_running", "log_level")
def batch(
    *,
    source: Annotated[Path, typer.Argument(metavar="IN", help="OpenAI's lines (.jsonl), or prompts (.txt, .csv).")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="Where the answers go, a line each (.jsonl).")],
    template: Annotated[
        str, typer.Option("--template", help="The prompt, with columns in braces; of a .txt file {text} is the line.")
    ] = "",
    json_output: options.Json = False,
    settings: Settings,
) -> int:
    """Answer a file of requests, many at a time, as the endpoint would.

    Answers are written as they are ready, each at once: whatever ends the program, the same command
    goes on where it was. The exit code is 1 when a line could not be answered.

    \b
    Examples:
      python -m chatglm_backend batch requests.jsonl answers.jsonl
      python -m chatglm_backend batch words.csv answers.jsonl --template "翻译：{text}" --n-predict 64
    """  # noqa: D301
    from chatglm_backend.api.answering import Answering
    from chatglm_backend.batch.inputs import read_lines
    from chatglm_backend.batch.journal import Journal
    from chatglm_backend.batch.runner import BatchRun, progress_of

    if source.resolve() == target.resolve():
        raise BatchRefused(path=target, reason=Sentence("batch.same_file"))
    lines = read_lines(source, template)
    # The limits of a shared page are not meant for whoever has the machine.
    own = replace(settings, visitor_limit=_NO_LIMIT, queue_limit=_NO_LIMIT, request_timeout=0.0)
    with Journal(target) as journal:
        if journal.torn:
            note(Sentence("batch.torn", path=target))
        progress = progress_of(len(lines), journal.entries, len(journal.entries))
        interrupted = False
        if journal.left(lines):  # else no model is needed, and what is wrong is told before one is loaded
            with open_service(own) as (service, _):
                at_once = (own.fixed("max_running") or _ROWS) + _WAITING
                run = BatchRun(Answering(service, own), lines, journal, visitor="batch", at_once=at_once)
                interrupted = _watch(run)
            progress = run.progress()
            if run.error is not None:
                raise run.error
    if interrupted:
        note(Sentence("batch.go_on", done=progress.done, total=progress.total))
        return INTERRUPTED
    if json_output:
        emit_json({"ok": not progress.failed, **asdict(progress), "tok_s": progress.rate})
    else:
        say(str(progress.summary))
    return 1 if progress.failed else 0


def _watch(run: BatchRun) -> bool:
    """Show how far it is until the end; whether Ctrl-C ended it."""
    with StatusLine() as status:
        try:
            while not run.wait(_POLL_S):
                progress = run.progress()
                status.show("batch", lambda _, now=progress: _drawn(now))  # type: ignore[misc]
        except KeyboardInterrupt:
            run.stop()
            run.wait()
            return True
    return False


def _drawn(progress: Progress) -> str:
    return f"{drawn(progress.done, progress.total)} {progress.line}"
