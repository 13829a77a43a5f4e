"""What goes to which stream: results to stdout, everything else to stderr; errors become one sentence.

With ``--json`` stdout holds exactly one JSON document, also when the command fails.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TextIO

import typer

from chatglm_backend.errors import ChatGLMError, ConfigError, InvalidRequest
from chatglm_backend.installed import missing_sentence
from chatglm_backend.sentences import Sentence

INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells expect it."""

P = ParamSpec("P")


def prepare_streams() -> None:
    """Write UTF-8 whatever the console's code page is; what cannot be written is replaced, never an error.

    A standard input that the caller closed is an empty one.
    """
    if sys.stdin is None:
        sys.stdin = Path(os.devnull).open(encoding="utf-8")  # noqa: SIM115 - open until the end
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(encoding="utf-8", errors="replace")


def close_streams() -> None:
    """Flush; a reader that has gone (``| head``) is no error."""
    _flush(sys.stdout)
    _flush(sys.stderr)


def read_input() -> str:
    """All of standard input, without the line break that ends it."""
    return sys.stdin.read().removesuffix("\n")


def say(text: str, *, end: str = "\n") -> None:
    """Write a result to stdout, at once; nowhere where the caller closed it."""
    if sys.stdout is not None:
        sys.stdout.write(text + end)
        sys.stdout.flush()


def note(text: object) -> None:
    """Write a line for the person at the terminal to stderr."""
    with contextlib.suppress(OSError, AttributeError):  # full, gone, or closed from the start
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def emit_json(document: dict[str, Any]) -> None:
    """Write the one JSON document."""
    say(json.dumps(document, ensure_ascii=False, indent=2, default=str))


def emit_error(code: str, message: str) -> None:
    """Write the one JSON document of a command that failed, where anything can still be written."""
    with contextlib.suppress(OSError):
        emit_json({"ok": False, "error": {"code": code, "message": message}})


def guarded(command: Callable[P, object]) -> Callable[P, None]:
    """Turn a command's errors into one sentence and an exit code; its own return value, if any, is the code."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        as_json = bool(kwargs.get("json_output"))
        try:
            code = command(*args, **kwargs)
        except typer.Exit:
            raise
        except BrokenPipeError as error:
            _give_up_on(sys.stdout)
            raise typer.Exit(0) from error
        except (Exception, KeyboardInterrupt) as error:
            kind, sentence, code = _told(error)
            if code is not None:
                note(sentence)
            if as_json:
                emit_error(kind, sentence)
            if code is None:
                raise
            raise typer.Exit(code) from error
        raise typer.Exit(code if isinstance(code, int) else 0)

    return run


def _told(error: BaseException) -> tuple[str, str, int | None]:
    """What happened: code, sentence and exit code, ``None`` for a mistake of ours, whose traceback is wanted."""
    if isinstance(error, ChatGLMError):
        return error.code, str(error), 2 if isinstance(error, (ConfigError, InvalidRequest)) else 1
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", str(Sentence("note.stopped")), INTERRUPTED
    if isinstance(error, OSError):
        return "file", file_sentence(error), 1
    if isinstance(error, ModuleNotFoundError) and (sentence := missing_sentence(error)):
        return "not_installed", sentence, 1
    return "unexpected", f"{type(error).__name__}: {error}", None


def file_sentence(error: OSError) -> str:
    """What the system did not allow, as a sentence."""
    path = error.filename or Sentence("value.output")
    return str(Sentence("file.unusable", path=path, problem=error.strerror or str(error)))


def _flush(stream: TextIO | None) -> None:
    if stream is None:
        return
    try:
        stream.flush()
    except OSError:
        _give_up_on(stream)
    except ValueError:  # closed already
        return


def _give_up_on(stream: TextIO) -> None:
    """Send what is left nowhere, so that the interpreter's own flush at exit stays quiet."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
