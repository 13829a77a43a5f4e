"""Compiled machine code on disk: found again, told apart, never believed when damaged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from chatglm_backend.int4.kernels.emit_ops import build_gates
from chatglm_backend.int4.kernels.native import NativeKernels, compile_module
from chatglm_backend.int4.kernels.objects import ObjectCode, keep_object, kept_object
from chatglm_backend.int4.kernels.ops import CompiledOps
from chatglm_backend.int4.kernels.team import Team
from chatglm_backend.int4.kernels.variants import host_cpu, usable_variants

USABLE = usable_variants(host_cpu())
CODE = ObjectCode(("one", "two"), b"\x7fELF\nwith a line break")
needs_avx2 = pytest.mark.skipif(not USABLE, reason="this CPU has no AVX2")


def gates(cache: Path | None) -> NativeKernels:
    """A small module, compiled or found."""
    return compile_module(USABLE[0], "gates", lambda triple: build_gates(USABLE[0], triple), cache)


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


@pytest.mark.parametrize("keep", [0, 5, 40, -1])
def test_half_a_file_counts_as_none(tmp_path: Path, keep: int) -> None:
    """Wherever it was cut."""
    keep_object(tmp_path, "gates", "key", CODE)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:keep])
    assert kept_object(tmp_path, "gates", "key") is None


@pytest.mark.parametrize("content", [b"null\n", b"{}\n", b"[1]\n", b'{"sha256": 1, "functions": 2}\n', b"\xff\xfe\n"])
def test_a_foreign_file_counts_as_none(tmp_path: Path, content: bytes) -> None:
    """Whatever lies in the code's place."""
    keep_object(tmp_path, "gates", "key", CODE)
    (file,) = tmp_path.iterdir()
    file.write_bytes(content)
    assert kept_object(tmp_path, "gates", "key") is None


def test_a_place_that_takes_no_files_is_no_error(tmp_path: Path) -> None:
    """Nothing is kept, nothing fails."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    keep_object(blocked, "gates", "key", CODE)
    assert kept_object(blocked, "gates", "key") is None


def test_names_that_were_changed_are_not_believed(tmp_path: Path) -> None:
    """A name that is not in the code would end the process."""
    keep_object(tmp_path, "gates", "key", CODE)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes().replace(b'"two"', b'"too"'))
    assert kept_object(tmp_path, "gates", "key") is None


def test_a_file_that_cannot_take_its_place_leaves_nothing_behind(tmp_path: Path) -> None:
    """As on a full disk, or where something lies in the way."""
    keep_object(tmp_path, "gates", "key", CODE)
    (file,) = tmp_path.iterdir()
    file.unlink()
    file.mkdir()
    (file / "in the way").touch()
    keep_object(tmp_path, "gates", "key", CODE)
    assert list(tmp_path.iterdir()) == [file]


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
    changed = replace(USABLE[0], prefetch=None)
    assert not compile_module(changed, "gates", lambda triple: build_gates(changed, triple), tmp_path).kept


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
