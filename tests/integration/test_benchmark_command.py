"""The benchmark as people start it, on a small random model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chatglm_backend.checkpoint.default import bundled_folder
from chatglm_backend.cli.app import main
from tests import tiny

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A short benchmark of a small model."""
    folder = tiny.build_checkpoint(tmp_path_factory.mktemp("model") / "chatglm2-6b", "chatglm2")
    return ["benchmark", "--model", str(folder), "--prompt-tokens=8", "--new-tokens=3", "--threads=1"]


def test_the_command_ends_with_one_document(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table for people, then the JSON, which --json-out keeps too; with --json nothing else. Drafts are off."""
    file = tmp_path / "out.json"
    assert main([*command, "--json-out", str(file)]) == 0
    table, brace, rest = capsys.readouterr().out.partition("\n{\n")
    assert "prefill tok/s" in table
    assert json.loads(brace + rest) == json.loads(file.read_text(encoding="utf-8"))
    assert main([*command, "--batch", "1,2", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {"runs", "peak_rss_gb", "load_s"} == set(document)
    assert [(run["batch"], run["threads"], run["draft_tokens"]) for run in document["runs"]] == [(1, 1, 0), (2, 1, 0)]


def test_the_bundled_model_and_its_fine_tune_stand_beside_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    """In the table with the ratio of their speeds, and in the document."""
    tune = bundled_folder() / "friendly-lora"
    given = ["--adapter", f"poet={tune}", "--prompt-tokens=8", "--new-tokens=3", "--threads=1"]
    assert main(["benchmark", "--model", str(bundled_folder()), *given]) == 0
    table, brace, rest = capsys.readouterr().out.partition("\n{\n")
    assert [run["adapter"] for run in json.loads(brace + rest)["runs"]] == ["", "poet"]
    assert "×)" in table.partition("poet")[2]


def test_the_sweep_recommends_a_number_of_threads(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """In words for people and in the document; every count up to --threads is tried."""
    assert main([*command, "--threads-sweep"]) == 0
    table, brace, rest = capsys.readouterr().out.partition("\n{\n")
    document = json.loads(brace + rest)
    assert [point["threads"] for point in document["sweep"]] == [1]
    assert document["recommended_threads"] == 1
    assert "--threads 1" in table
