"""Log lines as text or JSON, on standard error, that hold nothing anybody wrote to the model.

Whoever logs gives facts of his own as ``extra={"facts": {...}}``. An exception is logged by its type and the
places it came through, never by its message, which may quote a prompt. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import traceback
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any, TextIO

from chatglm_backend.settings import Settings

__all__ = ["JsonLines", "Say", "TextLines", "start_logging"]

Say = Callable[[str], None]
"""Tells the person who started the program one line."""

_OURS = "chatglm_backend"


class _Lines(logging.Formatter):
    """``prompts`` lets the messages of exceptions through."""

    def __init__(self, *, prompts: bool) -> None:
        super().__init__()
        self._prompts = prompts

    def facts(self, record: logging.LogRecord) -> Mapping[str, Any]:
        """What was logged beside the message."""
        found = getattr(record, "facts", None)
        return found if isinstance(found, Mapping) else {}

    def error(self, record: logging.LogRecord) -> dict[str, Any]:
        """The exception's type and places."""
        if not record.exc_info or record.exc_info[0] is None:
            return {}
        kind, value, trace = record.exc_info
        places = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(trace)]
        found: dict[str, Any] = {"error": kind.__name__, "where": places[-12:]}
        if self._prompts:
            found["error_message"] = str(value)
        return found


class JsonLines(_Lines):
    """One JSON object a line: ``time`` (UTC), ``level``, ``logger``, ``message``, then the facts."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self.error(record),
            **self.facts(record),
        }
        return json.dumps(line, ensure_ascii=False, default=str)


class TextLines(_Lines):
    """Time, level, logger, message, facts as ``name=value``; an exception's places on lines of their own."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        time = datetime.fromtimestamp(record.created, timezone.utc).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        error = self.error(record)
        places = "".join(f"\n    {place}" for place in error.pop("where", ()))
        facts = "".join(f" {name}={value!r}" for name, value in {**error, **self.facts(record)}.items())
        return f"{time} {record.levelname} {record.name}: {record.getMessage()}{facts}{places}"


def start_logging(settings: Settings, stream: TextIO | None = None) -> Say:
    """Send every logger's lines to ``stream`` (standard error) as the settings say; returns how to tell people things.

    In JSON those lines are JSON as well, so that whoever collects them can read them all.
    """
    stream = stream or sys.stderr
    lines = JsonLines if settings.log_format == "json" else TextLines
    handler = logging.StreamHandler(stream)
    handler.setFormatter(lines(prompts=settings.log_prompts))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    level = settings.log_level.upper()
    root.setLevel("WARNING" if level in ("DEBUG", "INFO") else level)  # other people's chatter is not asked for
    logging.getLogger(_OURS).setLevel(level)
    logging.captureWarnings(capture=True)
    if settings.log_format == "json":
        return lambda line: _notice(handler, line)

    def say(line: str) -> None:
        with contextlib.suppress(BrokenPipeError):
            stream.write(f"{line}\n")
            stream.flush()

    return say


def _notice(handler: logging.Handler, line: str) -> None:
    record = logging.LogRecord(_OURS, logging.INFO, __file__, 0, line, None, None)
    handler.handle(record)
