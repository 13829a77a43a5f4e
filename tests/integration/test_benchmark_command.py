"""The benchmark as people start it, on a small random model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chatglm_backend.cli.app import main
from tests import tiny

pytestmark = pytest.mark.model


def test_the_command_ends_with_one_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table for people, then the JSON, which --json-out keeps too; with --json nothing else."""
    folder = tiny.build_checkpoint(tmp_path / "chatglm3-6b", "chatglm3")
    file = tmp_path / "out.json"
    arguments = ["benchmark", "--model", str(folder), "--prompt-tokens", "8", "--new-tokens", "3", "--threads", "1"]
    assert main([*arguments, "--json-out", str(file)]) == 0
    table, brace, rest = capsys.readouterr().out.partition("\n{\n")
    assert "prefill tok/s" in table
    assert json.loads(brace + rest) == json.loads(file.read_text(encoding="utf-8"))
    assert main([*arguments, "--batch", "1,2", "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert [(run["batch"], run["threads"]) for run in runs] == [(1, 1), (2, 1)]
