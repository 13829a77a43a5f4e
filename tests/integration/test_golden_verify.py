"""``verify_logits``: what counts as right, and everything that must not."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from chatglm_backend.checkpoint.mapping import HeldTensors
from chatglm_backend.engine.verify import VerifyReport, verify_logits
from chatglm_backend.errors import UnusableReference
from chatglm_backend.int4.weights import Int4Weights
from chatglm_backend.models.base import build_model
from chatglm_backend.models.weights import DenseWeights
from tests.golden_folders import FOLDERS, GOLDEN, dense_tensors, golden_config, packed_tensors

NAME = "chatglm3-6b"
PREFILL = "case1.prefill_logits"


def verify_fp32(folder: Path, name: str = NAME) -> VerifyReport:
    """Compare the folder with the fp32 model called ``name``."""
    model = build_model(golden_config(name), DenseWeights(dense_tensors(name)), kv_dtype=torch.float32)
    return verify_logits(folder, model)


def changed(
    tmp_path: Path,
    *,
    expected: Callable[[dict[str, Any]], None] | None = None,
    logits: Callable[[dict[str, Tensor]], object] | None = None,
) -> Path:
    """Copy the expectations and change them."""
    for file in ("expected.json", "expected_logits.safetensors"):
        shutil.copy(GOLDEN / NAME / file, tmp_path / file)
    if expected:
        document = json.loads((tmp_path / "expected.json").read_text())
        expected(document)
        (tmp_path / "expected.json").write_text(json.dumps(document))
    if logits:
        tensors = {name: tensor.clone() for name, tensor in load_file(tmp_path / "expected_logits.safetensors").items()}
        logits(tensors)
        save_file(tensors, tmp_path / "expected_logits.safetensors")
    return tmp_path


@pytest.mark.parametrize("name", FOLDERS)
def test_every_golden_folder_is_ok_in_fp32(name: str) -> None:
    """All cases are measured, small, and greedy ids match."""
    report = verify_fp32(GOLDEN / name, name)
    assert (report.ok, [case.greedy_match for case in report.cases]) == (True, [True] * 5)
    assert report.max_rel_error is not None
    assert report.max_rel_error <= 1e-4


@pytest.mark.model
@pytest.mark.parametrize("name", FOLDERS)
def test_every_golden_folder_is_ok_in_exact_int4(name: str) -> None:
    """The INT4 expectations hold to 1e-4 with dequantised products."""
    weights = Int4Weights(HeldTensors(packed_tensors(name)), "exact")
    model = build_model(golden_config(name), weights, kv_dtype=torch.float32)
    assert verify_logits(GOLDEN / name, model, precision="int4", tolerance=1e-4).ok


def test_the_json_has_the_promised_keys() -> None:
    """Programs read the document by these names."""
    document = verify_fp32(GOLDEN / NAME).to_json()
    assert {"cases", "max_rel_error", "ok"} <= document.keys()
    first = document["cases"][0]  # type: ignore[index]
    assert {"prefill_rel_error", "decode_rel_error", "greedy_match"} <= first.keys()
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_other_greedy_ids_are_not_ok(tmp_path: Path) -> None:
    """In fp32 a different greedy id fails, with the logits right."""

    def change(document: dict[str, Any]) -> None:
        document["cases"][1]["greedy_ids"][5] ^= 1

    report = verify_fp32(changed(tmp_path, expected=change))
    assert (report.ok, report.cases[1].greedy_match) == (False, False)


def test_no_cases_are_not_ok(tmp_path: Path) -> None:
    """Nothing measured proves nothing."""
    report = verify_fp32(changed(tmp_path, expected=lambda document: document["cases"].clear()))
    assert (report.ok, report.max_rel_error) == (False, None)


DAMAGES: dict[str, Callable[[dict[str, Tensor]], object]] = {
    "missing": lambda tensors: tensors.pop("case1.decode_logits"),
    "narrow": lambda tensors: tensors.update({PREFILL: tensors[PREFILL][:, :-1].contiguous()}),
    "short": lambda tensors: tensors.update({PREFILL: tensors[PREFILL][-3:].contiguous()}),
    "nan": lambda tensors: tensors["case1.decode_logits"][0, :1].fill_(float("nan")),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_unusable_expectations_are_not_ok(tmp_path: Path, damage: Callable[[dict[str, Tensor]], object]) -> None:
    """A missing tensor, a wrong shape and NaN fail the folder and leave the other cases measured."""
    report = verify_fp32(changed(tmp_path, logits=damage))
    assert (report.ok, report.max_rel_error) == (False, None)
    assert report.cases[0].prefill_rel_error is not None


@pytest.mark.parametrize("ids", [lambda ids: [600, *ids[1:]], lambda ids: ids * 200], ids=["vocabulary", "context"])
def test_ids_that_the_model_cannot_read_are_named(tmp_path: Path, ids: Callable[[list[int]], list[int]]) -> None:
    """Such a case fails with words instead of a traceback."""

    def change(document: dict[str, Any]) -> None:
        document["cases"][0]["input_ids"] = ids(document["cases"][0]["input_ids"])

    report = verify_fp32(changed(tmp_path, expected=change))
    assert not report.ok
    assert report.cases[0].problem


def test_a_broken_model_is_not_ok() -> None:
    """NaN weights fail, although every comparison with NaN is false."""
    tensors = dict(dense_tensors(NAME))
    tensors["transformer.encoder.final_layernorm.weight"] = torch.full((128,), float("nan"))
    model = build_model(golden_config(NAME), DenseWeights(tensors), kv_dtype=torch.float32)
    assert not verify_logits(GOLDEN / NAME, model).ok


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    """The error says which of the two files to look at."""
    expected, logits = tmp_path / "expected.json", tmp_path / "expected_logits.safetensors"
    for file, content, named in (
        (logits, b"no header", "expected.json"),
        (expected, b"{}", "expected.json"),
        (expected, b'{"cases": []}', "expected_logits"),
    ):
        file.write_bytes(content)
        with pytest.raises(UnusableReference, match=re.escape(named)):
            verify_fp32(tmp_path)
    logits.unlink()
    with pytest.raises(UnusableReference, match="expected_logits"):
        verify_fp32(tmp_path)
