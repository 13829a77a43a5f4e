"""The forward passes against the logits of the authors' own code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from chatglm_backend.checkpoint.mapping import HeldTensors
from chatglm_backend.int4.kernel import Kernel
from chatglm_backend.int4.kernels.choose import build_kernel
from chatglm_backend.int4.kernels.ops import CompiledOps
from chatglm_backend.int4.kernels.variants import VARIANTS, host_cpu, usable_variants
from chatglm_backend.int4.select import select_kernel
from chatglm_backend.int4.weights import Int4Weights
from chatglm_backend.models.base import ChatModel, Feed, build_model
from chatglm_backend.models.chatglm import build_chatglm
from chatglm_backend.models.ops import Ops
from chatglm_backend.models.positions import PositionPlan, prefix_lm_plan
from chatglm_backend.models.weights import DenseWeights
from tests.golden_folders import (
    FOLDERS,
    GLM4,
    LONG,
    Case,
    dense_tensors,
    golden_cases,
    golden_config,
    packed_tensors,
    rel_error,
)
from tests.small_models import read_prompt


def dense_model(name: str) -> ChatModel:
    """Build the folder's model in fp32."""
    return build_model(golden_config(name), DenseWeights(dense_tensors(name)), kv_dtype=torch.float32)


def run(model: ChatModel, case: Case, *, max_rows: int = 128) -> tuple[Tensor, Tensor]:
    """Return prefill logits for the expected rows, and the logits after each continuation id fed alone."""
    cache = model.new_cache(len(case.input_ids) + len(case.continuation_ids))
    prefill = read_prompt(model, case.input_ids, cache, max_rows=max_rows, logit_rows=len(case.prefill_logits))
    return prefill, torch.cat([model.decode([Feed((token,), cache)]) for token in case.continuation_ids])


def errors(model: ChatModel, case: Case, *, max_rows: int = 128) -> tuple[float, float]:
    """Return the relative errors of prefill and decode."""
    prefill, decode = run(model, case, max_rows=max_rows)
    return rel_error(prefill, case.prefill_logits), rel_error(decode, case.decode_logits)


@pytest.mark.parametrize("max_rows", [128, 7])
@pytest.mark.parametrize("name", FOLDERS)
def test_fp32_logits_equal_the_authors(name: str, max_rows: int) -> None:
    """Prefill and one-by-one decode agree to 1e-4, in whole and in small slices of rows."""
    model = dense_model(name)
    worst = max(error for case in golden_cases(name) for error in errors(model, case, max_rows=max_rows))
    assert worst <= 1e-4


@pytest.fixture(params=["bigdl", *(v.name for v in VARIANTS)])
def fast(request: pytest.FixtureRequest, compiled: Path) -> tuple[Kernel, Ops]:
    """Each kernel that rounds activations or sums in fp16, with the operations that go with it."""
    if request.param == "bigdl":
        choice = select_kernel("bigdl")
        return choice.kernel, choice.ops
    variant = next(v for v in VARIANTS if v.name == request.param)
    if variant not in usable_variants(host_cpu()):
        pytest.skip(f"this CPU has no {', '.join(sorted(variant.needs - host_cpu().features))}")
    kernel = build_kernel(2, compiled, only=variant.name)
    assert kernel is not None
    return kernel, CompiledOps(kernel.team, variant, compiled)


@pytest.mark.model
@pytest.mark.parametrize("name", FOLDERS)
def test_fast_kernels_logits(name: str, fast: tuple[Kernel, Ops]) -> None:
    """Within 5e-2 with fp16 keys and values, and 95 % of the top-1 tokens; later references may differ in near ties."""
    kernel, ops = fast
    weights = Int4Weights(HeldTensors(packed_tensors(name)), kernel)
    model = build_model(golden_config(name), weights, kv_dtype=torch.float16, ops=ops)
    same = positions = 0
    for case in golden_cases(name, int4=True):
        found = run(model, case)
        for logits, expected in zip(found, (case.prefill_logits, case.decode_logits), strict=True):
            assert rel_error(logits, expected) <= 5e-2
            behind = expected.amax(-1) - expected.gather(-1, logits.argmax(-1, keepdim=True))[:, 0]
            same += int((behind <= (0.05 if name in (*LONG, *GLM4) else 0.0) * expected.std(-1)).sum())
            positions += len(expected)
    assert same >= 0.95 * positions


@pytest.mark.parametrize("name", ["chatglm-6b", "chatglm3-6b", "glm-4-9b-0414"])
def test_keys_and_values_in_8_bits_stay_near_the_authors(name: str) -> None:
    """Within 1.5e-2 with fp32 weights, every likeliest token the same or as good as it."""
    model = build_model(golden_config(name), DenseWeights(dense_tensors(name)), kv_dtype=torch.int8)
    for case in golden_cases(name):
        for logits, expected in zip(run(model, case), (case.prefill_logits, case.decode_logits), strict=True):
            assert rel_error(logits, expected) <= 1.5e-2
            behind = expected.amax(-1) - expected.gather(-1, logits.argmax(-1, keepdim=True))[:, 0]
            assert bool((behind <= 0.05 * expected.std(-1)).all())


MISTAKES: dict[str, Callable[[PositionPlan, int], int]] = {
    "visible": lambda _, index: index + 1,  # nobody sees a later token of the prompt
    "block": lambda *_: 0,  # block positions do not count
    "position": lambda _, index: index,  # positions go on growing behind the prompt
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_goldens_catch_wrong_positions(mistake: str) -> None:
    """Each of the three easy mistakes with ChatGLM-6B's positions misses the goldens by far."""
    config = golden_config("chatglm-6b")
    right = prefix_lm_plan(golden_cases("chatglm-6b")[2].input_ids, config)
    wrong_plan = type("WrongPlan", (PositionPlan,), {mistake: MISTAKES[mistake]})(right.context, right.mask)
    wrong = build_chatglm(
        config,
        DenseWeights(dense_tensors("chatglm-6b")),
        ops=Ops(),
        kv_dtype=torch.float32,
        plan_for=lambda *_: wrong_plan,
    )
    assert max(errors(wrong, golden_cases("chatglm-6b")[2])) > 1e-2


@pytest.mark.parametrize("name", LONG)
def test_the_other_familys_meaning_of_rope_ratio_is_caught(name: str) -> None:
    """The goldens of the long variants tell squeezed positions from a larger base, and both from neither."""
    right, case = golden_config(name), golden_cases(name)[3]
    swapped = replace(right, rope_base=1e4 * right.rope_divisor, rope_divisor=right.rope_base / 1e4)
    for wrong in (swapped, replace(right, rope_base=1e4, rope_divisor=1)):
        model = build_model(wrong, DenseWeights(dense_tensors(name)), kv_dtype=torch.float32)
        assert max(errors(model, case)) > 1e-2


def test_rounding_the_frequencies_of_the_second_family_is_caught() -> None:
    """ChatGLM2's goldens tell fp32 rotary frequencies from fp16 ones."""
    name = "chatglm2-6b"
    right = dense_model(name)
    case = golden_cases(name)[-1]
    layers = right.layers  # type: ignore[attr-defined]
    table = layers[0]._rotary
    half_dim = golden_config(name).head_dim // 2
    frequencies = (1.0 / (10000 ** (torch.arange(0, half_dim, 2).float() / half_dim))).half().float()
    angles = torch.outer(torch.arange(table.cos.shape[0]).float(), frequencies)
    table.cos, table.sin = angles.cos(), angles.sin()
    assert max(errors(right, case)) > 1e-4
