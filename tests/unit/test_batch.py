"""Batches: what is read, that every line is answered exactly once whatever ends the program, and what is told."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from chatglm_backend.api.answering import Answering
from chatglm_backend.batch.inputs import read_lines
from chatglm_backend.batch.journal import Journal
from chatglm_backend.batch.runner import BatchRun, Progress
from chatglm_backend.errors import BatchRefused, RequestError
from chatglm_backend.sentences import load_texts
from chatglm_backend.settings import Settings
from chatglm_backend.testing import SCENES, ScriptedModel, scripted_service

ASK = {"messages": [{"role": "user", "content": "AI是什么"}]}
CHAT = "/v1/chat/completions"


def request(name: object, body: object = None, **fields: object) -> str:
    """A line in OpenAI's form."""
    return json.dumps({"custom_id": name, "method": "POST", "url": CHAT, "body": body or ASK, **fields})


def written(path: Path, *lines: str) -> Path:
    """A file with these lines."""
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def prompts(path: Path, template: str = "") -> list[Any]:
    """What each line asks, or the code of what is wrong with it."""
    return [
        line.problem.code if line.problem else line.body["messages"][0]["content"]  # type: ignore[index]
        for line in read_lines(path, template)
    ]


def answer(source: Path, target: Path, model: ScriptedModel | None = None, **options: Any) -> tuple[BatchRun, Progress]:
    """Run a batch to its end."""
    settings = Settings(visitor_limit=100)
    service = scripted_service(model, settings)
    try:
        with Journal(target) as journal:
            asked = {"visitor": "v", "at_once": 8, **options}
            run = BatchRun(Answering(service, settings), read_lines(source), journal, **asked)
            assert run.wait(30)
            return run, run.progress()
    finally:
        service.close()


def output(path: Path) -> dict[str, Any]:
    """The lines of an output by their ids; no id comes twice."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    found = {line["custom_id"] or str(line["error"]["line"]): line for line in lines}
    assert len(found) == len(lines)
    return found


def texts(path: Path) -> dict[str, str]:
    """What was answered."""
    return {name: line["response"]["body"]["choices"][0]["message"]["content"] for name, line in output(path).items()}


def test_prompts_of_texts_and_tables(tmp_path: Path) -> None:
    """Columns by their names, braces doubled, a byte order mark and empty lines left out, values over several lines."""
    text = written(tmp_path / "a.txt", "\ufeff你好", "", "b {x}")
    assert prompts(text) == ["你好", "b {x}"]
    assert [line.custom_id for line in read_lines(text)] == ["1", "3"]
    assert prompts(text, "翻译：{text}") == ["翻译：你好", "翻译：b {x}"]
    table = written(tmp_path / "a.CSV", "\ufeffid,text,to", 'x,"two\nlines",en', "y,b,zh", "z,c", "x,d,e")
    assert prompts(table, "{{{to}}} {text}") == ["{en} two\nlines", "{zh} b", "batch.uneven", "batch.id_twice"]
    assert [line.custom_id for line in read_lines(table, "{to}")] == ["x", "y", None, None]
    assert prompts(written(tmp_path / "one.csv", "id,question", "1,why")) == ["why"]


@pytest.mark.parametrize(
    ("name", "content", "template", "reason"),
    [
        ("a.pdf", b"x", "", "name it .jsonl"),
        ("a.txt", b"\n \n", "", "nothing to answer"),
        ("a.jsonl", b"", "", "nothing to answer"),
        ("a.txt", "好\n你".encode("gbk"), "", "line 1 is not UTF-8"),
        ("a.txt", b"x", "no column", "at least one column"),
        ("a.txt", b"x", "{text", "at least one column"),
        ("a.txt", b"x", "{text!r}", "no column text"),
        ("a.txt", b"x", "{text.upper}", "no column text.upper"),
        ("a.csv", b"a,b\n1,2\n", "", "in braces: a, b"),
        ("a.csv", b"a,b\n1,2\n", "{c}", "no column c; there are a, b"),
        ("a.csv", b"a,a\n1,2\n", "{a}", "two columns are called a"),
        ("a.csv", b'a,b\n"1"x,2\n', "{a}", "line 2 cannot be read as a table"),
        ("a.jsonl", b"{}\n", "{text}", "a template is for"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_sentence(
    tmp_path: Path, name: str, content: bytes, template: str, reason: str
) -> None:
    """It says what to do."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BatchRefused, match=f"^{name} cannot be used for a batch: .*{reason}"):
        read_lines(tmp_path / name, template)


