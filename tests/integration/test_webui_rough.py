"""Rough handling of the whole page: odd values in every field, huge prompts, more connections than it takes."""

from __future__ import annotations

import json
import socket
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from webui_process import Running

from chatglm_backend.access.server import ImpatientH11, allow_open_files

pytest.importorskip("gradio")

LETTERS = st.characters(codec=None, categories=None)  # lone surrogates and control characters included
NUMBERS = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(LETTERS, max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(LETTERS, max_size=6), inner, max_size=3),
    max_leaves=6,
)
QUICK = settings(
    max_examples=6, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


@pytest.fixture(scope="module")
def program(page: Running) -> Iterator[httpx.Client]:
    """A client that keeps its connection."""
    with page.client() as client:
        yield client


def post(program: httpx.Client, path: str, body: Any) -> httpx.Response:
    """Send JSON as Python writes it: surrogates as escapes."""
    return program.post(path, content=json.dumps(body), headers={"content-type": "application/json"})


def assert_polite(reply: httpx.Response) -> None:
    """An answer, or an error of the client's in the usual form."""
    assert reply.status_code in (200, 400), reply.text
    if reply.status_code == 400:
        error = reply.json()["error"]
        assert error["message"]
        assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("field", range(8))
def test_any_value_in_any_field_of_the_page_ends_in_a_view(program: httpx.Client, field: int) -> None:
    """The queue's answer comes, right or wrong, and the page lives on."""
    config = program.get("/en/config").json()
    function = next(f for f in config["dependencies"] if f["api_name"] == "generate")["id"]
    usual: list[Any] = ["hello", 1, "raw", 0, 1, 0, 1, 1]

    @QUICK
    @given(value=VALUES)
    def check(value: Any) -> None:
        session = "rough"
        data = [*usual[:field], value, *usual[field + 1 :]]
        joined = post(
            program, "/en/gradio_api/queue/join", {"data": data, "fn_index": function, "session_hash": session}
        )
        assert joined.status_code in (200, 400, 422), joined.text
        if joined.status_code != 200:
            return
        with program.stream("GET", f"/en/gradio_api/queue/data?session_hash={session}") as stream:
            said = [json.loads(line[5:]) for line in stream.iter_lines() if line.startswith("data:")]
        ends = [message["success"] for message in said if message["msg"] == "process_completed"]
        assert len(ends) == 1
        assert "Traceback" not in json.dumps(said)

    check()
    assert program.get("/ready").status_code == 200


@pytest.mark.parametrize(
    "text", ["x" * 990_000, "字" * 160_000, " " * 990_000, "a\u0000b", "a\x1b[31mb", "\ud83d alone"]
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_huge_and_broken_prompts_are_served_or_refused(program: httpx.Client, path: str, text: str) -> None:
    """Up to the limit of a body; the real models' limits are another test's."""
    body = {"messages": [{"role": "user", "content": text}]} if "chat" in path else {"prompt": text}
    assert_polite(post(program, path, {**body, "max_tokens": 1}))


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs a system that allows a thousand open files")
def test_a_thousand_connections_are_refused_politely_and_those_inside_go_on(page: Running) -> None:
    """Each gets an answer or a 503 that says when to come back; who was there before notices nothing."""
    allow_open_files()
    port = int(page.url.rpartition(":")[2])
    request = f"GET /health HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
    with page.client() as inside:
        assert inside.get("/health").status_code == 200
        crowd: list[socket.socket] = []
        try:
            for _ in range(1000):
                crowd.append(socket.create_connection(("127.0.0.1", port), timeout=60))
                crowd[-1].sendall(request)
            heads = [one.recv(4096).decode().lower() for one in crowd]
            assert inside.get("/health").status_code == 200
        finally:
            for one in crowd:
                one.close()
        statuses = Counter(head.split()[1] for head in heads)
        assert set(statuses) == {"200", "503"}
        assert statuses["503"] >= 1000 - ImpatientH11.max_connections
        refused = [head for head in heads if head.split()[1] == "503"]
        assert all("retry-after: 5" in head and '"too_many_connections"' in head for head in refused)
        assert inside.get("/health").status_code == 200
    with page.client() as later:
        assert later.get("/health").status_code == 200
    assert "Traceback" not in page.log
