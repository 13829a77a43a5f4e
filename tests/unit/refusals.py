"""What a test asks of an error: the sentences in it, by code and fields."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from chatglm_backend.errors import ChatGLMError
from chatglm_backend.sentences import Sentence


@contextmanager
def refused(kind: type[ChatGLMError], code: str, /, **fields: object) -> Iterator[pytest.ExceptionInfo[ChatGLMError]]:
    """The code below raises this kind of error, and one of its fields is this sentence."""
    with pytest.raises(kind) as caught:
        yield caught
    assert Sentence(code, **fields) in caught.value.fields.values()
