"""The lines of a batch: OpenAI's, or prompts from a text or a table with a template. Knows no answers.

What is wrong with one line is told of that line alone; what is wrong with the file raises BatchRefused.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Formatter

from chatglm_backend.errors import BatchRefused
from chatglm_backend.sentences import Sentence
from chatglm_backend.textfile import parse_json

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
KINDS = (".jsonl", ".csv", ".txt")
_IDS = ("custom_id", "id")
_TEXT = "text"


@dataclass(frozen=True, slots=True)
class Line:
    """One request; ``number`` counts the file's lines from 1. ``problem``: why it cannot be one."""

    number: int
    custom_id: str | None = None
    url: str = CHAT
    body: object = None
    problem: Sentence | None = None

    @property
    def key(self) -> str | int:
        """What tells it from the others of its file."""
        return self.number if self.custom_id is None else self.custom_id

    @property
    def id(self) -> str:
        """Follows from all that is asked, so that a line that was changed has another."""
        asked = json.dumps([self.key, self.url, self.body, self.problem is None], sort_keys=True)
        return f"batch_req_{hashlib.sha256(asked.encode()).hexdigest()[:24]}"


class _Unusable(Exception):
    """What is wrong with a whole file: a sentence."""


def read_lines(path: Path, template: str = "") -> list[Line]:
    """All lines of a file, by the kind that its name ends with. Raises BatchRefused, or OSError."""
    kind = path.suffix.lower()
    if kind not in KINDS:
        raise BatchRefused(path=path.name, reason=Sentence("batch.kinds"))
    data = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise BatchRefused(path=path.name, reason=Sentence("batch.not_utf8", number=number)) from None
    if kind == ".jsonl" and template:
        raise BatchRefused(path=path.name, reason=Sentence("batch.needs_no_template"))
    try:
        found = _requests(text) if kind == ".jsonl" else _filled(_rows(text, kind), template)
        lines = list(_told_apart(found))
    except _Unusable as error:
        raise BatchRefused(path=path.name, reason=error.args[0]) from None
    if not lines:
        raise BatchRefused(path=path.name, reason=Sentence("batch.empty"))
    return lines


def _requests(text: str) -> Iterator[Line]:
    """OpenAI's form: a request to a line."""
    for number, source in enumerate(text.split("\n"), 1):
        if not source.strip():
            continue
        try:
            value = parse_json(source.encode("utf-8", "surrogatepass"))
        except ValueError:
            value = None
        yield _request(number, value)


def _request(number: int, value: object) -> Line:
    if not isinstance(value, dict):
        return Line(number, problem=Sentence("batch.no_json"))
    name, url = value.get("custom_id"), value.get("url")
    if not isinstance(name, str) or not name:
        return Line(number, problem=Sentence("batch.no_id"))
    if value.get("method", "POST") != "POST" or url not in (CHAT, COMPLETION):
        return Line(number, name, problem=Sentence("batch.no_route", chat=CHAT, completion=COMPLETION))
    if not isinstance(value.get("body"), dict):
        return Line(number, name, problem=Sentence("batch.no_body"))
    return Line(number, name, url, value["body"])


def _rows(text: str, kind: str) -> Iterator[tuple[int, Mapping[str | None, object]]]:
    """Numbers of lines, and what each has in its columns."""
    if kind == ".txt":
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield number, {_TEXT: line.removesuffix("\r")}
        return
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = list(reader.fieldnames or ())
        twice = next((name for name in columns if columns.count(name) > 1), None)
        if twice is not None:
            raise _Unusable(Sentence("batch.column_twice", name=twice))
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        reason = Sentence("batch.no_table", number=reader.reader.line_num, problem=str(error))
        raise _Unusable(reason) from None


def _filled(rows: Iterable[tuple[int, Mapping[str | None, object]]], template: str) -> Iterator[Line]:
    """A chat's question of each row."""
    pieces: list[tuple[str, str | None]] = []
    for number, row in rows:
        columns = [name for name in row if name is not None]
        pieces = pieces or _pieces(template, columns)
        name = next((str(row[column]) for column in _IDS if row.get(column)), str(number))
        if None in row or None in row.values():
            yield Line(number, problem=Sentence("batch.uneven", count=len(columns)))
            continue
        prompt = "".join(text + (str(row[column]) if column is not None else "") for text, column in pieces)
        yield Line(number, name, body={"messages": [{"role": "user", "content": prompt}]})


def _pieces(template: str, columns: list[str]) -> list[tuple[str, str | None]]:
    """Texts, each with the column that follows it."""
    names = ", ".join(columns)
    if not template:
        others = [name for name in columns if name not in _IDS]
        if len(others) != 1:
            raise _Unusable(Sentence("batch.needs_template", columns=names))
        return [("", others[0])]
    try:
        parsed = list(Formatter().parse(template))
    except ValueError:
        raise _Unusable(Sentence("batch.bad_template")) from None
    pieces = []
    for text, name, form, conversion in parsed:
        if name is not None and (form or conversion or name not in columns):
            raise _Unusable(Sentence("batch.no_column", name=name, columns=names))
        pieces.append((text, name))
    if all(name is None for _, name in pieces):
        raise _Unusable(Sentence("batch.bad_template"))
    return pieces


def _told_apart(lines: Iterable[Line]) -> Iterator[Line]:
    """The same lines, but for those whose id another one has."""
    seen: set[str] = set()
    for line in lines:
        if line.custom_id is None:
            yield line
        elif line.custom_id in seen:
            yield Line(line.number, problem=Sentence("batch.id_twice", id=line.custom_id))
        else:
            seen.add(line.custom_id)
            yield line
