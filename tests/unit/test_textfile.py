"""Reading JSON that other programs wrote."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatglm_backend.errors import CheckpointError, DamagedFile, LfsPointerFile, MissingFile
from chatglm_backend.textfile import read_json


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_files_of_windows_editors_are_read(tmp_path: Path, encoding: str) -> None:
    """A byte order mark is no part of the text; PowerShell writes UTF-16."""
    file = tmp_path / "config.json"
    file.write_bytes('{"名": 1}'.encode(encoding))
    assert read_json(file) == {"名": 1}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[1]",
        b"\xff\x00",
        b'{"a":' * 70 + b"1" + b"}" * 70,
        b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        b'{"a": ' + b"9" * 10_000 + b"}",
        b" " * (65 << 20),
    ],
    ids=["empty", "half", "list", "bytes", "deep", "very deep", "endless number", "huge"],
)
def test_hostile_files_are_one_sentence(tmp_path: Path, content: bytes) -> None:
    """Nothing that stands in a file ends the program."""
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(DamagedFile, match=r"config\.json"):
        read_json(tmp_path / "config.json")


def test_what_is_not_the_file_itself_is_said(tmp_path: Path) -> None:
    """A missing file, a folder and a git-lfs pointer each have their own sentence."""
    with pytest.raises(MissingFile):
        read_json(tmp_path / "none.json")
    assert read_json(tmp_path / "none.json", optional=True) == {}
    with pytest.raises(CheckpointError):
        read_json(tmp_path)
    (tmp_path / "p").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(LfsPointerFile):
        read_json(tmp_path / "p")
