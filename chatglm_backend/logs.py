"""Log lines as text or JSON, on standard error, that hold nothing anybody wrote to the model.

Whoever logs gives facts of his own as ``extra={"facts": {...}}``. An exception is logged by its type and the
places it came through, never by its message, which may quote a prompt. Of other packages' warnings only the place is
kept, and of what they print only that they did. Standard library only.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from typing import Any, TextIO

from chatglm_backend.settings import Settings

_log = logging.getLogger(__name__)

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

    def message(self, record: logging.LogRecord) -> str:
        """What was logged; of other packages' only what quotes nothing: asyncio adds exceptions, warnings values."""
        text = record.getMessage()
        if self._prompts or record.name == _OURS or record.name.startswith(f"{_OURS}."):
            return text
        if text.startswith("Traceback ("):  # uvicorn hands on a failed start as text
            lines = [line.strip() for line in text.strip().split("\n")]
            places = [line for line in lines if line.startswith('File "')]
            return "; ".join((lines[-1].partition(":")[0], *places[-12:]))
        first = text.strip().split("\n", 1)[0]
        return ": ".join(first.split(": ", 2)[:2]) if record.name == "py.warnings" else first

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
            "message": self.message(record),
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
        return f"{time} {record.levelname} {record.name}: {self.message(record)}{facts}{places}"


class Printed(io.TextIOBase):
    """Stands in for standard output or error, where Gradio prints exceptions with all that their messages quote.

    An exception that is printed is logged like any other; of other texts only that there was one.
    """

    def __init__(self, stream: TextIO, *, prompts: bool) -> None:
        super().__init__()
        self._stream, self._prompts = stream, prompts
        self._told: tuple[int, int] | None = None
        self._busy = threading.local()

    def write(self, text: str) -> int:
        """Log it instead. What logging itself prints, because it cannot write, is lost."""
        if text.strip() and not getattr(self._busy, "now", False):
            self._busy.now = True
            try:
                self._log(text)
            finally:
                self._busy.now = False
        return len(text)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """As the stream behind it."""
        return self._stream.encoding

    def writable(self) -> bool:
        """Always."""
        return True

    def isatty(self) -> bool:
        """As the stream behind it."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """As the stream behind it."""
        return self._stream.fileno()

    def _log(self, text: str) -> None:
        error = sys.exc_info()[1]
        if error is None:
            facts = {"text": text} if self._prompts else {"characters": len(text)}
            _log.warning("something was printed", extra={"facts": facts})
            return
        name = (id(error), id(error.__traceback__))
        if name != self._told:  # a traceback is printed line by line
            self._told = name
            _log.error("an exception was printed", exc_info=error)


@contextlib.contextmanager
def catch_prints(settings: Settings) -> Iterator[None]:
    """Meanwhile nothing that is printed, and no thread's last exception, is written as it is."""
    before = sys.stdout, sys.stderr, threading.excepthook
    sys.stdout, sys.stderr = (Printed(stream, prompts=settings.log_prompts) for stream in before[:2])
    threading.excepthook = _thread_failed
    try:
        yield
    finally:
        sys.stdout, sys.stderr, threading.excepthook = before


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    if failed.exc_value is not None and failed.exc_type is not SystemExit:
        _log.error("a thread failed", exc_info=failed.exc_value)


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
