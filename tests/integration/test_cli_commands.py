"""The terminal as people use it: small random models, stdout and stderr apart.

What a process of its own shows (third parties' log lines, pipes, signals) runs in one; the rest shares this one.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from chatglm_backend.cli.app import main
from chatglm_backend.sentences import load_texts
from tests import tiny
from tests.unit.checkpoint_helpers import flip_byte

pytestmark = pytest.mark.model

ROOT = Path(__file__).resolve().parents[2]
PROMPT_LINE = "-------------------- Prompt --------------------"
OUTPUT_LINE = "-------------------- Output --------------------"


interrupts = pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT to one process, which Windows cannot")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[tiny.Family, Path]:
    """One small checkpoint of each family."""
    root = tmp_path_factory.mktemp("models")
    return {
        family: tiny.build_checkpoint(root / tiny.NAMES[family], family, form="bin" if i else "safetensors")
        for i, family in enumerate(tiny.FAMILIES)
    }


def environment(**changes: str) -> dict[str, str]:
    """The test's own environment with few threads."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "", "NO_COLOR": "1", **changes}


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it wrote."""

    returncode: int
    stdout: str
    stderr: str


def without_progress(text: str) -> str:
    """What was said, without the lines that a slow machine gets while it loads."""
    texts = load_texts("en")
    stages = (texts(code) for code in texts.codes if code.startswith("load."))
    progress = tuple(f"{stage}{mark}" for stage in stages for mark in (" [", " ..."))
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith(progress))


def run(*arguments: str, text: str = "", **changes: str) -> Done:
    """Run one command to its end, here."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(**changes).items():
            patch.setenv(name, value)
        patch.setattr(sys, "stdin", io.StringIO(text))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(arguments)
    return Done(code, out.getvalue(), without_progress(err.getvalue()))


def started(*arguments: str, **changes: str) -> Any:
    """Start one command in a process of its own, its three streams apart."""
    command = [sys.executable, "-m", "chatglm_backend", *arguments]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(command, cwd=ROOT, env=environment(**changes), encoding="utf-8", **pipes)


def ended(process: Any, seconds: float = 110) -> Done:
    """Wait for the end of a process."""
    with process:
        out, err = process.communicate(timeout=seconds)
    return Done(process.returncode, out, without_progress(err))


def converted() -> list[Path]:
    """The weights of low-bit checkpoints in the test's cache."""
    return sorted(Path(os.environ["CHATGLM_CACHE"]).glob("low-bit/**/*.safetensors"))


def document_of(*arguments: str, **options: str) -> dict[str, Any]:
    """What a command says with ``--json``."""
    found: dict[str, Any] = json.loads(run(*arguments, "--json", **options).stdout)
    return found


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_generate_prints_the_recipes_form(folders: dict[tiny.Family, Path], family: tiny.Family) -> None:
    """Inference time, prompt with its format, prompt and answer; on stderr one line, that the limit ended it."""
    command = ("generate", "--repo-id-or-model-path", str(folders[family]), "--n-predict", "6")
    done = ended(started(*command)) if family == "chatglm" else run(*command)
    lines = done.stdout.split("\n")
    assert (done.returncode, done.stderr.count("\n")) == (0, 1)
    assert "at its limit of 6 tokens; --n-predict" in done.stderr
    assert re.fullmatch(r"Inference time: \d+\.\d+ s", lines[0])
    assert lines[1:5] == [PROMPT_LINE, "问：AI是什么？", "答：", OUTPUT_LINE]
    shown = "问：AI是什么？\n答："
    answer = "\n".join(lines[5:])
    assert answer.startswith(shown)
    assert len(answer.strip()) > len(shown)


def test_streaming_shows_the_same_answer(folders: dict[tiny.Family, Path]) -> None:
    """What --stream shows piece by piece is what the other form prints at the end."""
    arguments = ("generate", "--model", str(folders["chatglm"]), "--max-new-tokens", "12", "--prompt", "What is AI?")
    whole, streamed = run(*arguments), run(*arguments, "--stream")
    body = whole.stdout.split(OUTPUT_LINE + "\n")[1].rstrip("\n")
    assert streamed.returncode == 0
    assert body in streamed.stdout
    assert re.search(r"\nInference time: \d+\.\d+ s\n$", streamed.stdout)


