"""Layouts that kernels keep beside a low-bit folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from chatglm_backend.checkpoint.convert import convert
from chatglm_backend.checkpoint.lowbit import open_low_bit
from chatglm_backend.checkpoint.source import CheckpointFolder, inspect_folder
from chatglm_backend.errors import (
    DamagedLowBit,
)
from tests.tiny import build_checkpoint
from tests.unit.checkpoint_helpers import SMALL, flip_byte, quantize


@pytest.fixture
def source(tmp_path: Path) -> CheckpointFolder:
    """Return a small ChatGLM2-6B folder."""
    return inspect_folder(build_checkpoint(tmp_path / "chatglm2-6b", "chatglm2"))


@pytest.fixture
def target(source: CheckpointFolder, tmp_path: Path) -> Path:
    """Return its conversion."""
    return convert(source, tmp_path / "low-bit", quantize=quantize, options=SMALL)


def test_derived_layout_is_published_and_tagged(target: Path) -> None:
    """A kernel's layout is found again under its tag and for these weights only."""
    made = open_low_bit(target)
    names = sorted(n for n in made.names() if n.endswith("dense.weight"))
    specs = {n: (torch.uint8, tuple(made.get(n).shape)) for n in names}

    def flipped(name: str) -> list[Tensor]:
        return [255 - piece for piece in made.get(name).split(16)]

    assert made.layouts.find("vnni-1") is None
    made.layouts.publish("vnni-1", specs, flipped)
    found = open_low_bit(target).layouts.find("vnni-1")
    assert found is not None
    assert all(torch.equal(255 - made.get(n), found.get(n)) for n in names)
    assert made.layouts.find("vnni-2") is None
    made.layouts.publish("vnni-2", specs, flipped)
    assert made.layouts.find("vnni-1") is not None


def test_derived_layout_of_old_weights_does_not_count(source: CheckpointFolder, target: Path) -> None:
    """After a new conversion, or a change to its file, a derived layout is not used."""
    made = open_low_bit(target)
    name = next(n for n in made.names() if n.endswith("dense.weight"))
    specs = {name: (torch.uint8, tuple(made.get(name).shape))}
    made.layouts.publish("t", specs, lambda n: [made.get(n)])
    build_checkpoint(source.path, "chatglm2", seed=9)
    convert(inspect_folder(source.path), target, quantize=quantize)
    new = open_low_bit(target)
    assert new.layouts.find("t") is None
    new.layouts.publish("t", specs, lambda n: [new.get(n)])
    file = next((target / "derived").glob("*.safetensors"))
    for ahead in (False, True):  # also where it was read in a thread
        flip_byte(file, silently=True)
        new.layouts.read_ahead() if ahead else None
        assert new.layouts.find("t") is None
        flip_byte(file, silently=True)
        new.layouts.read_ahead() if ahead else None
        assert new.layouts.find("t") is not None
    flip_byte(file)
    assert new.layouts.find("t") is None


def test_notes_with_impossible_texts_are_damage(target: Path) -> None:
    """Half a character, and a name that no file can have."""
    made = open_low_bit(target)
    name = next(n for n in made.names() if n.endswith("dense.weight"))
    made.layouts.publish("t", {name: (torch.uint8, tuple(made.get(name).shape))}, lambda n: [made.get(n)])
    (entry,) = (target / "derived").glob("*.json")
    entry.write_text(json.dumps({**json.loads(entry.read_text()), "file": "\0"}))
    assert made.layouts.find("t") is None
    manifest = target / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "name": "\ud800"}))
    with pytest.raises(DamagedLowBit):
        open_low_bit(target)


def test_failed_derived_layout_leaves_nothing(target: Path) -> None:
    """A repacking that fails leaves no file."""
    made = open_low_bit(target)

    def fail(_: str) -> list[Tensor]:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        made.layouts.publish("t", {"x": (torch.uint8, (4,))}, fail)
    assert list((target / "derived").glob("*.safetensors")) == []
    assert made.layouts.find("t") is None
