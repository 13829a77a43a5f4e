"""What a real server writes about real requests: enough to look after it, and nothing that visitors wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from webui_process import Running, ask_page, running_page

from tests.tiny import build_checkpoint

pytestmark = pytest.mark.model
pytest.importorskip("gradio")
MARKER = "zebra crossing"


def visit(page: Running) -> None:
    """Prompts with the marker through the page and the endpoint, served, refused and broken."""
    ask_page(page, MARKER)
    said: list[Any] = [{"role": "user", "content": MARKER}]
    with page.client() as program:
        assert program.post("/v1/chat/completions", json={"messages": said, "max_tokens": 4}).status_code == 200
        assert program.post("/v1/completions", json={"prompt": MARKER, "max_tokens": 4}).status_code == 200
        assert program.post("/v1/completions", json={"prompt": MARKER * 5000}).status_code == 400
        assert program.post("/v1/completions", json={"prompt": [MARKER, 5]}).status_code == 400
        assert program.post("/v1/completions", json={"prompt": "hi", "stop": [MARKER] * 99}).status_code == 400
        assert program.get(f"/v1/nothing?q={MARKER}").status_code == 404
        assert program.post("/en/gradio_api/queue/join", json={"data": [MARKER], "fn_index": 99999}).status_code >= 400


def misuse(page: Running) -> None:
    """The marker in every field of the page's form, which Gradio's own checks stumble over."""
    with page.client() as program:
        config = program.get("/en/config").json()
        function = next(f for f in config["dependencies"] if f["api_name"] == "generate")["id"]
        usual: list[Any] = ["hello", 1, "raw", 0, 1, 0, 1, 1]
        for field in range(len(usual)):
            data = [*usual[:field], [MARKER], *usual[field + 1 :]]
            session = {"session_hash": f"misuse{field}"}
            program.post("/en/gradio_api/queue/join", json={"data": data, "fn_index": function, **session})
            program.get("/en/gradio_api/queue/data", params=session)
            program.post("/en/gradio_api/run/generate", json={"data": data})
        assert program.get("/ready").status_code == 200


def test_a_log_in_json_says_what_happened_and_never_what_was_written(tmp_path: Path) -> None:
    """Every line is an object; each request has a beginning and an end; the marker is nowhere.

    Gradio prints exceptions with the values in them; they are logged by type and place like all others.
    """
    folder = build_checkpoint(tmp_path / "chatglm2-6b", "chatglm2", shards=1)
    flags = ["--threads", "1", "--kernel", "exact", "--log-level", "debug", "--log-format", "json"]
    with running_page(tmp_path, "--model", str(folder), *flags, real=True) as page:
        visit(page)
        visited = page.log
        misuse(page)
        assert page.end() == 0
    lines = [json.loads(line) for line in page.log.splitlines()]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    accepted = [line for line in lines if line["message"] == "request accepted"]
    ended = {line["request"]: line for line in lines if line["message"] == "request ended"}
    assert visited.count("request accepted") == 3
    assert {line["request"] for line in accepted} == set(ended)
    assert all(line["end"] in ("length", "stop") and line["total_s"] >= 0 for line in ended.values())
    asked = [line for line in lines if line["message"] == "request" and line["path"] == "/v1/completions"]
    assert sorted(line["status"] for line in asked) == [200, 400, 400, 400]
    printed = [line for line in lines if line["message"] == "an exception was printed"]
    assert printed
    assert all(line["error"] and line["where"] for line in printed)
    assert MARKER.split()[0] not in page.log
