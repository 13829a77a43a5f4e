"""The choice of variants: measured once, kept on disk, rebuilt when damaged."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numba
import pytest
import torch

from chatglm_backend.int4.kernels import team
from chatglm_backend.int4.kernels.choose import build_kernel, fastest, medians
from chatglm_backend.int4.kernels.driver import Driver, build_driver
from chatglm_backend.int4.kernels.layout import layout_nbytes
from chatglm_backend.int4.kernels.product import ROW_CLASSES, CompiledKernel
from chatglm_backend.int4.kernels.variants import AVX512AMX, VARIANTS, HostCpu, host_cpu, usable_variants

needs_two = pytest.mark.skipif(
    len(usable_variants(host_cpu())) < 2, reason="this CPU has fewer than two variants to choose from"
)
LAYOUT = torch.zeros(layout_nbytes(16, 64), dtype=torch.uint8)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all tests that only look at choices, so that code is compiled once."""
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture
def cache(compiled: Path) -> Path:
    """The folder without choices."""
    (compiled / "kernel-choice.json").unlink(missing_ok=True)
    return compiled


def build(cache: Path, told: list[str]) -> CompiledKernel:
    """A kernel with its choices in ``cache``."""
    kernel = build_kernel(1, cache, notify=told.append)
    assert kernel is not None
    return kernel


@needs_two
def test_a_shape_is_measured_once_and_remembered(cache: Path) -> None:
    """The second start reads the choice and compares nothing."""
    first: list[str] = []
    chosen = build(cache, first).from_layout(LAYOUT, 16, 64).variants
    second: list[str] = []
    assert chosen == build(cache, second).from_layout(LAYOUT, 16, 64).variants
    assert [sum("compared" in line for line in told) for told in (first, second)] == [1, 0]


@pytest.mark.parametrize(("call_s", "times"), [(0.001, 31), (1.0, 3)])
def test_a_comparison_beside_other_work_ends_early(call_s: float, times: int) -> None:
    """Three rounds are enough where they take long; each variant is called equally often."""
    now, called = 0.0, {"a": 0, "b": 0}

    def call(name: str) -> None:
        nonlocal now
        now += call_s * (1 + (name == "b"))
        called[name] += 1

    found = medians({name: partial(call, name) for name in called}, 31, lambda: now)
    assert called == {"a": times, "b": times}
    assert found == pytest.approx({"a": call_s, "b": 2 * call_s})


@needs_two
@pytest.mark.parametrize("content", ["", "{", "[]", '{"x": 1}', "null"])
def test_a_damaged_choice_file_is_rebuilt(cache: Path, content: str) -> None:
    """Whatever the file holds, the kernel works and a sound file is written."""
    file = cache / "kernel-choice.json"
    file.write_text(content)
    build(cache, []).from_layout(LAYOUT, 16, 64)
    assert [list(shapes) for shapes in json.loads(file.read_text()).values()] == [["16x64"]]


@needs_two
def test_choices_of_others_stay_and_have_an_end(cache: Path) -> None:
    """Another thread count, or a process that may not use AMX, measures nothing again; the oldest keys go."""
    file = cache / "kernel-choice.json"
    file.write_text(json.dumps({f"key {number}": {"16x64": {}} for number in range(20)}))
    build(cache, []).from_layout(LAYOUT, 16, 64)
    others = list(json.loads(file.read_text()))[:-1]
    assert others == [f"key {number}" for number in range(13, 20)]


def test_without_a_folder_many_rows_are_multiplied_with_amx() -> None:
    """Nothing is measured then; few rows take the widest instructions, and CPUs without AMX these for all."""
    for without, many in ((set(), "avx512amx"), ({"amx-int8"}, "avx512vnni")):
        kernel = build_kernel(1, cpu=HostCpu("x", AVX512AMX.needs - without))
        assert kernel is not None
        found = kernel.from_layout(LAYOUT, 16, 64).variants
        assert found == {rows: many if rows > 4 else "avx512vnni" for rows in ROW_CLASSES}


@needs_two
def test_unknown_variants_in_the_file_are_not_believed(cache: Path) -> None:
    """A file edited by hand cannot name a kernel that does not exist."""
    build(cache, []).from_layout(LAYOUT, 16, 64)
    file = cache / "kernel-choice.json"
    stored = json.loads(file.read_text())
    key = next(iter(stored))
    stored[key]["16x64"] = dict.fromkeys(map(str, ROW_CLASSES), "magic")
    file.write_text(json.dumps(stored))
    assert set(build(cache, []).from_layout(LAYOUT, 16, 64).variants.values()) <= {v.name for v in VARIANTS}


def test_a_damaged_driver_is_rebuilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver that numba keeps is found on disk again; where one bit of it has changed, numba never sees it."""
    if not usable_variants(host_cpu()):
        pytest.skip("this CPU has no AVX2")
    build(tmp_path, [])
    files = [p for p in (tmp_path / "numba").rglob("*.nb*") if p.is_file()]
    assert files
    code = next(path for path in files if path.suffix == ".nbc")
    whole = code.read_bytes()
    asked: list[Path] = []

    def counted(**how: Any) -> Driver:
        asked.append(Path(numba.config.CACHE_DIR))
        return build_driver(**how)

    monkeypatch.setattr(team, "build_driver", counted)
    for damaged in (True, False):
        if damaged:
            code.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        kernel = build(tmp_path, [])
        assert tuple(kernel.from_layout(LAYOUT, 16, 64)(torch.ones(1, 64)).shape) == (1, 16)
        assert [path.name for path in tmp_path.glob("numba*")] == ["numba"]
    assert [place.suffix for place in asked] == [".part", ""]


@pytest.mark.parametrize(
    ("seconds", "best"),
    [
        ({"first": 1.0, "second": 0.98}, "first"),
        ({"first": 1.0, "second": 0.9}, "second"),
        ({"first": 1.0, "second": 0.9, "third": 0.89}, "second"),
        ({"first": 1.0, "second": 1.1, "third": 0.5}, "third"),
        ({"only": 1.0}, "only"),
    ],
)
def test_only_a_clearly_faster_variant_is_preferred(seconds: dict[str, float], best: str) -> None:
    """Differences of a few percent come and go with the neighbours."""
    assert fastest(seconds) == best
