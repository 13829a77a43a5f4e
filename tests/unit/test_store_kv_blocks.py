"""What was read of a conversation, on disk: found by every id, or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from chatglm_backend.core import KeptAs
from chatglm_backend.store.kv_blocks import BLOCK, Binding, KVBlocks
from tests.unit.checkpoint_helpers import flip_byte

TOKEN_BYTES = 6
IDS = tuple(range(1000, 1000 + 2 * BLOCK + 10))
ADA = Binding(KeptAs("ada", "one"), "weights")


def bytes_of(start: int, end: int) -> bytes:
    """What stands for the K/V of these tokens."""
    return b"".join(index.to_bytes(TOKEN_BYTES, "little") for index in range(start, end))


def kept(root: Path, *, max_bytes: int = 1 << 20, days: int = 0, ids: tuple[int, ...] = IDS) -> KVBlocks:
    """A folder with a conversation of two whole blocks and the beginning of a third."""
    blocks = KVBlocks(root, max_bytes=max_bytes, days=days)
    blocks.write(ADA, ids, TOKEN_BYTES, bytes_of)
    return blocks


def read(blocks: KVBlocks, ids: tuple[int, ...], binding: Binding = ADA) -> int:
    """How many leading tokens are known; their bytes are checked."""
    known = 0
    for index in range(len(ids) // BLOCK + 1):
        same, data = blocks.read(binding, index, ids, TOKEN_BYTES)
        assert data.startswith(bytes_of(index * BLOCK, index * BLOCK + same))
        known += same
        if same < BLOCK:
            break
    return known


def sha(text: str) -> str:
    """The name of a folder."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def files_of(root: Path) -> list[Path]:
    """All files, those of one folder in order."""
    return sorted(path for path in root.rglob("*") if path.is_file())


def test_every_token_is_compared(tmp_path: Path) -> None:
    """Also those of earlier blocks, on which a block's bytes depend: one of an earlier version is none."""
    blocks = kept(tmp_path)
    assert read(blocks, IDS) == len(IDS)
    assert read(blocks, (*IDS[: BLOCK + 3], 7, 7)) == BLOCK + 3
    changed = (7, *IDS[1:])
    assert read(blocks, changed) == 0
    blocks.write(ADA, changed[:BLOCK], TOKEN_BYTES, bytes_of)
    assert read(blocks, IDS) == 0
    assert read(blocks, changed) == BLOCK


def test_a_conversation_that_grows_writes_only_what_is_new(tmp_path: Path) -> None:
    """A block is written once; the last one again when it is longer."""
    asked: list[tuple[int, int]] = []

    def block(start: int, end: int) -> bytes:
        asked.append((start, end))
        return bytes_of(start, end)

    blocks = kept(tmp_path)
    blocks.write(ADA, IDS, TOKEN_BYTES, block)
    blocks.write(ADA, IDS[:-5], TOKEN_BYTES, block)
    longer = (*IDS, 1, 2, 3)
    blocks.write(ADA, longer, TOKEN_BYTES, block)
    assert asked == [(2 * BLOCK, len(longer))]
    assert read(blocks, longer) == len(longer)


def test_a_changed_byte_anywhere_is_noticed(tmp_path: Path) -> None:
    """In the digest, the ids or the bytes: the block is as if it had never been, and can be written again."""
    blocks = kept(tmp_path, ids=IDS[:10])
    (path,) = files_of(tmp_path)
    for place in range(path.stat().st_size):
        flip_byte(path, place)
        assert (read(blocks, IDS), path.exists()) == (0, False)
        blocks.write(ADA, IDS[:10], TOKEN_BYTES, bytes_of)
        assert read(blocks, IDS) == 10


@pytest.mark.parametrize("length", [0, 1, 31, 32, 33, 400])
def test_a_torn_block_is_none(tmp_path: Path, length: int) -> None:
    """As a machine leaves it that lost its power."""
    blocks = kept(tmp_path)
    first = files_of(tmp_path)[0]
    first.write_bytes(first.read_bytes()[:length])
    assert read(blocks, IDS) == 0
    blocks.write(ADA, IDS, TOKEN_BYTES, bytes_of)
    assert read(blocks, IDS) == len(IDS)


