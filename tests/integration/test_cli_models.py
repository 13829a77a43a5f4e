"""Models in the terminal: converting them, the cache, ``verify`` and ``doctor``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from cli_runner import ROOT, converted, document_of, ended, run, started

from tests import tiny
from tests.unit.checkpoint_helpers import flip_byte

pytestmark = pytest.mark.model


def test_convert_then_generate_from_the_result(folders: dict[tiny.Family, Path], tmp_path: Path) -> None:
    """A converted folder stands on its own and gives the same ids as its source."""
    out = tmp_path / "低 bit"
    done = run("convert", "--model", str(folders["chatglm2"]), "--out", str(out), "--json")
    assert (done.returncode, json.loads(done.stdout)["path"]) == (0, str(out))
    ask = ("generate", "--n-predict", "6", "--model")
    assert document_of(*ask, str(folders["chatglm2"]))["token_ids"] == document_of(*ask, str(out))["token_ids"]


def test_no_cache_writes_nothing(folders: dict[tiny.Family, Path], tmp_path: Path) -> None:
    """--no-cache makes no cache folder."""
    ask = ("generate", "--model", str(folders["chatglm"]), "--n-predict", "2", "--no-cache")
    assert run(*ask, CHATGLM_CACHE=str(tmp_path / "cache")).returncode == 0
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("wrong", ["missing", "pointer", "damaged", "another model's"])
def test_a_tokenizer_that_cannot_be_read_is_named_before_converting(tmp_path: Path, wrong: str) -> None:
    """The sentence names the user's own file, and nothing was converted for it.

    A vocabulary that is larger than the model's own would end in the middle of an answer.
    """
    foreign = wrong == "another model's"
    folder = tiny.build_checkpoint(tmp_path / "chatglm2-6b", "chatglm2")
    file = folder / ("config.json" if foreign else "tokenizer.model")
    contents = {"pointer": "version https://git-lfs.github.com/spec/v1\n", "damaged": "no model" * 9}
    contents["another model's"] = json.dumps(tiny.config_of("chatglm2") | {"padded_vocab_size": 64})
    file.unlink()
    if wrong in contents:
        file.write_text(contents[wrong], encoding="utf-8")
    done = run("generate", "--model", str(folder), "--n-predict", "2")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert ("do not belong together" if foreign else str(file)) in done.stderr
    assert converted() == []


def test_weights_without_their_tokenizer_can_be_converted_but_not_asked(tmp_path: Path) -> None:
    """Converting says at once what the result cannot do, and asking it is one sentence."""
    folder = tiny.build_checkpoint(tmp_path / "chatglm2-6b", "chatglm2", padded_vocab_size=64)
    (folder / "tokenizer_config.json").unlink()
    whole, bare = tmp_path / "whole", tmp_path / "bare"
    done = run("convert", "--model", str(folder), "--out", str(whole))
    assert (done.returncode, "do not belong together" in done.stderr) == (0, True)
    (folder / "tokenizer.model").unlink()
    done = run("convert", "--model", str(folder), "--out", str(bare), "--json")
    assert (done.returncode, json.loads(done.stdout)["ok"]) == (0, True)
    assert "tokenizer.model is missing" in done.stderr
    for low_bit, words in ((whole, "do not belong together"), (bare, "tokenizer.model is missing")):
        asked = run("generate", "--model", str(low_bit), "--n-predict", "2")
        assert (asked.returncode, asked.stdout, asked.stderr.count("\n")) == (1, "", 1)
        assert words in asked.stderr


def test_a_damaged_low_bit_file_is_named_and_made_again(folders: dict[tiny.Family, Path]) -> None:
    """The answer is the same as before, and one line says what was wrong."""
    arguments = ("generate", "--model", str(folders["chatglm3"]), "--n-predict", "6", "--json")
    before = run(*arguments)
    file = max(converted(), key=lambda path: path.stat().st_size)
    flip_byte(file)
    after = run(*arguments)
    assert json.loads(before.stdout)["token_ids"] == json.loads(after.stdout)["token_ids"]
    assert (after.returncode, after.stderr.count("\n")) == (0, 1)
    assert file.name in after.stderr


def test_a_guessed_family_is_said(tmp_path: Path) -> None:
    """Where nothing tells ChatGLM2 from ChatGLM3, one line says what was taken and how to choose."""
    folder = tiny.build_checkpoint(tmp_path / "my model", "chatglm2", _name_or_path="")
    (folder / "tokenizer_config.json").unlink()
    guessed = run("generate", "--model", str(folder), "--n-predict", "2", "--json", "--no-cache")
    chosen = run("generate", "--model", str(folder), "--n-predict", "2", "--json", "--family", "chatglm3", "--no-cache")
    assert (json.loads(guessed.stdout)["family"], json.loads(chosen.stdout)["family"]) == ("chatglm2", "chatglm3")
    assert "--family chatglm3" in guessed.stderr
    assert chosen.stderr == ""
    assert "--family" in json.loads(chosen.stdout)["family_reason"]


def test_a_cache_that_cannot_be_written_is_one_sentence(folders: dict[tiny.Family, Path], tmp_path: Path) -> None:
    """A file where the cache folder should be is named."""
    place = tmp_path / "file"
    place.write_text("")
    done = ended(started("generate", "--model", str(folders["chatglm2"]), CHATGLM_CACHE=str(place)))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert str(place) in done.stderr


def test_cache_list_and_delete(folders: dict[tiny.Family, Path], tmp_path: Path) -> None:
    """What generate keeps where the configuration file says is listed, and can be deleted by its name."""
    config = tmp_path / "config.toml"
    config.write_text(f"cache = {json.dumps(os.environ['CHATGLM_CACHE'])}\n", encoding="utf-8")
    where = {"CHATGLM_CONFIG": str(config), "CHATGLM_CACHE": ""}
    run("generate", "--model", str(folders["chatglm2"]), "--n-predict", "1", **where)
    (entry,) = document_of("cache", "list", **where)["entries"]
    assert entry["kind"] == "low-bit"
    assert run("cache", "delete", entry["name"], "--yes", **where).returncode == 0
    assert document_of("cache", "list", **where)["entries"] == []


@pytest.mark.parametrize("arguments", [[], ["--precision", "int4"], ["--precision", "int4", "--kernel", "exact"]])
def test_verify_accepts_the_goldens(arguments: list[str]) -> None:
    """The command's document has the promised keys, and exit code 0 means ok."""
    done = run("verify", str(ROOT / "tests/golden/chatglm3-6b"), *arguments, "--json")
    document: dict[str, Any] = json.loads(done.stdout)
    assert (done.returncode, document["ok"]) == (0, True)
    assert {"prefill_rel_error", "decode_rel_error", "greedy_match"} <= set(document["cases"][0])
    assert document["max_rel_error"] <= 5e-2


