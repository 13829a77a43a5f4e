"""Reading a document in a process of its own, which may neither take long nor much memory, nor write anything."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatglm_backend.core import CancelToken, clean_text
from chatglm_backend.documents.extract import SECONDS
from chatglm_backend.errors import DocumentRefused
from chatglm_backend.sentences import Sentence

_ROOT = Path(__file__).resolve().parents[2]
_NAME_LENGTH = 120
_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Document:
    """What a file says. ``numbered``: its pages have numbers, counted from 1.

    ``tokens`` is how many a model makes of it, 0 where nobody has counted.
    """

    name: str
    pages: tuple[str, ...]
    numbered: bool = False
    tokens: int = 0

    @property
    def id(self) -> str:
        """The same for the same file."""
        return hashlib.sha256("\f".join((self.name, *self.pages)).encode("utf-8", "replace")).hexdigest()[:16]


class DocumentReader:
    """Thread-safe. Reads files of at most ``max_bytes``; how many at a time is for the caller to say."""

    def __init__(self, max_bytes: int, *, seconds: float = SECONDS) -> None:
        self._max_bytes = max_bytes
        self._seconds = seconds

    def read_file(self, path: Path) -> Document:
        """The document at ``path``. Raises DocumentRefused."""
        try:
            with path.open("rb") as file:
                data = file.read(self._max_bytes + 1)
        except OSError as error:
            raise DocumentRefused(name=path, reason=error.strerror or Sentence("file.unreadable")) from error
        return self.read(path.name, data)

    def read(self, name: str, data: bytes, cancel: CancelToken | None = None) -> Document:
        """The document in ``data``; of ``name`` the last part is shown. Raises DocumentRefused, also on ``cancel``."""
        name = document_name(name)
        if len(data) > self._max_bytes:
            raise DocumentRefused(name=name, reason=Sentence("document.large", limit=self._max_bytes >> 20))
        found = self._extracted(data, cancel or CancelToken())
        if "problem" in found:
            raise DocumentRefused(name=name, reason=Sentence(f"document.{found['problem']}"))
        pages = tuple(clean_text(page.replace("\r\n", "\n")).strip() for page in found["pages"])
        return Document(name, pages, found["numbered"])

    def _extracted(self, data: bytes, cancel: CancelToken) -> dict[str, Any]:
        command = [sys.executable, "-X", "utf8", "-m", "chatglm_backend.documents.extract"]
        late = time.monotonic() + self._seconds
        with subprocess.Popen(  # noqa: S603 - our own module
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=_ROOT
        ) as process:
            output = _said(process, data, min(_POLL_S, self._seconds))
            while output is None and not cancel.cancelled and time.monotonic() < late:
                output = _said(process, None, _POLL_S)
            if output is None:
                process.kill()
                return {"problem": "slow"}
        try:
            return dict(json.loads(output))
        except ValueError:  # it was killed, or died
            return {"problem": "died"}


def _said(process: subprocess.Popen[bytes], data: bytes | None, seconds: float) -> bytes | None:
    """What it has said once it has ended; ``None`` before. ``data`` is handed over with the first call only."""
    try:
        return process.communicate(data, timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        return None


def document_name(name: str) -> str:
    """The last part of a path, in one line."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return " ".join(clean_text(last).splitlines())[:_NAME_LENGTH] or "document"
