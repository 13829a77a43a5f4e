"""Every string of the page, in Chinese and English, and the choice between them.

The catalogues are the JSON files beside this module, one flat object each, with the same keys.
It knows no components: it turns keys and fields into sentences.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Literal, cast

from chatglm_backend.errors import ChatGLMError
from chatglm_backend.ui.sayings import load_sayings

__all__ = ["LANGUAGES", "Language", "Texts", "choose_language", "load_texts"]

Language = Literal["zh", "en"]

LANGUAGES: tuple[Language, ...] = ("zh", "en")


class Texts:
    """The sentences of one language."""

    def __init__(self, language: Language, catalogue: Mapping[str, str]) -> None:
        self.language = language
        self._catalogue = catalogue
        self.said = load_sayings(language)

    def __call__(self, key: str, **fields: object) -> str:
        """The sentence for ``key`` with ``fields`` filled in. An unknown key raises ``KeyError``."""
        template = self._catalogue[key]
        return template.format_map(fields) if fields else template

    def keys(self) -> frozenset[str]:
        """All keys of the catalogue."""
        return frozenset(self._catalogue)

    def error(self, error: BaseException) -> str:
        """A sentence that says what went wrong and what to do."""
        if not isinstance(error, ChatGLMError):
            return self("error.unexpected", reason=type(error).__name__)
        for kind in type(error).__mro__:
            key = f"error.{getattr(kind, 'code', '')}"
            if key in self._catalogue:
                try:
                    return self(key, **{name: self._field(value) for name, value in error.fields.items()})
                except (KeyError, ValueError, TypeError):
                    break
        return str(error)

    def _field(self, value: object) -> object:
        return self.said(value) if isinstance(value, str) else value


def load_texts(language: Language) -> Texts:
    """The catalogue of a language, read from the package."""
    source = (files("chatglm_backend.ui") / "locales" / f"{language}.json").read_text(encoding="utf-8")
    return Texts(language, cast("dict[str, str]", json.loads(source)))


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