@pytest.mark.parametrize("parts", [("ben", "one", "weights"), ("ada", "two", "weights"), ("ada", "one", "others")])
def test_nobody_elses_and_no_other_models_blocks_are_seen(tmp_path: Path, parts: tuple[str, str, str]) -> None:
    """Not even where a file was put into another's place."""
    other = Binding(KeptAs(*parts[:2]), parts[2])
    blocks = kept(tmp_path)
    assert read(blocks, IDS, other) == 0
    blocks.write(other, IDS, TOKEN_BYTES, bytes_of)
    mine, theirs = sorted({path.parent for path in files_of(tmp_path)}, key=lambda folder: folder.stat().st_mtime)
    for path in mine.iterdir():
        path.replace(theirs / path.name)
    assert read(blocks, IDS, other) == 0


def test_what_was_deleted_does_not_come_again(tmp_path: Path) -> None:
    """Also where it is being written; a visitor's other conversations stay until all are deleted."""
    blocks = kept(tmp_path)
    second = Binding(KeptAs("ada", "two"), "weights")
    blocks.write(second, IDS, TOKEN_BYTES, bytes_of)

    def deleted_meanwhile(start: int, end: int) -> bytes:
        blocks.delete(ADA.kept_as)
        return bytes_of(start, end)

    blocks.write(ADA, (*IDS, *range(BLOCK)), TOKEN_BYTES, deleted_meanwhile)
    assert (read(blocks, IDS), read(blocks, IDS, second)) == (0, len(IDS))
    blocks.delete(KeptAs("ada", ""))
    assert files_of(tmp_path) == []


def test_the_folder_is_bounded(tmp_path: Path) -> None:
    """By bytes, where those go that were left alone longest, and by days; one that is too large alone is not kept."""
    size = sum(path.stat().st_size for path in files_of(kept(tmp_path / "one").root))
    blocks = KVBlocks(tmp_path / "few", max_bytes=2 * size + 10, days=2)
    first, second, third = (Binding(KeptAs("ada", str(number)), "weights") for number in range(3))

    def age(binding: Binding, seconds: float) -> None:
        folder = blocks.root / sha(binding.kept_as.visitor) / sha(binding.kept_as.conversation)
        os.utime(folder, (time.time() - seconds,) * 2)

    blocks.write(first, IDS, TOKEN_BYTES, bytes_of)
    blocks.write(second, IDS, TOKEN_BYTES, bytes_of)
    age(first, 200)
    age(second, 100)
    assert read(blocks, IDS, first) == len(IDS)  # which makes it the latest
    blocks.write(third, IDS, TOKEN_BYTES, bytes_of)
    assert [read(blocks, IDS, one) for one in (first, second, third)] == [len(IDS), 0, len(IDS)]
    age(first, 3 * 86400)
    blocks.write(third, (*IDS, 1), TOKEN_BYTES, bytes_of)
    assert [read(blocks, IDS, one) for one in (first, third)] == [0, len(IDS)]
    assert read(kept(tmp_path / "none", max_bytes=size - 1), IDS) == 0


def test_only_the_owner_may_look(tmp_path: Path) -> None:
    """What a conversation says can be read out of its keys and values."""
    blocks = kept(tmp_path / "kv")
    for path in (blocks.root, *files_of(blocks.root)):
        assert sys.platform == "win32" or path.stat().st_mode & 0o077 == 0, path


def test_two_writers_leave_whole_blocks_or_none(tmp_path: Path) -> None:
    """As two servers that share a folder do."""
    writers = [KVBlocks(tmp_path, max_bytes=1 << 20) for _ in range(2)]

    def write(blocks: KVBlocks) -> None:
        for length in range(5, len(IDS), 9):
            blocks.write(ADA, IDS[:length], TOKEN_BYTES, bytes_of)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, writers))
    assert read(writers[0], IDS) <= len(IDS)  # every byte that is read is checked
    writers[1].write(ADA, IDS, TOKEN_BYTES, bytes_of)
    assert read(writers[0], IDS) == len(IDS)


def test_a_folder_deleted_while_it_is_used_is_as_if_nothing_was_kept(tmp_path: Path) -> None:
    """The next answer's blocks make it again."""
    blocks = kept(tmp_path / "kv")
    shutil.rmtree(tmp_path / "kv")
    assert read(blocks, IDS) == 0
    blocks.write(ADA, IDS, TOKEN_BYTES, bytes_of)
    assert read(blocks, IDS) == len(IDS)


def test_a_full_disk_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would take the room that is missing."""

    def full(descriptor: int, _: str) -> None:
        os.close(descriptor)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdopen", full)
        with pytest.raises(OSError, match="No space"):
            kept(tmp_path)
    assert files_of(tmp_path) == []
    assert read(kept(tmp_path), IDS) == len(IDS)
