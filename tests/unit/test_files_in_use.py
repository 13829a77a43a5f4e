"""Stores and conversions where files in use cannot be replaced or deleted, as on Windows (see windows_files.py).

Tests of other files that are imported here run once more, by these rules.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from chatglm_backend.checkpoint.lowbit import LowBitCheckpoint
from chatglm_backend.checkpoint.prepare import Preparation, prepare
from tests.tiny import build_checkpoint
from tests.unit.checkpoint_helpers import flip_byte, largest_weights, quantize
from tests.unit.test_batch import test_a_line_that_was_cut_off_anywhere_is_answered_again  # noqa: F401
from tests.unit.test_checkpoint_derived import (  # noqa: F401
    source,
    target,
    test_derived_layout_is_published_and_tagged,
    test_derived_layout_of_old_weights_does_not_count,
)
from tests.unit.test_kernels_objects import test_outdated_code_is_dropped  # noqa: F401
from tests.unit.test_store_files import test_a_damaged_file_is_set_aside  # noqa: F401
from tests.unit.test_store_kv_blocks import (  # noqa: F401
    test_the_folder_is_bounded,
    test_two_writers_leave_whole_blocks_or_none,
    test_what_was_deleted_does_not_come_again,
)
from tests.unit.windows_files import forbid_what_windows_forbids

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc; Windows has these rules by itself")


@pytest.fixture(autouse=True)
def refused(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What was refused."""
    with monkeypatch.context() as patch:
        yield forbid_what_windows_forbids(patch)


def test_the_rules_are_kept(tmp_path: Path, refused: list[str]) -> None:
    """Open and mapped files stay; others go."""
    file = tmp_path / "file"
    file.write_bytes(bytes(8192))
    mapped = torch.from_file(str(file), size=2048)
    with pytest.raises(PermissionError):
        file.unlink()
    with pytest.raises(PermissionError):
        tmp_path.rename(tmp_path.with_name("other"))
    del mapped
    with file.open("rb"), pytest.raises(PermissionError):
        file.replace(tmp_path / "moved")
    file.unlink()
    assert len(refused) == 3


def test_a_conversion_that_is_in_use_is_left_for_later(tmp_path: Path, refused: list[str]) -> None:
    """A changed or damaged one is made again beside it, and it goes when nobody maps it any more."""
    how = Preparation(quantize=quantize, env={"CHATGLM_CACHE": str(tmp_path / "cache")})
    model = build_checkpoint(tmp_path / "chatglm2-6b", "chatglm2")
    first = prepare(str(model), how)
    assert isinstance(first, LowBitCheckpoint)
    flip_byte(largest_weights(first.folder))
    again = prepare(str(model), how)
    build_checkpoint(model, "chatglm2", seed=8)
    changed = prepare(str(model), how)
    assert isinstance(changed, LowBitCheckpoint)
    assert refused
    old = first.folder
    assert old.is_dir()
    del first, again
    build_checkpoint(model, "chatglm2", seed=9)
    last = prepare(str(model), how)
    assert isinstance(last, LowBitCheckpoint)
    assert not old.exists()
