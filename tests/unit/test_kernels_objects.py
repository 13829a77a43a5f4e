"""Compiled machine code on disk: found again, told apart, never believed when damaged."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from chatglm_backend.int4.kernels.emit_gates import build_gates
from chatglm_backend.int4.kernels.native import NativeKernels, compile_module
from chatglm_backend.int4.kernels.objects import ObjectCode, keep_object, kept_object, seal, sealed
from chatglm_backend.int4.kernels.ops import CompiledOps
from chatglm_backend.int4.kernels.team import Team
from chatglm_backend.int4.kernels.variants import VARIANTS, Variant, host_cpu, usable_variants

USABLE = usable_variants(host_cpu())
CODE = ObjectCode(("one", "two"), b"\x7fELF\nwith a line break")
FOREIGN = (b"null\n", b"{}\n", b"[1]\n", b'{"sha256": 1, "functions": 2}\n', b"\xff\xfe\n")
needs_avx2 = pytest.mark.skipif(not USABLE, reason="this CPU has no AVX2")


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """The one file that keeping code makes."""
    keep_object(tmp_path, "gates", "key", CODE)
    (file,) = tmp_path.iterdir()
    return file


def gates(cache: Path, variant: Variant = USABLE[0] if USABLE else VARIANTS[0]) -> NativeKernels:
    """A small module, compiled or found."""
    return compile_module(variant, "gates", lambda triple: build_gates(variant, triple), cache)


def test_what_is_kept_is_found_under_its_key_only(tmp_path: Path) -> None:
    """Another key is other code."""
    keep_object(tmp_path, "gates", "key", CODE)
    assert kept_object(tmp_path, "gates", "key") == CODE
    assert kept_object(tmp_path, "gates", "another key") is None
    assert kept_object(tmp_path, "rows", "key") is None


def test_outdated_code_is_dropped(tmp_path: Path) -> None:
    """A new version's code takes the place of the old one's; other modules stay."""
    keep_object(tmp_path, "gates", "old", CODE)
    keep_object(tmp_path, "rows", "old", CODE)
    keep_object(tmp_path, "gates", "new", CODE)
    assert kept_object(tmp_path, "gates", "old") is None
    assert kept_object(tmp_path, "rows", "old") == CODE
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    "damaged",
    [
        *(lambda data, cut=cut: data[:cut] for cut in (0, 5, 40, -1)),
        *(lambda _, content=content: content for content in FOREIGN),
        lambda data: data.replace(b'"two"', b'"too"'),  # a name that is not in the code would end the process
    ],
)
def test_half_a_file_and_a_foreign_one_count_as_none(kept: Path, damaged: Callable[[bytes], bytes]) -> None:
    """Wherever it was cut, and whatever lies in the code's place."""
    kept.write_bytes(damaged(kept.read_bytes()))
    assert kept_object(kept.parent, "gates", "key") is None


def test_a_place_that_takes_no_files_is_no_error(tmp_path: Path) -> None:
    """Nothing is kept, nothing fails."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    keep_object(blocked, "gates", "key", CODE)
    assert kept_object(blocked, "gates", "key") is None


def test_a_folder_deleted_while_it_is_used_is_made_again(kept: Path) -> None:
    """Nothing is found in it, and what is compiled then is kept."""
    shutil.rmtree(kept.parent)
    assert kept_object(kept.parent, "gates", "key") is None
    keep_object(kept.parent, "gates", "key", CODE)
    assert kept_object(kept.parent, "gates", "key") == CODE


def test_a_file_that_cannot_take_its_place_leaves_nothing_behind(kept: Path) -> None:
    """As on a full disk, or where something lies in the way."""
    kept.unlink()
    kept.mkdir()
    (kept / "in the way").touch()
    keep_object(kept.parent, "gates", "key", CODE)
    assert list(kept.parent.iterdir()) == [kept]


def test_what_killed_writers_left_is_removed(tmp_path: Path) -> None:
    """What is younger may be somebody's who is writing now."""
    for name, age in (("old.1.part", 7200), ("young.2.part", 0)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    keep_object(tmp_path, "gates", "key", CODE)
    assert [path.name for path in tmp_path.glob("*.part")] == ["young.2.part"]


def test_a_sealed_folder_is_what_it_was(tmp_path: Path) -> None:
    """Every byte, every name."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "code").write_bytes(b"code")
    assert not sealed(tmp_path)
    seal(tmp_path)
    assert sealed(tmp_path)
    for change in (
        lambda: (tmp_path / "deep" / "code").write_bytes(b"coda"),
        lambda: (tmp_path / "more").touch(),
        lambda: (tmp_path / "checksums.json").write_bytes(b"["),
    ):
        seal(tmp_path)
        change()
        assert not sealed(tmp_path)


@needs_avx2
def test_the_second_time_nothing_is_compiled(tmp_path: Path) -> None:
    """Not even its LLVM code is written."""
    first = gates(tmp_path)
    second = compile_module(USABLE[0], "gates", lambda _: pytest.fail("compiled again"), tmp_path)
    assert (first.kept, second.kept) == (False, True)
    assert second.addresses.keys() == first.addresses.keys()


@needs_avx2
def test_code_of_another_variant_is_not_taken(tmp_path: Path) -> None:
    """Even under the same name."""
    gates(tmp_path)
    assert not gates(tmp_path, replace(USABLE[0], prefetch=None)).kept


@needs_avx2
def test_rubbish_is_compiled_anew(tmp_path: Path) -> None:
    """A damaged file costs its time, and is replaced."""
    gates(tmp_path)
    (file,) = (tmp_path / "native").iterdir()
    file.write_bytes(b"rubbish")
    assert [gates(tmp_path).kept, gates(tmp_path).kept] == [False, True]


@needs_avx2
def test_results_from_kept_code_are_the_same(tmp_path: Path) -> None:
    """Bit for bit."""
    x, team = torch.randn(3, 128), Team(1)
    fresh = CompiledOps(team, USABLE[0]).gelu(x)
    assert [gates(tmp_path).kept, gates(tmp_path).kept] == [False, True]
    assert torch.equal(CompiledOps(team, USABLE[0], tmp_path).gelu(x), fresh)