def test_what_is_wrong_with_a_line_is_told_of_it_alone(tmp_path: Path) -> None:
    """In the endpoint's own words where it is a request; the others are answered."""
    source = written(
        tmp_path / "in.jsonl",
        request("ok"),
        request("unknown", {**ASK, "nonsense": 1}),
        request("stream", {**ASK, "stream": True}),
        request("tools", {**ASK, "tools": [{"type": "function", "function": {"name": "f"}}]}),
        "no json",
        request("ok"),
        request("route", url="/v1/embeddings"),
        request("fails", {"prompt": "broken"}, url="/v1/completions"),
        request(7),
        request("none", [1]),
    )
    _, progress = answer(source, tmp_path / "out.jsonl", say=load_texts("zh").say)
    found = output(tmp_path / "out.jsonl")
    assert (progress.total, progress.answered, progress.failed) == (10, 1, 9)
    assert found["5"]["error"]["message"] == "这一行不是 JSON 对象"
    assert "没有学过调用工具" in found["tools"]["response"]["body"]["error"]["message"]
    codes = {
        name: line["error"]["code"] if line["error"] else line["response"]["body"].get("error", {}).get("code")
        for name, line in found.items()
    }
    assert codes == {
        "ok": None, "unknown": "unknown_parameter", "stream": "unsupported_value", "tools": "tools_not_supported",
        "5": "no_json", "6": "id_twice", "route": "no_route", "fails": "engine_failure",
        "9": "no_id", "none": "no_body",
    }  # fmt: skip
    assert found["unknown"]["response"]["status_code"] == 400
    assert found["ok"]["response"]["body"]["choices"][0]["message"]["content"].startswith("AI是人工智能")


def test_the_engine_is_kept_full(tmp_path: Path) -> None:
    """As many lines run at once as may; the next one begins when one ends."""
    model = ScriptedModel()
    names = [str(number) for number in range(20)]
    run, progress = answer(written(tmp_path / "a.jsonl", *map(request, names)), tmp_path / "o.jsonl", model, at_once=6)
    assert run.error is None
    assert (progress.answered, progress.tokens, len(model.answers)) == (20, 20 * 13, 20)
    Journal(tmp_path / "o.jsonl").close()  # it has let its file go
    assert sorted(texts(tmp_path / "o.jsonl")) == sorted(names)


def test_a_line_that_was_cut_off_anywhere_is_answered_again(tmp_path: Path) -> None:
    """Whole lines stay as they are, the rest is answered; what is not an output is left alone."""
    source = written(tmp_path / "in.jsonl", *(request(name) for name in "abc"))
    target = tmp_path / "out.jsonl"
    answer(source, target)
    whole = target.read_bytes()
    lines = read_lines(source)
    for end in range(0, len(whole), 7):
        target.write_bytes(whole[:end])
        with Journal(target) as journal:
            count = whole[:end].count(b"\n")
            assert (len(journal.entries), len(journal.left(lines))) == (count, 3 - count)
            assert journal.torn == (not whole[:end].endswith(b"\n") and end > 0)
        assert target.read_bytes() == b"".join(whole.splitlines(keepends=True)[:count])
    endless = whole.replace(b'"completion_tokens": ', b'"completion_tokens": 1e999')
    for other in (b"my notes", b'{"my": "data"}\n', b"\n", whole + b"x\n", whole + b"x", endless):
        target.write_bytes(other)
        with pytest.raises(BatchRefused, match="is no line of a batch's output"):
            Journal(target)
        assert target.read_bytes() == other


def test_an_input_that_changed_is_told(tmp_path: Path) -> None:
    """Lines that were added are answered; one that asks for something else now, or that is gone, is named."""
    target = tmp_path / "out.jsonl"
    answer(written(tmp_path / "in.jsonl", request("a")), target)
    _, progress = answer(written(tmp_path / "in.jsonl", request("a"), request("b")), target)
    assert (progress.answered, progress.skipped) == (2, 1)
    for lines in ([request("a", {**ASK, "seed": 1}), request("b")], [request("b")]):
        with Journal(target) as journal, pytest.raises(BatchRefused, match="another request called a"):
            journal.left(read_lines(written(tmp_path / "in.jsonl", *lines)))


def test_two_batches_never_write_one_file(tmp_path: Path) -> None:
    """The second is told."""
    with Journal(tmp_path / "out.jsonl"), pytest.raises(BatchRefused, match="another batch writes there"):
        Journal(tmp_path / "out.jsonl")


