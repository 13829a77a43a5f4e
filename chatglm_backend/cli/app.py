"""All commands together, and what surrounds each: streams, exit codes, the quiet end of a pipe."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

import typer

from chatglm_backend.cli import batch, benchmark, cache, chat, convert, doctor, download, generate, verify
from chatglm_backend.cli.output import close_streams, emit_error, prepare_streams
from chatglm_backend.network import quiet_environment

PROGRAM = "python -m chatglm_backend"

# typer has click's exceptions in a copy of its own or from click itself, depending on its version.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]

_HELP = """ChatGLM-6B, ChatGLM2-6B and ChatGLM3-6B in INT4 on an ordinary CPU.

\b
Ask one question:     python -m chatglm_backend generate --prompt "What is AI?"
Talk:                 python -m chatglm_backend chat
Fetch ChatGLM-6B:     python -m chatglm_backend download --model THUDM/chatglm-6b
Look at this machine: python -m chatglm_backend doctor

Every setting can also stand in the environment (CHATGLM_MODEL, CHATGLM_THREADS, ...) or in
the configuration file that doctor names. Exit codes: 0 fine, 1 an error, 2 wrong usage."""


def build_app() -> typer.Typer:
    """The application with all its commands."""
    app = typer.Typer(
        help=_HELP, no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
    )
    app.command("generate")(generate.generate)
    app.command("chat")(chat.chat)
    app.command("batch")(batch.batch)
    app.command("download")(download.download)
    app.command("convert")(convert.convert_command)
    app.command("verify")(verify.verify)
    app.command("benchmark")(benchmark.benchmark)
    app.command("doctor")(doctor.doctor)
    app.add_typer(cache.build_cache_app(), name="cache")
    return app


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    prepare_streams()
    quiet_environment(os.environ)
    logging.basicConfig(level=logging.CRITICAL, format="%(levelname)s %(name)s: %(message)s")
    code = _run(list(sys.argv[1:] if argv is None else argv))
    close_streams()
    return code


def _run(arguments: list[str]) -> int:
    """Run one command; wrong usage and a question answered with Ctrl-C end with JSON too, where it was asked for."""
    try:
        code = typer.main.get_command(build_app()).main(args=arguments, prog_name=PROGRAM, standalone_mode=False)
    except _UsageError as error:
        error.show()  # type: ignore[attr-defined]
        if "--json" in arguments:
            emit_error("usage", error.format_message())  # type: ignore[attr-defined]
        return 2
    except typer.Abort:
        if "--json" in arguments:
            emit_error("interrupted", "Stopped.")
        return 1
    return code if isinstance(code, int) else 0
