"""One id in, the text that is certain out.

This is the only decoder: decoding all ids at once is the same work done in a row, so what
was streamed always equals the whole. Follows sentencepiece's own rules for byte pieces,
unknown pieces and the first space; the tests compare the two.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from typing import Final, Literal, Protocol

import sentencepiece

_SPACE: Final = "\u2581"
_REPLACEMENT: Final = "\ufffd"
_LONGEST_BLANK: Final = 80
_TAG: Final = re.compile(r"<n>|<\|tab\|>|<\|blank_([2-9]|[1-7][0-9]|80)\|>")
_TAGS: Final = ("<n>", "<|tab|>", *(f"<|blank_{n}|>" for n in range(2, _LONGEST_BLANK + 1)))
_LONGEST_TAG: Final = max(map(len, _TAGS))

LeadingSpace = Literal["keep", "drop one", "drop all"]


class Pieces(Protocol):
    """What each piece of a vocabulary decodes to; ``size`` is one more than the highest."""

    size: int
    unknown: str
    leading: LeadingSpace

    def is_control(self, piece: int) -> bool:
        """Whether the piece decodes to nothing."""

    def byte(self, piece: int) -> bytes | None:
        """Return the bytes that a piece of bytes stands for, else ``None``."""

    def text(self, piece: int) -> str:
        """Return the raw text of a piece, spaces still written as U+2581."""

    def is_unknown(self, piece: int) -> bool:
        """Whether the piece stands for what the vocabulary cannot spell."""


class PieceTable:
    """What each piece of a sentencepiece model decodes to."""

    def __init__(self, processor: sentencepiece.SentencePieceProcessor) -> None:
        self._processor = processor
        self.size: int = processor.get_piece_size()
        self.unknown: str = processor.decode([processor.unk_id()]) if processor.unk_id() >= 0 else ""
        self.leading: LeadingSpace = _leading_space(processor)

    def is_control(self, piece: int) -> bool:
        """Whether the piece decodes to nothing."""
        return bool(self._processor.is_control(piece))

    def byte(self, piece: int) -> bytes | None:
        """Return the byte that a byte piece stands for, else ``None``."""
        if not self._processor.is_byte(piece):
            return None
        return bytes.fromhex(self._processor.id_to_piece(piece)[3:5])

    def text(self, piece: int) -> str:
        """Return the raw text of a piece, spaces still written as U+2581."""
        return str(self._processor.id_to_piece(piece))

    def is_unknown(self, piece: int) -> bool:
        """Whether the piece stands for what the vocabulary cannot spell."""
        return bool(self._processor.is_unknown(piece))


class StreamingDecoder:
    """Turns ids into text as they come; the returned texts concatenate to the whole.

    Each ``add`` costs the length of its piece, not of the answer.
    """

    def __init__(self, pieces: Pieces, *, shift: int = 0, whitespace_tags: bool = False) -> None:
        self._pieces = pieces
        self._shift = shift
        self._tags = whitespace_tags
        self._at_start = pieces.leading != "keep"
        self._bytes = b""
        self._held = ""

    def add(self, token_id: int) -> str:
        """Take the next id and return the text that no later id can change; often empty."""
        piece = token_id - self._shift
        if not 0 <= piece < self._pieces.size:
            return ""
        spelled = self._pieces.byte(piece)
        if spelled is not None:
            self._bytes += spelled
            return self._release(self._characters(final=False))
        characters = self._characters(final=True)
        return self._release(characters + self._surface(piece))

    def finish(self) -> str:
        """Return what is still held back; an incomplete character becomes U+FFFD."""
        text = self._release(self._characters(final=True)) + self._held
        self._held = ""
        return text

    def _surface(self, piece: int) -> str:
        pieces = self._pieces
        if pieces.is_control(piece):
            return ""
        if pieces.is_unknown(piece):
            self._at_start = False
            return pieces.unknown
        text = pieces.text(piece)
        if self._at_start and text:
            dropped = text.startswith(_SPACE)
            text = text.removeprefix(_SPACE)
            self._at_start = not text and not (dropped and pieces.leading == "drop one")
        return text.replace(_SPACE, " ")

    def _characters(self, *, final: bool) -> str:
        """Return the complete characters of the pending bytes; a byte that starts none gives U+FFFD."""
        if not self._bytes:
            return ""
        self._at_start = False
        out: list[str] = []
        while self._bytes:
            need = _length_from_lead(self._bytes[0])
            head = self._bytes[:need]
            well_formed = all(0x80 <= byte < 0xC0 for byte in head[1:])
            if well_formed and len(head) < need and not final:
                break
            try:
                out.append(head.decode("utf-8"))
            except UnicodeDecodeError:
                out.append(_REPLACEMENT)
                need = 1
            self._bytes = self._bytes[need:]
        return "".join(out)

    def _release(self, text: str) -> str:
        """Replace whitespace tags, and hold back an end that may become one."""
        if not self._tags:
            return text
        text = self._held + text
        if "<" in text:
            text = from_whitespace_tags(text)
            start = text.rfind("<", max(0, len(text) - _LONGEST_TAG + 1))
            if start >= 0 and any(tag.startswith(text[start:]) for tag in _TAGS):
                self._held = text[start:]
                return text[:start]
        self._held = ""
        return text


class SpelledDecoder:
    """Each id's own bytes as text, nothing restored or joined; white space in front of the first sign is dropped.

    For answers whose text must be just what their ids spell, such as JSON.
    """

    def __init__(self, spelling: Callable[[int], bytes]) -> None:
        self._spelling = spelling
        self._bytes = codecs.getincrementaldecoder("utf-8")("replace")
        self._said = False

    def add(self, token_id: int) -> str:
        """Take the next id and return the text that is whole."""
        text = self._bytes.decode(self._spelling(token_id))
        if not self._said:
            text = text.lstrip()
            self._said = bool(text)
        return text

    def finish(self) -> str:
        """Return what is still held back; an incomplete character becomes U+FFFD."""
        return self._bytes.decode(b"", final=True)


def to_whitespace_tags(text: str) -> str:
    """Write line breaks, tabs and runs of 2 to 80 spaces the way ChatGLM-6B's vocabulary spells them."""
    text = text.replace("\n", "<n>").replace("\t", "<|tab|>")
    return re.sub(" {2,80}", lambda run: f"<|blank_{len(run[0])}|>", text)


def from_whitespace_tags(text: str) -> str:
    """Undo :func:`to_whitespace_tags`."""
    return _TAG.sub(_whitespace, text)


def _whitespace(tag: re.Match[str]) -> str:
    if tag[1]:
        return " " * int(tag[1])
    return "\n" if tag[0] == "<n>" else "\t"


def _length_from_lead(byte: int) -> int:
    """Return how many bytes a character that starts with ``byte`` has; 1 where none starts so."""
    if byte & 0xE0 == 0xC0:
        return 2
    if byte & 0xF0 == 0xE0:
        return 3
    if byte & 0xF8 == 0xF0:
        return 4
    return 1


def _leading_space(processor: sentencepiece.SentencePieceProcessor) -> LeadingSpace:
    """Ask the model itself whether it drops the first space of a text, and whether only one."""
    space = processor.piece_to_id(_SPACE)
    if processor.id_to_piece(space) == _SPACE:
        kept = len(processor.decode([space, space]))
        return "drop all" if kept == 0 else "drop one" if kept == 1 else "keep"
    for piece in range(processor.get_piece_size()):
        if str(processor.id_to_piece(piece)).startswith(_SPACE):
            return "keep" if processor.decode([piece]).startswith(" ") else "drop one"
    return "keep"
