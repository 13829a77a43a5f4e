"""What people read: sentences as codes with fields, and the catalogue that says them in each language.

Every room makes a :class:`Sentence` where it has a reason or a note; page, sign-in and terminal look its
code up in ``locales/<language>.json``. Standard library only; imports nothing of ours and reads a
catalogue when it is first asked for.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from importlib.resources import files
from typing import cast

Language = str
"""The name of a catalogue's file, such as ``zh``."""

_COUNTED = "(?:token|line|request|character|letter|round|passage|document|thread|core|CPU|row|byte|socket)"
"""What English counts in two forms; other languages' catalogues do not use these words."""

LANGUAGES: tuple[Language, ...] = ("zh", "en")


@dataclass(frozen=True, slots=True, init=False)
class Sentence:
    """A sentence by its code; a field may be a Sentence, an error, or a tuple of them. ``str`` says it in English."""

    code: str
    fields: Mapping[str, object]

    def __init__(self, code: str, /, **fields: object) -> None:
        object.__setattr__(self, "code", code)
        object.__setattr__(self, "fields", fields)

    def __hash__(self) -> int:
        return hash((self.code, *sorted(self.fields)))

    def __str__(self) -> str:
        return load_texts("en").say(self)


class Texts:
    """The sentences of one language."""

    def __init__(self, language: Language, catalogue: Mapping[str, str]) -> None:
        self.language = language
        self.codes = frozenset(catalogue)
        self._catalogue = catalogue

    def __call__(self, code: str, /, **fields: object) -> str:
        """The text for ``code`` with ``fields`` filled in. An unknown code raises ``KeyError``."""
        template = self._catalogue[code]
        for name in [name for name, value in fields.items() if str(value) == "1"]:
            template = re.sub(rf"(\{{{name}\}} (?:[a-z]+ )?{_COUNTED})s\b", r"\1", template)
        return template.format_map({name: self._field(value) for name, value in fields.items()}) if fields else template

    def say(self, what: object) -> str:
        """A sentence, an error or several of them in words; anything else as it is.

        Of an exception that is none of ours only the kind is told: its text may hold what nobody should see.
        """
        if isinstance(what, BaseException):
            what = getattr(what, "sentence", None) or Sentence("error.unexpected", reason=type(what).__name__)
        if _is_list(what):
            return self("list.separator").join(map(self.say, cast("tuple[object, ...]", what)))
        if not isinstance(what, Sentence):
            return str(what)
        try:
            return self(what.code, **what.fields)
        except (KeyError, ValueError, TypeError):  # a mistake of ours must not hide what went wrong
            return f"{what.code} ({', '.join(f'{name}: {self.say(value)}' for name, value in what.fields.items())})"

    def _field(self, value: object) -> object:
        return self.say(value) if isinstance(value, (Sentence, BaseException)) or _is_list(value) else value


def _is_list(what: object) -> bool:
    """Whether this is several sentences; a tuple of numbers is a shape, a value."""
    return isinstance(what, tuple) and any(isinstance(one, (Sentence, BaseException)) for one in what)


@functools.cache
def load_texts(language: Language) -> Texts:
    """The catalogue of a language."""
    source = files("chatglm_backend") / "locales" / f"{language}.json"
    return Texts(language, cast("dict[str, str]", json.loads(source.read_text(encoding="utf-8"))))


def plain(what: object) -> object:
    """Plain values for a document that machines read: sentences said in English, dataclasses as mappings."""
    if isinstance(what, (Sentence, BaseException)):
        return str(what)
    if is_dataclass(what):
        return {field.name: plain(getattr(what, field.name)) for field in fields(what)}
    if isinstance(what, Mapping):
        return {name: plain(value) for name, value in what.items()}
    if isinstance(what, (list, tuple)):
        return [plain(value) for value in what]
    return what


def choose_language(wanted: str | None, accept_language: str | None) -> Language:
    """``wanted`` (from the address or a cookie) if it is one of ours, else the browser's best match, else English."""
    if wanted in LANGUAGES:
        return wanted
    ranked: list[tuple[float, int, str]] = []
    for order, item in enumerate((accept_language or "").split(",")):
        tag, _, quality = item.strip().partition(";q=")
        try:
            weight = float(quality) if quality else 1.0
        except ValueError:
            continue
        ranked.append((-weight, order, tag.lower().split("-")[0]))
    for weight, _, tag in sorted(ranked):
        if tag in LANGUAGES and weight < 0:
            return tag
    return "en"
