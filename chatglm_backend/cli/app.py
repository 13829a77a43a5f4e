"""All commands together, and what surrounds each: streams, exit codes, the quiet end of a pipe."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

import typer

from chatglm_backend.cli import benchmark, cache, chat, convert, doctor, download, generate, verify
from chatglm_backend.cli.output import close_streams, prepare_streams
from chatglm_backend.network import quiet_environment

__all__ = ["build_app", "main"]

PROGRAM = "python -m chatglm_backend"

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
    try:
        build_app()(args=None if argv is None else list(argv), prog_name=PROGRAM)
    except SystemExit as end:
        code = end.code
    else:
        code = 0
    close_streams()
    return code if isinstance(code, int) else int(code is not None)
