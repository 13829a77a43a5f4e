"""Files in messages, as OpenAI has them: read from the request, and put before their questions."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from chatglm_backend.core import Message
from chatglm_backend.documents.prompt import Asked, place
from chatglm_backend.documents.reading import DocumentReader


@dataclass(frozen=True, slots=True)
class File:
    """A file as it came."""

    name: str
    data: bytes

    @property
    def coded_bytes(self) -> int:
        """What it took of the request."""
        return len(self.data) * 4 // 3


def read_part(part: Mapping[str, object]) -> File:
    """``{"type": "file", "file": {"filename", "file_data"}}``. Raises ValueError."""
    given = part.get("file")
    if not isinstance(given, Mapping):
        raise ValueError("a file part needs file, an object with filename and file_data")
    if given.get("file_id") is not None:
        raise ValueError("file_id is not offered: nothing is uploaded here; send the file itself as file_data")
    name, data = given.get("filename") or "", given.get("file_data")
    if not isinstance(name, str) or not isinstance(data, str):
        raise ValueError("filename and file_data of a file must be texts")
    try:
        # OpenAI's form is a data URL; the base64 alone is taken too.
        return File(name, base64.b64decode(data.rpartition(",")[2], validate=True))
    except (binascii.Error, ValueError):
        raise ValueError("file_data must be base64, as in data:application/pdf;base64,…") from None


def with_files(
    messages: Sequence[Message],
    files: Sequence[Sequence[File]],
    reader: DocumentReader,
    count: Callable[[tuple[Message, ...]], int],
    limit: int,
    reserve: int,
) -> tuple[Message, ...]:
    """The conversation with what the files say; ``files`` are those of each user's message, in order.

    See :func:`~chatglm_backend.documents.prompt.place`. Raises DocumentRefused and ContextLimitExceeded.
    """
    read = iter([tuple(reader.read(one.name, one.data) for one in several) for several in files])
    asked = [Asked(one, next(read, ()) if one.role == "user" else ()) for one in messages]
    return place(asked, count, limit, reserve).messages
