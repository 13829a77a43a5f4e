"""Where the tokens of one sequence stand, and how far each one sees.

Both families let every row see a leading part of the keys, so a mask is one number per row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chatglm_backend.errors import InvalidRequest
from chatglm_backend.models.config import ModelConfig
from chatglm_backend.sentences import Sentence


@dataclass(frozen=True, slots=True)
class PositionPlan:
    """The positions of one sequence, by index of the token.

    ChatGLM2 and 3: growing positions, causal. ChatGLM-6B has a prefix LM: the tokens before ``<sop>``, at ``context``,
    see one another and can only be kept or dropped together. From ``<sop>`` on the position stays at the ``mask``
    token's index, and the block position counts.
    """

    context: int = 0
    mask: int | None = None

    def position(self, index: int) -> int:
        """The position id of the token."""
        return index if self.mask is None or index < self.context else self.mask

    def block(self, index: int) -> int:
        """The block position id of the token; 0 where the family has none."""
        return 0 if self.mask is None else max(0, index - self.context + 1)

    def visible(self, index: int) -> int:
        """How many leading tokens the token attends to, itself included."""
        return max(self.context, index + 1)


def prefix_lm_plan(ids: Sequence[int], config: ModelConfig) -> PositionPlan:
    """ChatGLM-6B's plan for a prompt. Raises InvalidRequest without ``<sop>`` or without ``[gMASK]``/``[MASK]``."""
    context = _find(ids, config.bos_id)
    mask = _find(ids, config.gmask_id)
    if mask is None:
        mask = _find(ids, config.mask_id)
    if context is None or mask is None:
        raise InvalidRequest(field="prompt", value=Sentence("value.these_ids"), reason=Sentence("request.prompt_end"))
    return PositionPlan(context=context, mask=mask)


def _find(ids: Sequence[int], wanted: int | None) -> int | None:
    return next((index for index, token in enumerate(ids) if token == wanted), None)
