"""Where the tokens of one sequence stand, and how far each one sees.

Both families let every row see a leading part of the keys, so a mask is one number per row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from chatglm_backend.errors import InvalidRequest
from chatglm_backend.models.config import ModelConfig
from chatglm_backend.sentences import Sentence

__all__ = ["CausalPlan", "PositionPlan", "PrefixPlan", "prefix_plan"]


class PositionPlan(Protocol):
    """The positions of one sequence, by index of the token."""

    @property
    def fixed_tokens(self) -> int:
        """How many leading tokens depend on one another and can only be kept or dropped together."""
        ...

    def position(self, index: int) -> int:
        """The position id of the token."""
        ...

    def block(self, index: int) -> int:
        """The block position id of the token; 0 where the family has none."""
        ...

    def visible(self, index: int) -> int:
        """How many leading tokens the token attends to, itself included."""
        ...


@dataclass(frozen=True, slots=True)
class CausalPlan:
    """ChatGLM2 and ChatGLM3: growing positions, everything before and oneself visible."""

    fixed_tokens: int = 0

    def position(self, index: int) -> int:
        """See :class:`PositionPlan`."""
        return index

    def block(self, index: int) -> int:  # noqa: ARG002
        """See :class:`PositionPlan`."""
        return 0

    def visible(self, index: int) -> int:
        """See :class:`PositionPlan`."""
        return index + 1


@dataclass(frozen=True, slots=True)
class PrefixPlan:
    """ChatGLM-6B: the tokens before ``<sop>`` (at ``context``) see one another; the rest is causal.

    From ``<sop>`` on the position stays at the mask token's index (``mask``) and the block position counts.
    """

    context: int
    mask: int

    @property
    def fixed_tokens(self) -> int:
        """See :class:`PositionPlan`."""
        return self.context

    def position(self, index: int) -> int:
        """See :class:`PositionPlan`."""
        return index if index < self.context else self.mask

    def block(self, index: int) -> int:
        """See :class:`PositionPlan`."""
        return max(0, index - self.context + 1)

    def visible(self, index: int) -> int:
        """See :class:`PositionPlan`."""
        return max(self.context, index + 1)


def prefix_plan(ids: Sequence[int], config: ModelConfig) -> PrefixPlan:
    """ChatGLM-6B's plan for a prompt. Raises InvalidRequest without ``<sop>`` or without ``[gMASK]``/``[MASK]``."""
    context = _find(ids, config.bos_id)
    mask = _find(ids, config.gmask_id)
    if mask is None:
        mask = _find(ids, config.mask_id)
    if context is None or mask is None:
        raise InvalidRequest(field="prompt", value=Sentence("value.these_ids"), reason=Sentence("request.prompt_end"))
    return PrefixPlan(context=context, mask=mask)


def _find(ids: Sequence[int], wanted: int | None) -> int | None:
    return next((index for index, token in enumerate(ids) if token == wanted), None)
