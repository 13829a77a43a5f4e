"""Reading a document in a process of its own, which may neither take long nor much memory, nor write anything."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatglm_backend.core import clean_text
from chatglm_backend.documents.extract import SECONDS
from chatglm_backend.errors import DocumentRefused
from chatglm_backend.sentences import Sentence

_ROOT = Path(__file__).resolve().parents[2]
_NAME_LENGTH = 120


@dataclass(frozen=True, slots=True)
class Document:
    """What a file says. ``numbered``: its pages have numbers, counted from 1."""

    name: str
    pages: tuple[str, ...]
    numbered: bool = False


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

    def read(self, name: str, data: bytes) -> Document:
        """The document in ``data``; of ``name`` the last part is shown. Raises DocumentRefused."""
        name = clean_text(name.replace("\\", "/").rpartition("/")[2]).replace("\n", " ")[:_NAME_LENGTH] or "document"
        if len(data) > self._max_bytes:
            raise DocumentRefused(name=name, reason=Sentence("document.large", limit=self._max_bytes >> 20))
        found = self._extracted(data)
        if "problem" in found:
            raise DocumentRefused(name=name, reason=Sentence(f"document.{found['problem']}"))
        pages = tuple(clean_text(page.replace("\r\n", "\n")).strip() for page in found["pages"])
        return Document(name, pages, found["numbered"])

    def _extracted(self, data: bytes) -> dict[str, Any]:
        command = [sys.executable, "-X", "utf8", "-m", "chatglm_backend.documents.extract"]
        try:
            done = subprocess.run(  # noqa: S603 - our own module
                command, input=data, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=_ROOT,
                timeout=self._seconds, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return {"problem": "slow"}
        try:
            return dict(json.loads(done.stdout))
        except ValueError:  # it was killed, or died
            return {"problem": "died"}
