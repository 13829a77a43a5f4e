"""The page's catalogue while some rooms still write English reasons; see :mod:`chatglm_backend.sentences`."""

from __future__ import annotations

import functools

from chatglm_backend import sentences
from chatglm_backend.errors import ChatGLMError
from chatglm_backend.sentences import LANGUAGES, Language, Sentence, choose_language
from chatglm_backend.ui.sayings import load_sayings

__all__ = ["LANGUAGES", "Language", "Texts", "choose_language", "load_texts"]


class Texts(sentences.Texts):
    """Adds the translation of English sentences that are no codes yet."""

    def __init__(self, base: sentences.Texts) -> None:
        super().__init__(base.language, {key: base(key) for key in sorted(base.codes)})
        self.said = load_sayings(base.language)

    def error(self, error: BaseException) -> str:
        """A sentence that says what went wrong and what to do."""
        return self.say(error)

    def say(self, what: object) -> str:
        """A sentence, an error, or several of them in words."""
        if isinstance(what, str):
            return self.said(what)
        if isinstance(what, ChatGLMError):
            what = what.sentence
        if isinstance(what, Sentence):
            what = Sentence(what.code, **{n: self.said(v) if isinstance(v, str) else v for n, v in what.fields.items()})
        return super().say(what)


@functools.cache
def load_texts(language: Language) -> Texts:
    """The catalogue of a language, read from the package."""
    return Texts(sentences.load_texts(language))
