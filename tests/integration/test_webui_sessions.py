"""Whose a page's answers are: nobody else reads, stops or feeds them by knowing Gradio's numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from webui_process import Running

pytest.importorskip("gradio")
HTML = {"accept": "text/html"}
API = "/en/gradio_api"
SESSION = "session-of-ann"


@pytest.fixture
def people(page: Running) -> Iterator[list[httpx.Client]]:
    """Ann and Bob, each with cookies of their own, and somebody who keeps none."""
    clients = [page.client() for _ in range(3)]
    for client in clients[:2]:
        assert client.get("/en/", headers=HTML).status_code == 200
        assert len(client.cookies) == 1
    yield clients
    for client in clients:
        client.close()


def ask(client: httpx.Client, prompt: str) -> dict[str, Any]:
    """The body of a click on Generate."""
    config = client.get("/en/config").json()
    (made,) = (one for one in config["dependencies"] if one["api_name"] == "generate")
    values = {one["id"]: one["props"].get("value") for one in config["components"]}
    return {"data": [prompt, *(values[name] for name in made["inputs"][1:])], "fn_index": made["id"]}


def streamed(client: httpx.Client, path: str, wanted: str) -> bool:
    """Whether a stream comes to say something."""
    with client.stream("GET", path) as reply:
        return reply.status_code == 200 and any(wanted in line for line in reply.iter_lines())


def test_a_stream_is_read_by_its_visitor_only(page: Running, people: list[httpx.Client]) -> None:
    """Every route that takes the session's number or the event's says that there is nothing."""
    ann, bob, nobody = people
    body = {**ask(ann, "slow"), "session_hash": SESSION}
    event = ann.post(f"{API}/queue/join", json=body).json()["event_id"]
    for other in (bob, nobody):
        tries = [
            other.get(f"{API}/queue/data", params={"session_hash": SESSION}),
            other.get(f"{API}/queue/data", params={"session_hash": event}),
            other.get(f"{API}/call/generate/{event}"),
            other.get(f"{API}/call/v2/generate/{event}"),
            other.get(f"{API}/heartbeat/{SESSION}"),
            other.post(f"{API}/queue/join", json=body),
            other.post(f"{API}/run/generate", json=body),
            other.post("/zh/gradio_api/call/generate", json=body),
            other.post(f"{API}/cancel", json={"session_hash": SESSION, "fn_index": 0, "event_id": event}),
            other.post(f"{API}/cancel", json={"session_hash": "own", "fn_index": 0, "event_id": event}),
            other.post(f"{API}/reset", json={"event_id": event}),
            other.post(f"{API}/reset", content=json.dumps({"event_id": event}).encode("utf-16")),
        ]
        assert [reply.status_code for reply in tries] == [404] * len(tries)
    assert streamed(ann, f"{API}/queue/data?session_hash={SESSION}", "word3")
    assert SESSION not in page.log
    assert event not in page.log
    assert "/gradio_api/queue/data" in page.log


def test_a_program_reads_what_it_asked_for(people: list[httpx.Client]) -> None:
    """With a cookie or without; an event that nobody began is nothing."""
    for client in people[1:]:
        event = client.post(f"{API}/call/generate", json={"data": ask(client, "What is AI")["data"]}).json()["event_id"]
        assert streamed(client, f"{API}/call/generate/{event}", "machines that learn.")
        assert client.get(f"{API}/call/generate/{'0' * 32}").status_code == 404