def test_a_full_disk_ends_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the file's name; nothing is half written."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    run, _ = answer(written(tmp_path / "in.jsonl", request("a")), tmp_path / "out.jsonl")
    assert isinstance(run.error, OSError)
    assert (run.error.filename, run.error.errno) == (str(tmp_path / "out.jsonl"), errno.ENOSPC)
    assert (tmp_path / "out.jsonl").read_bytes() == b""


def test_a_model_that_is_gone_blames_no_line(tmp_path: Path) -> None:
    """The batch ends, and its lines are answered by the next run."""
    source, target = written(tmp_path / "in.jsonl", *(request(name) for name in "ab")), tmp_path / "out.jsonl"
    settings = Settings()
    service = scripted_service(ScriptedModel({"AI": SCENES["slow"]}), settings)
    with Journal(target) as journal:
        run = BatchRun(Answering(service, settings), read_lines(source), journal, visitor="v", at_once=2)
        service.close()
        assert run.wait(30)
        assert (isinstance(run.error, RequestError), journal.entries) == (True, [])


_PROGRAM = """
import sys
from pathlib import Path
from tests.unit.test_batch import answer
answer(Path(sys.argv[1]), Path(sys.argv[2]), at_once=3)
"""


@pytest.mark.skipif(os.name == "nt", reason="sends SIGKILL")
def test_a_process_that_is_killed_loses_nothing(tmp_path: Path, project_root: Path) -> None:
    """After kills at several points every line is there exactly once, as in an undisturbed run."""
    source = written(tmp_path / "in.jsonl", *(request(str(number)) for number in range(16)))
    calm, target = tmp_path / "calm.jsonl", tmp_path / "out.jsonl"
    answer(source, calm)
    command = [sys.executable, "-c", _PROGRAM, str(source), str(target)]
    for wanted in (2, 7):
        with subprocess.Popen(command, cwd=project_root) as process:
            until = time.monotonic() + 60
            while time.monotonic() < until and process.poll() is None:
                if target.exists() and target.read_bytes().count(b"\n") >= wanted:
                    break
                time.sleep(0.005)
            process.kill()
    assert 7 <= target.read_bytes().count(b"\n") < 16
    _, progress = answer(source, target)
    assert (progress.answered, progress.skipped >= 7) == (16, True)
    assert texts(target) == texts(calm)


def test_answers_fetched_while_they_are_written_are_whole_lines(tmp_path: Path) -> None:
    """The reply is as long as it says, whatever is written meanwhile, and ends with an answer."""
    pytest.importorskip("fastapi")
    from fastapi import FastAPI
    from fastapi.testclient import TestClient

    from chatglm_backend.ui.batch import BatchDesk
    from chatglm_backend.ui.batch_routes import batch_router
    from chatglm_backend.ui.history import History

    settings = Settings(data=str(tmp_path))
    service = scripted_service(None, settings)
    desk, app = BatchDesk(service, settings), FastAPI()
    app.include_router(batch_router(desk, History(settings), {"en": load_texts("en")}))
    with TestClient(app) as client:
        assert client.get("/en/batch/output").status_code == 404
        sent = client.post("/en/batch/input?name=a.txt", content="hello", headers={"content-type": _BYTES})
        assert sent.status_code == 200
        desk.target("page:testclient").write_bytes(b'{"a": 1}\n{"b"')
        reply = client.get("/en/batch/output")
    service.close()
    assert reply.content == b'{"a": 1}\n'
    assert "answers.jsonl" in reply.headers["content-disposition"]


@pytest.mark.parametrize("jump", [400 * 86_400, -400 * 86_400])
def test_a_clock_that_jumped_deletes_no_answers(tmp_path: Path, jump: float) -> None:
    """They are kept for a day by the clock as it goes on."""
    pytest.importorskip("gradio")
    from chatglm_backend.ui.batch import BatchDesk

    settings, passed, wrong = Settings(data=str(tmp_path)), [0.0], [0.0]
    service, began = scripted_service(None, settings), time.time()
    desk = BatchDesk(service, settings, now=lambda: began + passed[0] + wrong[0], clock=lambda: 5.0 + passed[0])
    desk.take("ann", "a.txt", b"hello")
    for wrong[0], passed[0], left in ((jump, 3600, True), (jump, 86_400, True), (jump, 90_001, False)):
        desk.take("bob", "b.txt", b"hello")
        assert (desk.about("ann")["name"] == "a.txt") is left
    service.close()


_BYTES = "application/octet-stream"
