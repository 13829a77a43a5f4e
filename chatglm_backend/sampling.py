"""How tokens are chosen: every number of it, once.

Settings, terminal options, request fields and the page's sliders are made from the fields of
:class:`GenerationParams`. A new one is a field here, its effect in the sampler, and a label per language; those that
only a request of the endpoint may hold need no label.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any, Literal

from chatglm_backend.errors import InvalidRequest
from chatglm_backend.sentences import Sentence


@dataclass(frozen=True, slots=True)
class SamplingField:
    """One number. ``low`` and ``high`` are inclusive; a ``default`` of ``None`` means that it may be left open.

    ``slider`` is the page's (lowest, highest, step), within the bounds; ``None`` where it has a box for a number.
    """

    name: str
    kind: Literal["int", "float"]
    default: float | None
    low: float
    high: float
    help: str
    slider: tuple[float, float, float] | None
    request_only: bool = False

    @property
    def label(self) -> str:
        """The key of its label in the page's catalogue; its explanation's, where it has one, ends in ``_info``."""
        return f"prompt.{self.name}"


def _number(
    default: float | None,
    kind: Literal["int", "float"],
    low: float,
    high: float,
    help_text: str,
    slider: tuple[float, float, float] | None = None,
    *,
    request_only: bool = False,
) -> Any:  # noqa: ANN401 - the field's own annotation says what it is
    bounds = {"default": default, "kind": kind, "low": low, "high": high}
    return field(
        default=default, metadata={**bounds, "help": help_text, "slider": slider, "request_only": request_only}
    )


@dataclass(frozen=True, slots=True)
class GenerationParams:
    """How to choose tokens. ``temperature`` 0 means greedy; ``seed`` ``None`` means a new one each time.

    ``logit_bias`` holds token ids with what is added to their logits; ``stop_ids`` end an answer like the model's own;
    ``logprobs`` is how many of the likeliest tokens are told with each token and its own probability (``None``: none).
    """

    max_new_tokens: int = _number(32, "int", 1, 1_000_000, "Most tokens of an answer.", (1, 2048, 1))
    temperature: float = _number(0.0, "float", 0, 100, "0: always the likeliest token; higher: freer.", (0, 2, 0.05))
    top_p: float = _number(
        1.0, "float", 0, 1, "Choose among the likeliest tokens with this total probability.", (0, 1, 0.01)
    )
    top_k: int = _number(0, "int", 0, 1_000_000, "Choose among this many tokens; 0: all.", (0, 200, 1))
    min_p: float = _number(
        0.0, "float", 0, 1, "Leave out tokens less likely than this share of the likeliest; 0: none.", (0, 1, 0.01)
    )
    repetition_penalty: float = _number(1.0, "float", 0.01, 100, "Above 1: repeats become less likely.", (1, 2, 0.01))
    seed: int | None = _number(None, "int", -(2**63), 2**63 - 1, "Makes sampling repeatable.")
    presence_penalty: float = _number(
        0.0, "float", -2, 2, "Taken from the logits of tokens that the answer has already.", request_only=True
    )
    frequency_penalty: float = _number(
        0.0, "float", -2, 2, "Taken from them as often as the answer has them.", request_only=True
    )
    logprobs: int | None = _number(
        None, "int", 0, 20, "Likeliest tokens told with each token's probability.", request_only=True
    )
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    logit_bias: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        for one in sampling_fields(requests=True).values():
            value = getattr(self, one.name)
            if value is None and one.default is None:
                continue
            try:
                check_number(value, one.kind, one.low, one.high)
            except ValueError as error:
                raise InvalidRequest(field=one.name, value=repr(value)[:40], reason=error.args[0]) from error
        if not isinstance(self.stop, tuple) or not all(isinstance(s, str) and s for s in self.stop):
            raise InvalidRequest(field="stop", value=repr(self.stop)[:80], reason=Sentence("request.stop_texts"))

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.temperature == 0.0


@lru_cache(maxsize=2)
def sampling_fields(*, requests: bool = False) -> Mapping[str, SamplingField]:
    """What is known of each number of :class:`GenerationParams`, in their order.

    With ``requests`` also of those that only a request of the endpoint may hold.
    """
    numbers = [SamplingField(name=f.name, **f.metadata) for f in fields(GenerationParams) if f.metadata]
    return {one.name: one for one in numbers if requests or not one.request_only}


def check_number(value: Any, kind: Literal["int", "float"], low: float, high: float) -> int | float:  # noqa: ANN401
    """Return a number of this kind within the bounds. Raises ValueError with a Sentence on what to use."""
    fits = isinstance(value, int) or (isinstance(value, float) and kind == "float")
    if fits and not isinstance(value, bool) and low <= value <= high:
        return value if kind == "int" else float(value)
    raise ValueError(Sentence(f"number.{kind}", low=low, high=high))
