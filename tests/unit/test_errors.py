"""Every error has a code of its own, one sentence, and fields that fill it."""

from __future__ import annotations

import string

from chatglm_backend import errors


def error_classes() -> list[type[errors.ChatGLMError]]:
    """All classes of the tree."""
    found: list[type[errors.ChatGLMError]] = []
    waiting: list[type[errors.ChatGLMError]] = [errors.ChatGLMError]
    while waiting:
        cls = waiting.pop()
        found.append(cls)
        waiting.extend(cls.__subclasses__())
    return found


def test_codes_are_unique() -> None:
    """The page looks sentences up by code, so no two classes may share one."""
    codes = [cls.code for cls in error_classes()]
    assert len(codes) == len(set(codes))


def test_sentences_end_and_fill() -> None:
    """Each template becomes one finished sentence when its fields are given."""
    for cls in error_classes():
        fields = {name: 1.5 for _, name, _, _ in string.Formatter().parse(cls.template) if name}
        sentence = str(cls(**fields))
        assert "{" not in sentence
        assert sentence.rstrip().endswith((".", "}")) or "download --model" in sentence
