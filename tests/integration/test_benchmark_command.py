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


def test_the_sweep_recommends_a_number_of_threads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In words for people and in the document; every count up to --threads is tried."""
    folder = tiny.build_checkpoint(tmp_path / "chatglm2-6b", "chatglm2")
    arguments = ["benchmark", "--model", str(folder), "--prompt-tokens", "8", "--new-tokens", "3", "--threads", "1"]
    assert main([*arguments, "--threads-sweep"]) == 0
    table, brace, rest = capsys.readouterr().out.partition("\n{\n")
    document = json.loads(brace + rest)
    assert [point["threads"] for point in document["sweep"]] == [1]
    assert document["recommended_threads"] == 1
    assert "--threads 1" in table


KEYS = {
    "prompt_tokens", "new_tokens", "batch", "ttft_s", "prefill_tok_s", "decode_tok_s", "itl_p50_ms", "itl_p95_ms",
    "kernel", "threads", "read_bandwidth_gb_s", "bandwidth_share", "draft_tokens",
}  # fmt: skip


def test_the_document_has_the_documented_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Scripts read them by name; guessed tokens are off unless asked for."""
    folder = tiny.build_checkpoint(tmp_path / "chatglm2-6b", "chatglm2")
    arguments = ["benchmark", "--model", str(folder), "--prompt-tokens", "8", "--new-tokens", "3", "--threads", "1"]
    assert main([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {"runs", "peak_rss_gb", "load_s"} == set(document)
    assert set(document["runs"][0]) >= KEYS
    assert document["runs"][0]["draft_tokens"] == 0


@pytest.mark.parametrize(
    "wrong",
    [
        ["--prompt-tokens", "none"],
        ["--prompt-tokens", "0"],
        ["--batch", "1,-2"],
        ["--new-tokens", "1"],
        ["--draft-tokens", "-1"],
        ["--kernel", "magic"],
        ["--synthetic", "chatglm-7b"],
        ["--threads", "0"],
        ["--json-out", "no/such/folder/out.json"],
        ["--plot", "no/such/folder/out.png"],
    ],
)
def test_wrong_values_are_refused_in_a_sentence(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 before anything is loaded, nothing on stdout, no traceback."""
    assert main(["benchmark", *wrong]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.strip()
    assert "Traceback" not in told.err