def test_json_is_one_document(folders: dict[tiny.Family, Path]) -> None:
    """--json: exactly one document with text, ids, usage and timing."""
    done = run("generate", "--model", str(folders["chatglm3"]), "--n-predict", "5", "--json", "--stream")
    document = json.loads(done.stdout)
    assert (done.returncode, done.stderr, document["usage"]["completion_tokens"]) == (0, "", 5)
    assert document["formatted_prompt"] == "问：AI是什么？\n答："
    assert document["output"].endswith(document["text"])
    assert document["timing"]["total_s"] == document["inference_time_s"]


def test_sampling_is_repeatable_with_a_seed(folders: dict[tiny.Family, Path]) -> None:
    """The same seed gives the same ids, another one others."""
    ask = ("generate", "--model", str(folders["chatglm2"]), "--temperature", "1.5", "--n-predict", "12", "--seed")
    first, again, other = (document_of(*ask, seed)["token_ids"] for seed in ("1", "1", "2"))
    assert first == again != other


def test_a_stop_text_cuts_the_answer(folders: dict[tiny.Family, Path]) -> None:
    """The output ends before the stop text, and says why it ended."""
    base = ("generate", "--model", str(folders["chatglm2"]), "--n-predict", "24")
    whole = document_of(*base)
    stop = next(c for c in whole["text"][2:] if c.isascii() and c.isprintable() and c not in whole["text"][:2])
    cut = document_of(*base, "--stop", stop)
    assert cut["finish_reason"] == "stop"
    assert cut["text"] == whole["text"].split(stop)[0]
    assert cut["output"] == cut["formatted_prompt"] + cut["text"]


def test_a_prompt_that_does_not_fit_is_told_with_numbers(folders: dict[tiny.Family, Path]) -> None:
    """Prompt tokens and limit are in the sentence."""
    done = run("generate", "--model", str(folders["chatglm2"]), "--prompt", "-", text="AI " * 2000)
    assert (done.returncode, done.stdout) == (1, "")
    assert "512" in done.stderr


def test_an_answer_fits_a_schema_from_a_file(folders: dict[tiny.Family, Path], tmp_path: Path) -> None:
    """And from a pipe, where one that cannot be kept to is a sentence."""
    file = tmp_path / "schema.json"
    file.write_text('{"type": "array", "items": {"enum": ["甲"]}, "minItems": 2, "maxItems": 2}', encoding="utf-8-sig")
    ask = ("generate", "--model", str(folders["chatglm3"]), "--json-schema")
    assert json.loads(document_of(*ask, str(file))["text"]) == ["甲", "甲"]
    done = run(*ask, "-", text='{"not": {}}')
    assert (done.returncode, done.stdout) == (1, "")
    assert "The JSON schema cannot be used: what it asks with not" in done.stderr


def test_a_prompt_from_a_pipe_has_no_line_break_at_its_end(folders: dict[tiny.Family, Path]) -> None:
    """``echo hi | … --prompt -`` asks what ``--prompt hi`` asks; a break inside stays. CHATGLM_MODEL is the default."""
    ask = ("generate", "--n-predict", "2", "--prompt", "-")
    document = document_of(*ask, text="a\nb\n", CHATGLM_MODEL=str(folders["chatglm2"]))
    assert (document["prompt"], document["family"]) == ("a\nb", "chatglm2")


