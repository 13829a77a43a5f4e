"""The terminal as people use it: small random models, stdout and stderr apart.

What a process of its own shows (third parties' log lines, pipes, signals) runs in one; the rest shares this one.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_runner import ROOT, document_of, ended, environment, run, started, without_progress

from tests import tiny

pytestmark = pytest.mark.model

PROMPT_LINE = "-------------------- Prompt --------------------"
OUTPUT_LINE = "-------------------- Output --------------------"

interrupts = pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT to one process, which Windows cannot")


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
