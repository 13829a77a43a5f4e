"""The kernels' byte order: there and back, and its refusals."""

from __future__ import annotations

import numpy as np
import pytest

from chatglm_backend.errors import WrongShape
from chatglm_backend.int4.kernels import layout as layout_room
from chatglm_backend.int4.kernels.layout import layout_nbytes, repack


def random_bytes(out: int, in_: int) -> np.ndarray:
    """Any bytes are valid INT4 bytes here."""
    return np.random.default_rng(0).integers(0, 256, (out, in_ // 64 * 34), dtype=np.uint8)


@pytest.mark.parametrize(("out", "in_"), [(16, 64), (1, 64), (48, 320), (600, 128), (33, 4096)])
def test_chunks_and_scales_lie_as_described(out: int, in_: int) -> None:
    """Nothing is lost, also where the last group is not full: what it lacks is zeros."""
    packed = random_bytes(out, in_)
    groups, blocks, layout = -(-out // 16), in_ // 64, repack(packed, out, in_)
    chunks = layout[: groups * blocks * 512].reshape(groups, blocks, 8, 16, 4).transpose(0, 3, 1, 2, 4)
    scales = layout[groups * blocks * 512 :].reshape(groups, blocks, 16, 2).transpose(0, 2, 1, 3)
    rows = np.concatenate([scales, chunks.reshape(groups, 16, blocks, 32)], axis=-1).reshape(groups * 16, -1)
    np.testing.assert_array_equal(packed, rows[:out])
    assert not rows[out:].any()


@pytest.mark.parametrize("options", [{}, {"threads": 3}])
def test_slices_give_the_same_bytes_as_one_go(monkeypatch: pytest.MonkeyPatch, options: dict[str, int]) -> None:
    """Working through the rows in slices, side by side too, changes nothing; the last one is not full."""
    packed = random_bytes(200, 128)
    whole = repack(packed, 200, 128)
    monkeypatch.setattr(layout_room, "_STREAM_BYTES", 1)
    np.testing.assert_array_equal(whole, repack(packed, 200, 128, **options))


def test_full_groups_take_as_many_bytes_as_the_portable_form() -> None:
    """The derived entry is no larger than its source; odd row counts round up to 16."""
    assert random_bytes(130528, 64).size == layout_nbytes(130528, 64)
    assert layout_nbytes(608, 64) == layout_nbytes(600, 64)


def test_the_first_chunk_holds_four_bytes_of_each_row() -> None:
    """The documented order, byte by byte."""
    packed = random_bytes(16, 64)
    expected = packed[:, 2:6].reshape(-1)
    np.testing.assert_array_equal(expected, repack(packed, 16, 64)[:64])
    np.testing.assert_array_equal(packed[:, :2].reshape(-1), repack(packed, 16, 64)[-32:])


def test_a_given_target_is_filled() -> None:
    """A mapped file can be written in place."""
    packed = random_bytes(32, 64)
    target = np.zeros(layout_nbytes(32, 64), np.uint8)
    assert repack(packed, 32, 64, target) is target
    np.testing.assert_array_equal(repack(packed, 32, 64), target)


@pytest.mark.parametrize(("out", "in_"), [(16, 65), (16, 0), (0, 64)])
def test_shapes_that_have_no_layout_are_refused(out: int, in_: int) -> None:
    """Columns must be whole blocks and there must be rows."""
    with pytest.raises(WrongShape):
        layout_nbytes(out, in_)


def test_bytes_of_another_size_are_refused() -> None:
    """Source and target must fit the shape."""
    with pytest.raises(WrongShape):
        repack(random_bytes(16, 64), 32, 64)
    with pytest.raises(WrongShape):
        repack(random_bytes(16, 64), 16, 64, np.zeros(10, np.uint8))
