"""Files in messages, as OpenAI has them: read from the request, and put before their questions."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from chatglm_backend.core import Message
from chatglm_backend.documents.prompt import Asked, place
from chatglm_backend.documents.reading import DocumentReader
from chatglm_backend.errors import DocumentRefused
from chatglm_backend.sentences import Sentence

_AT_ONCE = 1 << 20  # characters; others have their turn between


@dataclass(frozen=True, slots=True)
class File:
    """A file as it came, in base64."""

    name: str
    coded: str

    def data(self) -> bytes:
        """What is in it; takes its time where it is large. Raises DocumentRefused."""
        coded = self.coded.rpartition(",")[2]  # OpenAI's form is a data URL; the base64 alone is taken too
        try:
            if 0 <= coded.find("=") < len(coded) - 2:
                raise ValueError("an end in the middle")
            parts = range(0, len(coded), _AT_ONCE)
            return b"".join(base64.b64decode(coded[at : at + _AT_ONCE], validate=True) for at in parts)
        except ValueError:
            raise DocumentRefused(name=self.name[:200], reason=Sentence("document.not_base64")) from None


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
    return File(name, data)


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
    read = iter([tuple(reader.read(one.name, one.data()) for one in several) for several in files])
    asked = [Asked(one, next(read, ()) if one.role == "user" else ()) for one in messages]
    return place(asked, count, limit, reserve).messages
