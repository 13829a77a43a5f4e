"""What other rooms say in English, inside errors and reports, in the page's language.

Those rooms write for the terminal too and know no language. A sentence is found again by its
template, ``{}`` standing for what was filled in, which is looked up in turn; one that is not in
the catalogue stays as it is. It knows no components.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib.resources import files

__all__ = ["Sayings", "load_sayings"]


class Sayings:
    """Sentences of other rooms by their English templates; the translation numbers the places: ``{0}``."""

    def __init__(self, catalogue: Mapping[str, str]) -> None:
        self._exact = {template: said for template, said in catalogue.items() if "{}" not in template}
        with_places = [template for template in catalogue if "{}" in template]
        # The template with most words of its own is the one that was meant.
        with_places.sort(key=lambda template: -len(template.replace("{}", "")))
        self._patterns = [
            (re.compile("(.+?)".join(map(re.escape, template.split("{}")))), catalogue[template])
            for template in with_places
        ]

    def __call__(self, sentence: str) -> str:
        """The sentence, or a list of them joined by semicolons, translated as far as it is known."""
        whole = self._one(sentence)
        if whole is not None or "; " not in sentence:
            return sentence if whole is None else whole
        parts = sentence.split("; ")
        said = [self(part) for part in parts]
        return sentence if said == parts else "；".join(said)

    def _one(self, sentence: str) -> str | None:
        if sentence in self._exact:
            return self._exact[sentence]
        for pattern, said in self._patterns:
            found = pattern.fullmatch(sentence)
            if found is not None:
                return said.format(*(self(part) for part in found.groups()))
        return None


def load_sayings(language: str) -> Sayings:
    """The sentences in a language; in English they stay as they are."""
    source = files("chatglm_backend.ui") / "locales" / f"sayings.{language}.json"
    return Sayings(json.loads(source.read_text(encoding="utf-8")) if source.is_file() else {})