@pytest.mark.skipif(os.name == "nt", reason="a closed standard input is a shell's doing")
@pytest.mark.parametrize("arguments", [("generate", "--prompt", "-"), ("chat",)])
def test_a_closed_standard_input_is_an_empty_one(folders: dict[tiny.Family, Path], arguments: tuple[str, ...]) -> None:
    """Started by a service without any input, a command still ends in order."""
    words = [sys.executable, "-m", "chatglm_backend", *arguments, "--model", str(folders["chatglm2"]), "--json"]
    command = ["sh", "-c", 'exec "$@" <&-', "sh", *words, "--n-predict", "2"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", cwd=ROOT, env=environment(), check=False)
    assert (done.returncode, json.loads(done.stdout)["ok"], without_progress(done.stderr)) == (0, True, "")


def test_a_question_that_cannot_be_answered_is_in_the_document(folders: dict[tiny.Family, Path]) -> None:
    """The others are answered; the exit code tells a script."""
    text = "hi\n" + "AI " * 2000 + "\nhi\n"
    done = run("chat", "--model", str(folders["chatglm2"]), "--n-predict", "2", "--json", text=text)
    document = json.loads(done.stdout)
    assert (done.returncode, document["ok"]) == (1, False)
    assert ["error" in turn for turn in document["turns"]] == [False, True, False]
    assert document["turns"][1]["error"]["code"] == "context_limit"


def test_a_batch_goes_on_where_it_was(folders: dict[tiny.Family, Path], tmp_path: Path) -> None:
    """Prompts of a text are answered as the endpoint would; what has an answer is not asked again."""
    (tmp_path / "in.txt").write_text("hello\nAI\nhi\n", encoding="utf-8")
    files = str(tmp_path / "in.txt"), str(tmp_path / "out.jsonl")
    ask = ("batch", *files, "--model", str(folders["chatglm3"]), "--n-predict", "4", "--template", "{text}!")
    document = document_of(*ask)
    lines = (tmp_path / "out.jsonl").read_bytes().splitlines(keepends=True)
    assert (document["ok"], document["total"], document["tokens"], len(lines)) == (True, 3, 12, 3)
    (tmp_path / "out.jsonl").write_bytes(b"".join(lines[:2]) + lines[2][:50])
    done = run(*ask)
    assert (done.returncode, "3 lines answered, 0 failed, 2 of them from before" in done.stdout) == (0, True)
    assert "cut off" in done.stderr
    again = (tmp_path / "out.jsonl").read_bytes().splitlines()
    texts = [json.loads(line)["response"]["body"]["choices"] for line in (lines[2], again[2])]
    assert (sorted(again[:2]), texts[0]) == (sorted(line.rstrip() for line in lines[:2]), texts[1])
    done = run("batch", *files, "--model", "/no/such", "--template", "{text}?")
    assert (done.returncode, bool(re.search("another request called [123]", done.stderr))) == (1, True)


def test_chat_remembers_and_forgets(folders: dict[tiny.Family, Path]) -> None:
    """The second prompt holds the first round; after /reset it does not."""
    text = "hello\nhello\n/reset\nhello\n/exit\nnever\n"
    done = run("chat", "--model", str(folders["chatglm3"]), "--n-predict", "4", "--json", text=text)
    sizes = [turn["usage"]["prompt_tokens"] for turn in json.loads(done.stdout)["turns"]]
    assert (done.returncode, done.stderr, len(sizes)) == (0, "The conversation is forgotten.\n", 3)
    assert sizes[0] == sizes[2] < sizes[1]


def test_the_bundled_model_is_sent_the_rounds_that_it_can_use() -> None:
    """One before the question, however long the conversation, as its folder says; told once."""
    done = run("chat", "--n-predict", "48", "--json", text="What is AI?\nWhat is the capital of France?\n" * 3)
    turns = json.loads(done.stdout)["turns"]
    assert turns[1]["usage"]["prompt_tokens"] == turns[5]["usage"]["prompt_tokens"] > turns[0]["usage"]["prompt_tokens"]
    assert "Paris" in turns[5]["assistant"]
    assert done.stderr.count("at most 1 round") == 1


def test_full_width_marks_come_back_everywhere() -> None:
    """The bundled model speaks ChatGLM-6B's vocabulary, which has none: streamed, printed, in documents, the same."""
    ask = ("--prompt", "你好", "--prompt-format", "chat", "--n-predict", "32")
    document = document_of("generate", *ask)
    text = document["text"]
    assert "！" in text
    assert "，" in text
    assert not re.search("[\u4e00-\u9fff][,!:;?]", text + document["output"])
    assert document["output"].endswith(text)
    assert run("generate", *ask).stdout.rstrip("\n").endswith(text)
    assert text in run("generate", *ask, "--stream").stdout
    chat = ("chat", "--n-predict", "32")
    assert document_of(*chat, text="你好\n")["turns"][0]["assistant"] == text
    assert run(*chat, text="你好\n").stdout == text + "\n"


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


def test_a_reader_that_leaves_is_quiet(folders: dict[tiny.Family, Path]) -> None:
    """``| head -1`` ends without a traceback."""
    with started("generate", "--model", str(folders["chatglm2"]), "--n-predict", "400", "--stream") as process:
        process.stdout.readline()
        process.stdout.close()
        assert without_progress(process.stderr.read()) == ""


@interrupts
def test_interrupting_generate_keeps_the_text(folders: dict[tiny.Family, Path]) -> None:
    """Ctrl-C during an answer: exit code 130 and the text so far on stdout."""
    slow = ("--stream", "--n-predict=490", "--kernel=exact", "--draft-tokens=0", "--temperature=0.5", "--seed=1")
    process = started("generate", "--model", str(folders["chatglm2"]), *slow)
    while process.stdout.readline().rstrip("\n") != OUTPUT_LINE:
        assert process.poll() is None
    process.stdout.readline()
    time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    done = ended(process)
    assert done.returncode == 130
    assert "Inference time" in done.stdout
    assert "Traceback" not in done.stderr
    assert "kept" in done.stderr


@interrupts
def test_interrupting_a_batch_loses_nothing(folders: dict[tiny.Family, Path], tmp_path: Path) -> None:
    """Ctrl-C: exit code 130 and one sentence; the same command goes on, and every line is there once."""
    (tmp_path / "in.txt").write_text("".join(f"hello {n}\n" for n in range(40)), encoding="utf-8")
    target = tmp_path / "out.jsonl"
    files = str(tmp_path / "in.txt"), str(target)
    ask = ("batch", *files, "--model", str(folders["chatglm3"]), "--n-predict=24", "--kernel=exact", "--temperature=0")
    process = started(*ask)
    until = time.monotonic() + 60
    while time.monotonic() < until and not (target.exists() and target.read_bytes().count(b"\n") > 1):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    done = ended(process)
    kept = target.read_bytes().splitlines()
    said = without_progress(done.stderr)
    assert (done.returncode, 1 < len(kept) < 40) == (130, True), done.stderr
    assert said == f"Stopped after {len(kept)} of 40 lines. The same command goes on from there.\n"
    again = run(*ask)
    assert (again.returncode, f"40 lines answered, 0 failed, {len(kept)} of them" in again.stdout) == (0, True)
    lines = target.read_bytes().splitlines()
    assert (lines[: len(kept)], len({json.loads(line)["custom_id"] for line in lines}), len(lines)) == (kept, 40, 40)


@interrupts
def test_interrupting_a_chat_that_reads_a_pipe_ends_it(folders: dict[tiny.Family, Path]) -> None:
    """Ctrl-C while a chat waits for its pipe ends it, with the document of what was said until then."""
    options = ("--n-predict=2", "--kernel=exact", "--json", "--log-level=info")
    process = started("chat", "--model", str(folders["chatglm3"]), *options)
    process.stdin.write("你好\n/help\n")
    process.stdin.flush()
    while "/reset" not in process.stderr.readline():
        assert process.poll() is None
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    done = ended(process)
    assert (done.returncode, len(json.loads(done.stdout)["turns"])) == (0, 1)


@interrupts
@pytest.mark.parametrize("extra", [[], ["--json"]])
def test_interrupting_what_does_not_answer_ends_at_once(extra: list[str], tmp_path: Path) -> None:
    """Ctrl-C while loading waits for a hub that says nothing: exit code 130 and one line, long before it gives up."""
    with socket.create_server(("127.0.0.1", 0)) as hub:
        hub.settimeout(60)
        where = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.getsockname()[1]}", "HF_HOME": str(tmp_path)}
        online = {"HF_HUB_OFFLINE": "", "TRANSFORMERS_OFFLINE": ""}
        process = started("generate", "--model", "THUDM/chatglm2-6b", *extra, **where, **online)
        visit, _ = hub.accept()
        with visit:
            process.send_signal(signal.SIGINT)
            done = ended(process, seconds=15)  # the hub is given longer than that
    assert (done.returncode, done.stderr) == (130, "Stopped.\n")
    assert not extra or json.loads(done.stdout)["error"]["code"] == "interrupted"
