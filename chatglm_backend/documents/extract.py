"""A file's bytes into the text of its pages: what runs in the process that :mod:`.reading` starts and limits.

By what is in the file, not by its name. Prints one JSON object: ``pages`` and ``numbered``, or ``problem``.
"""

from __future__ import annotations

import codecs
import io
import json
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

MEMORY_BYTES, SECONDS = 1 << 30, 30
_UNPACKED_BYTES, _CHARACTERS = 200 << 20, 4_000_000
_OLD_OFFICE = b"\xd0\xcf\x11\xe0"
_BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


class Unreadable(Exception):
    """``args[0]`` is the end of a sentence's code: ``document.…``."""


def pages_of(data: bytes) -> tuple[list[str], bool]:
    """The text of each page, and whether these are pages with numbers. Raises Unreadable."""
    if not data.strip():
        raise Unreadable("empty")
    if b"%PDF-" in data[:1024]:
        with _library():
            return _pdf(data), True
    if data.startswith(b"PK\x03\x04"):
        with _library():
            pages = _docx(data)
        return pages, len(pages) > 1
    if data.startswith(_OLD_OFFICE):
        raise Unreadable("old_office")
    return [_plain(data)], False


@contextmanager
def _library() -> Iterator[None]:
    """Whatever a library raises for a damaged file is one problem."""
    try:
        yield
    except (Unreadable, MemoryError, ImportError):
        raise
    except Exception as error:
        raise Unreadable("damaged") from error


def _plain(data: bytes) -> str:
    """Text in UTF-8, UTF-16 or GB18030. Nothing else is guessed: a wrong guess is nonsense that looks like text."""
    for mark, encoding in _BOMS.items():
        if data.startswith(mark):
            return _decoded(data, encoding)
    if b"\0" in data:
        even, odd = data[::2].count(0), data[1::2].count(0)
        if max(even, odd) * 4 < len(data) or min(even, odd) * 20 > len(data):
            raise Unreadable("binary")
        return _decoded(data, "utf-16-be" if even > odd else "utf-16-le")
    with suppress(UnicodeDecodeError):
        return data.decode("utf-8")
    text = _decoded(data, "gb18030", otherwise="binary")
    foreign = [character for character in text if ord(character) > 127]
    # Letters of other alphabets with accents also make valid GB18030, but of rare characters.
    if len("".join(foreign).encode("gb2312", "ignore")) < 1.6 * len(foreign):
        raise Unreadable("binary")
    return text


def _decoded(data: bytes, encoding: str, otherwise: str = "damaged") -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        raise Unreadable(otherwise) from None


def _pdf(data: bytes) -> list[str]:
    import pypdf
    from pypdf.errors import DependencyError, FileNotDecryptedError

    try:
        reader = pypdf.PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise Unreadable("encrypted")
        pages = [page.extract_text() for page in reader.pages]
    except (DependencyError, FileNotDecryptedError):
        raise Unreadable("encrypted") from None
    if pages and not any(page.strip() for page in pages):
        raise Unreadable("scanned")
    return pages


def _docx(data: bytes) -> list[str]:
    """Pages as Word last broke them; a file that Word never showed is one page."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if "word/document.xml" not in archive.namelist():
            raise Unreadable("binary")
        if sum(member.file_size for member in archive.infolist()) > _UNPACKED_BYTES:
            raise Unreadable("bomb")
    import docx
    from docx.table import Table

    pages: list[list[str]] = [[]]
    for block in docx.Document(io.BytesIO(data)).iter_inner_content():
        if isinstance(block, Table):
            pages[-1] += [" | ".join(cell.text for cell in row.cells) for row in block.rows]
            continue
        breaks = block.rendered_page_breaks
        if breaks and breaks[0].preceding_paragraph_fragment is None:
            pages.append([])
            breaks = breaks[1:]
        pages[-1].append(block.text)
        pages += [[] for _ in breaks]
    return ["\n".join(lines) for lines in pages]


def _limit() -> None:
    """Bound this process, where the system can: memory, time, and no file is written."""
    with suppress(ImportError):
        import resource

        for kind, most in (
            (resource.RLIMIT_AS, MEMORY_BYTES),
            (resource.RLIMIT_CPU, SECONDS),
            (resource.RLIMIT_FSIZE, 0),
        ):
            resource.setrlimit(kind, (most, most))


def main() -> None:
    """From standard input to standard output."""
    _limit()
    try:
        pages, numbered = pages_of(sys.stdin.buffer.read())
        if not any(page.strip() for page in pages):
            raise Unreadable("empty")
        if sum(map(len, pages)) > _CHARACTERS:
            raise Unreadable("long")
        answer: dict[str, object] = {"pages": pages, "numbered": numbered}
    except Unreadable as error:
        answer = {"problem": error.args[0]}
    except MemoryError:
        answer = {"problem": "memory"}
    except ImportError:
        answer = {"problem": "library"}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
