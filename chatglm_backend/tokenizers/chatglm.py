"""ChatGLM-6B's tokenizer (``ice_text.model``) and prompt formats.

Special ids come from the folder's ``config.json``, because an older revision of the
checkpoint puts 20000 image tokens in front of all text ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from chatglm_backend.core import Message
from chatglm_backend.textfile import read_json
from chatglm_backend.tokenizers.base import (
    EncodedPrompt,
    Family,
    SentencePieceTokenizer,
    int_field,
    rounds_of,
    without_lone_surrogates,
)
from chatglm_backend.tokenizers.streaming import from_whitespace_tags, to_whitespace_tags

MODEL_FILE: Final = "ice_text.model"
_IMAGE_REVISION_VOCABULARY: Final = 150528
_IMAGE_TOKENS: Final = 20000


class ChatGLMTokenizer(SentencePieceTokenizer):
    """See :class:`~chatglm_backend.tokenizers.base.Tokenizer`."""

    family: Family = "chatglm"

    def __init__(self, folder: Path) -> None:
        config_file = folder / "config.json"
        config = read_json(config_file, optional=True)
        details_file = folder / "tokenizer_config.json"
        old = config.get("vocab_size") == _IMAGE_REVISION_VOCABULARY
        images = int_field(
            read_json(details_file, optional=True), "num_image_tokens", _IMAGE_TOKENS if old else 0, details_file
        )
        super().__init__(folder / MODEL_FILE, shift=images, whitespace_tags=True)

        def special(field: str, piece: str) -> int:
            return int_field(config, field, self._processor.piece_to_id(piece) + images, config_file)

        self.bos_id = special("bos_token_id", "<sop>")
        self.eop_id = self._processor.piece_to_id("<eop>") + images
        self.mask_id = special("mask_token_id", "[MASK]")
        self.gmask_id = special("gmask_token_id", "[gMASK]")
        self.stop_ids = frozenset((self.eop_id,))
        self.vocab_size = self._pieces.size + images

    @property
    def control_ids(self) -> frozenset[int]:
        """Every id that steers the model and that no typed text may become."""
        own = (piece + self._shift for piece in range(self._pieces.size) if self._pieces.is_control(piece))
        return frozenset((*own, self.bos_id, self.eop_id, self.mask_id, self.gmask_id, *range(self._shift)))

    def _encode_asked(self, messages: Sequence[Message]) -> EncodedPrompt:
        """A system message goes in front of the first round, on its own line."""
        system, rounds, question = rounds_of(messages)
        if rounds:
            finished = "".join(f"[Round {i}]\n问：{q}\n答：{a}\n" for i, (q, a) in enumerate(rounds))
            text = f"{finished}[Round {len(rounds)}]\n问：{question}\n答："
        else:
            text = question
        return self._encoded(f"{system}\n{text}" if system else text)

    def as_read(self, text: str) -> str:
        """Return ``text`` as the vocabulary's normalisation leaves it (full-width marks become half-width)."""
        normal = str(self._processor.normalize(self._prepare(without_lone_surrogates(text))))
        return from_whitespace_tags(normal.replace("\u2581", " ").removeprefix(" "))

    def _prepare(self, text: str) -> str:
        return to_whitespace_tags(text)

    def _with_control_ids(self, ids: Iterable[int]) -> tuple[int, ...]:
        return (*ids, self.gmask_id, self.bos_id)
