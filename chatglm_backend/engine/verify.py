"""Compares a model's logits with a folder's expected ones: the arithmetic behind ``verify``.

Needs no tokenizer. The caller builds the model, with the precision and kernel that are asked for, and an
fp32 KV cache wherever the tolerance is tighter than fp16 keys and values allow (about 4e-4).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from chatglm_backend.errors import ChatGLMError, CheckpointError, RequestError, UnusableReference
from chatglm_backend.models.adapter import Adapter
from chatglm_backend.models.base import ChatModel
from chatglm_backend.models.kv_cache import KVCache
from chatglm_backend.models.rows import Feed
from chatglm_backend.sentences import Sentence
from chatglm_backend.textfile import read_json

Precision = Literal["fp32", "int4"]

DEFAULT_TOLERANCE: Mapping[Precision, float] = {"fp32": 1e-4, "int4": 5e-2}

_LOGITS_FILE: Mapping[Precision, str] = {
    "fp32": "expected_logits.safetensors",
    "int4": "expected_int4_logits.safetensors",
}
_LAST_ROWS = 8


@dataclass(frozen=True, slots=True)
class CaseReport:
    """One case: relative errors ‖a - b‖ / ‖b‖, ``None`` where they could not be measured; ``problem`` says why.

    ``top1_same`` of ``positions`` rows have the same most likely token as the expected logits.
    """

    prefill_rel_error: float | None = None
    decode_rel_error: float | None = None
    greedy_match: bool | None = None
    top1_same: int = 0
    positions: int = 0
    problem: Sentence | ChatGLMError | None = None


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """All cases of a folder and the verdict."""

    precision: Precision
    tolerance: float
    cases: tuple[CaseReport, ...]
    problem: Sentence | ChatGLMError | None = None

    @property
    def max_rel_error(self) -> float | None:
        """The largest error; ``None`` unless every case has both."""
        errors = [error for case in self.cases for error in (case.prefill_rel_error, case.decode_rel_error)]
        return max(error for error in errors if error is not None) if errors and None not in errors else None

    @property
    def top1_share(self) -> float | None:
        """Share of all positions with the same most likely token."""
        positions = sum(case.positions for case in self.cases)
        return sum(case.top1_same for case in self.cases) / positions if positions else None

    @property
    def ok(self) -> bool:
        """Every case measured and within the tolerance; in fp32 the greedy ids count too."""
        if self.problem or not self.cases or any(case.problem for case in self.cases):
            return False
        if self.precision == "fp32" and any(case.greedy_match is False for case in self.cases):
            return False
        return self.max_rel_error is not None and self.max_rel_error <= self.tolerance

    def to_json(self) -> dict[str, object]:
        """The document that ``--json`` prints."""
        cases = [{**asdict(case), "problem": str(case.problem or "")} for case in self.cases]
        figures = {"max_rel_error": self.max_rel_error, "top1_share": self.top1_share, "ok": self.ok}
        return {**asdict(self), "cases": cases, "problem": str(self.problem or ""), **figures}


def verify_logits(
    folder: Path,
    model: ChatModel,
    *,
    precision: Precision = "fp32",
    tolerance: float | None = None,
    adapter: Adapter | None = None,
) -> VerifyReport:
    """Run every case of ``expected.json`` in ``folder``, with ``adapter`` where it is a fine-tune's.

    Raises UnusableReference for the two files.
    """
    cases = _read_cases(folder / "expected.json")
    logits = _read_logits(folder / _LOGITS_FILE[precision])
    reports = tuple(_verify_case(model, adapter, case, index, logits) for index, case in enumerate(cases))
    allowed = DEFAULT_TOLERANCE[precision] if tolerance is None else tolerance
    return VerifyReport(precision, allowed, reports, problem=None if reports else Sentence("reference.no_cases"))


class _Mismatch(Exception):
    """What keeps a case from being measured, in words."""


def _verify_case(
    model: ChatModel, adapter: Adapter | None, case: object, index: int, logits: Mapping[str, Tensor]
) -> CaseReport:
    try:
        if not isinstance(case, dict):
            raise _Mismatch(Sentence("reference.not_object"))
        return _measure(model, adapter, case, index, logits)
    except _Mismatch as error:
        return CaseReport(problem=error.args[0])
    except RequestError as error:
        return CaseReport(problem=error)


def _measure(
    model: ChatModel, adapter: Adapter | None, case: Mapping[str, object], index: int, logits: Mapping[str, Tensor]
) -> CaseReport:
    vocab = model.config.vocab_size
    prompt = _ids(case, "input_ids", vocab)
    continuation = _ids(case, "continuation_ids", vocab)
    greedy = _ids(case, "greedy_ids", vocab)
    capacity = len(prompt) + max(len(continuation), len(greedy), 1)
    if not prompt or capacity > model.config.context_limit:
        raise _Mismatch(Sentence("reference.too_long", tokens=len(prompt)))
    rows = {len(prompt), min(len(prompt), _LAST_ROWS)}
    want_prefill = _expected(logits, f"case{index}.prefill_logits", {(count, vocab) for count in rows})
    want_decode = _expected(logits, f"case{index}.decode_logits", {(len(continuation), vocab)})

    cache = model.new_cache(capacity, adapter)
    prefill = model.prefill(prompt, cache, logit_rows=len(want_prefill))
    while not prefill.advance():
        pass
    steps = [model.decode([Feed((token,), cache)]) for token in continuation]
    decoded = torch.cat(steps) if steps else want_decode
    compared = (prefill.logits, decoded, want_prefill, want_decode)
    return CaseReport(
        prefill_rel_error=_rel_error(prefill.logits, want_prefill),
        decode_rel_error=_rel_error(decoded, want_decode) if steps else 0.0,
        greedy_match=_greedy(model, cache, len(prompt), prefill.logits[-1:], len(greedy)) == greedy if greedy else None,
        top1_same=_same_top1(prefill.logits, want_prefill) + _same_top1(decoded, want_decode),
        positions=len(want_prefill) + len(want_decode),
        problem=None
        if all(bool(torch.isfinite(tensor).all()) for tensor in compared)
        else Sentence("reference.not_finite"),
    )


def _greedy(model: ChatModel, cache: KVCache, prompt_length: int, logits: Tensor, count: int) -> list[int]:
    cache.truncate(prompt_length)
    ids = [int(logits.argmax())]
    while len(ids) < count:
        ids.append(int(model.decode([Feed((ids[-1],), cache)]).argmax()))
    return ids


def _rel_error(found: Tensor, expected: Tensor) -> float | None:
    error = float((found.double() - expected.double()).norm() / expected.double().norm())
    return error if math.isfinite(error) else None


def _same_top1(found: Tensor, expected: Tensor) -> int:
    return int((found.argmax(-1) == expected.argmax(-1)).sum())


def _ids(case: Mapping[str, object], key: str, vocab: int) -> list[int]:
    value = case.get(key, [])
    if not isinstance(value, list) or not all(type(token) is int and 0 <= token < vocab for token in value):
        raise _Mismatch(Sentence("reference.ids", name=key, high=vocab - 1))
    return list(value)


def _expected(logits: Mapping[str, Tensor], name: str, shapes: set[tuple[int, int]]) -> Tensor:
    tensor = logits.get(name)
    if tensor is None:
        raise _Mismatch(Sentence("reference.missing", name=name))
    if tuple(tensor.shape) not in shapes:
        wanted = " or ".join(str(list(shape)) for shape in sorted(shapes))
        raise _Mismatch(Sentence("reference.shape", name=name, found=list(tensor.shape), expected=wanted))
    return tensor


def _read_cases(path: Path) -> list[object]:
    if not path.is_file():
        raise UnusableReference(path=path, reason=Sentence("file.missing"))
    try:
        cases = read_json(path).get("cases")
    except CheckpointError as error:
        raise UnusableReference(path=path, reason=Sentence("file.not_json")) from error
    if not isinstance(cases, list):
        raise UnusableReference(path=path, reason=Sentence("reference.no_list"))
    return cases


def _read_logits(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UnusableReference(path=path, reason=Sentence("file.missing"))
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise UnusableReference(path=path, reason=Sentence("file.damaged")) from error
