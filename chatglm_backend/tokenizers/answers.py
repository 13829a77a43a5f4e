"""An answer's text as the authors' own chat shows it, restored while it comes.

ChatGLM-6B's vocabulary has no full-width marks, so those next to a Chinese character are written
again; all families write a placeholder for a date. This is the one place that does so: terminal, page,
endpoint and documents show what comes from here.
"""

from __future__ import annotations

import re
from typing import Final

from chatglm_backend.tokenizers.streaming import Pieces, StreamingDecoder

_TRAINING_TIME: Final = "[[训练时间]]"
_TRAINED_IN: Final = "2023年"
_FULL_WIDTH: Final = {",": "，", "!": "！", ":": "：", ";": "；", "?": "？"}
_HAN: Final = "[\u4e00-\u9fff]"
_MARK: Final = re.compile(f"(?<={_HAN})[,!:;?]|[,!:;?](?={_HAN})")


class AnswerDecoder(StreamingDecoder):
    """A :class:`StreamingDecoder` whose text is restored. Holds back what the next character decides."""

    def __init__(
        self, pieces: Pieces, *, shift: int = 0, whitespace_tags: bool = False, full_width: bool = False
    ) -> None:
        super().__init__(pieces, shift=shift, whitespace_tags=whitespace_tags)
        self._full_width = full_width
        self._before = ""
        self._undecided = ""

    def add(self, token_id: int) -> str:
        """Take the next id and return the text that no later id can change; often empty."""
        text = (self._undecided + super().add(token_id)).replace(_TRAINING_TIME, _TRAINED_IN)
        return self._restored(text, len(text) - self._open_end(text))

    def finish(self) -> str:
        """Return what is still held back."""
        text = (self._undecided + super().finish()).replace(_TRAINING_TIME, _TRAINED_IN)
        return self._restored(text, len(text))

    def _restored(self, text: str, end: int) -> str:
        self._undecided = text[end:]
        if self._full_width and not _FULL_WIDTH.keys().isdisjoint(text):
            # The character before and those held back are neighbours, too; the marks have one character each.
            around = _MARK.sub(lambda mark: _FULL_WIDTH[mark[0]], self._before + text)
            text = around[len(self._before) :]
        self._before = text[:end][-1:] or self._before
        return text[:end]

    def _open_end(self, text: str) -> int:
        """How many characters at the end may still change."""
        for length in range(min(len(_TRAINING_TIME) - 1, len(text)) if "[" in text else 0, 0, -1):
            if _TRAINING_TIME.startswith(text[-length:]):
                return length
        return 1 if self._full_width and text[-1:] in _FULL_WIDTH and not self._after_han(text) else 0

    def _after_han(self, text: str) -> bool:
        return re.fullmatch(_HAN, (self._before + text)[-2:-1]) is not None