def test_verify_fails_past_the_tolerance() -> None:
    """A tolerance that cannot be met: exit code 1 and ok false."""
    done = run("verify", str(ROOT / "tests/golden/chatglm2-6b"), "--tolerance", "1e-12", "--json")
    assert (done.returncode, json.loads(done.stdout)["ok"]) == (1, False)


def test_verify_without_expected_values_is_not_ok(folders: dict[tiny.Family, Path]) -> None:
    """Nothing to compare with is a failure, also in JSON."""
    done = run("verify", str(folders["chatglm2"]), "--json")
    assert (done.returncode, json.loads(done.stdout)["ok"]) == (1, False)
    assert "tests/golden" in done.stderr
    assert "ownload" not in done.stderr


def test_doctor_tells_everything_in_json(folders: dict[tiny.Family, Path]) -> None:
    """Hardware, library, kernel, thread plan, versions, folders and what to fix."""
    done = run("doctor", "--json", CHATGLM_MODEL=str(folders["chatglm2"]))
    document = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert document["hardware"]["plan"]["reasons"]
    assert document["int4"]["variant"]
    assert document["int4"]["kernel"]
    kernels = {(one["kernel"], one["variant"]): one for one in document["int4"]["kernels"]}
    assert kernels["bigdl", document["int4"]["variant"]]["usable"]
    assert all(one["usable"] or one["reason"] for one in kernels.values())
    assert {kernel for kernel, _ in kernels} == {"vnni", "bigdl", "exact"}
    models = {one["name"]: one for one in document["models"]}
    assert models["chatglm-6b"]["kv_bytes_per_token"] == 2 * 28 * 4096 * 2
    assert models["chatglm3-6b-128k"]["kv_bytes_full"] == 131072 * 28 * 1024
    assert models["chatglm3-6b-128k"]["hint"]
    reuse = document["int4"]["prefix_reuse"]
    assert reuse["chatglm"] == "on for a question that is asked again or an answer that goes on, up to 512 MB"
    assert reuse["chatglm3"] == "on, up to 512 MB"
    assert isinstance(document["fixes"], list)


def test_doctor_names_what_is_not_there_or_cannot_be_used(tmp_path: Path) -> None:
    """A wrong model, a file in a cache folder's place, and a proxy that no download can use are things to fix."""
    (tmp_path / "file").touch()
    blocked = {"CHATGLM_CACHE": str(tmp_path / "file" / "cache"), "HF_HOME": str(tmp_path / "file")}
    found = document_of("doctor", CHATGLM_MODEL="/no/such/folder", https_proxy="gibberish://x", **blocked)
    for name in ("/no/such/folder", "CHATGLM_CACHE", "HF_HOME", "https_proxy=gibberish://x"):
        assert name in " ".join(found["fixes"])


def test_doctor_ends_with_what_to_fix() -> None:
    """Without any model the last line says how to get one."""
    done = run("doctor")
    assert done.returncode == 0
    assert "\nTo fix:\n" in done.stdout or done.stdout.endswith("Nothing to fix.\n")
