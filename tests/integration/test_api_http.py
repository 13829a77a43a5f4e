"""The endpoint as HTTP has it: bodies, routes, other sites, clients that leave, a model that is loading."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator

import httpx
import openai
import pytest
from api_site import TOKEN, USER, WEB_APP, Site, scripted_site, serving, wait_for

from chatglm_backend.access.server import ImpatientH11
from chatglm_backend.service import Service
from chatglm_backend.settings import Settings
from chatglm_backend.testing import ScriptedModel, scripted_service


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """The scripted model behind the endpoint."""
    with scripted_site() as running:
        yield running


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"", "application/json", 400),
        (b"[]", "application/json", 400),
        (b"null", "application/json", 400),
        (b'"\xff"', "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "application/json", 400),
        (b'{"messages": [{"role": "\\ud800", "content": "a"}]}', "application/json", 400),
        (b'{"max_tokens": ' + b"9" * 5000 + b"}", "application/json", 400),
        (json.dumps({"messages": USER}).encode(), "text/plain", 400),
        (b'{"messages": [{"role": "user", "content": "' + b"x" * 1_000_000 + b'"}]}', "application/json", 413),
        (b"x" * 3_000_000, "application/json", 413),
    ],
    ids=range(12),
)
def test_bad_bodies_get_an_error_in_the_usual_form(site: Site, content: bytes, kind: str, status: int) -> None:
    """Never a 500, never a page."""
    reply = site.post(content, **{"content-type": kind})
    assert reply.status_code == status
    assert reply.json()["error"]["message"]
    assert reply.json()["error"]["type"] == "invalid_request_error"


def test_unknown_routes_and_methods_are_told(site: Site) -> None:
    """In the same form."""
    key = {"authorization": f"Bearer {TOKEN}"}
    for path, code, word in (("embeddings", "not_offered", "Embeddings"), ("nothing", "not_found", "POST")):
        missing = site.post({}, f"/v1/{path}")
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, code)
        assert word in missing.json()["error"]["message"]
    wrong = httpx.get(f"{site.url}/v1/chat/completions", headers=key)
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")


def test_other_sites_cannot_use_a_visitors_browser(site: Site) -> None:
    """Not even with the right key."""
    reply = site.post({"messages": USER}, origin="http://evil.example")
    assert reply.status_code == 403
    assert "access-control-allow-origin" not in reply.headers


def test_a_web_app_that_is_allowed_may_ask_with_the_token(site: Site) -> None:
    """Its preflights are answered without one, its requests are not; errors are its to read, and others get nothing."""
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
    address = f"{site.url}/v1/chat/completions"
    allowed = httpx.options(address, headers={"origin": WEB_APP, **asks})
    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, WEB_APP)
    assert "authorization" in allowed.headers["access-control-allow-headers"]
    assert httpx.options(address, headers={"origin": "http://localhost:3001", **asks}).status_code == 403
    for key, status in (("wrong", 401), (TOKEN, 200)):
        reply = site.post({"messages": USER}, origin=WEB_APP, authorization=f"Bearer {key}")
        assert (reply.status_code, reply.headers["access-control-allow-origin"]) == (status, WEB_APP)
        assert "access-control-allow-credentials" not in reply.headers
    assert httpx.get(f"{site.url}/metrics", headers={"origin": WEB_APP}).status_code == 403


def test_replies_have_a_number_and_large_ones_are_compressed(site: Site) -> None:
    """Errors too; what is streamed is not held back by compressing it."""
    answer = site.post({"messages": USER, "logprobs": True, "top_logprobs": 9})
    assert (answer.headers["content-encoding"], answer.headers["vary"]) == ("gzip", "Accept-Encoding")
    assert answer.headers["x-request-id"].removeprefix("req-") in answer.json()["id"]
    streamed = site.post({"messages": USER, "logprobs": True, "stream": True})
    assert "content-encoding" not in streamed.headers
    numbers = {reply.headers["x-request-id"] for reply in (answer, streamed, site.post({}), site.post({}, "/v1/x"))}
    assert len(numbers) == 4


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_the_engine(site: Site, *, stream: bool) -> None:
    """Without a goodbye, in the middle of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=10)
    before = len(site.model.answers)
    body = json.dumps({"messages": [{"role": "user", "content": "slow"}], "stream": stream})
    headers = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}
    connection.request("POST", "/v1/chat/completions", body, headers)
    assert wait_for(lambda: len(site.model.answers) > before and site.model.answers[-1].made >= 2)
    ticket = site.model.answers[-1]
    connection.sock.close()
    assert wait_for(ticket.ended.is_set, 2)
    assert ticket.cancelled
    assert ticket.made < 100


def test_an_answer_that_is_stopped_elsewhere_is_told() -> None:
    """It is not passed off as finished; the time limit counts as a limit."""
    model = ScriptedModel()
    service = scripted_service(model)
    slow = [{"role": "user", "content": "slow"}]
    with serving(service, Settings(request_timeout=0.4)) as site, site.client() as client:
        cut = client.chat.completions.create(model="x", messages=slow)
        assert cut.choices[0].finish_reason == "length"
        assert (cut.choices[0].message.content or "").startswith("word0 ")
        for stream in (False, True):
            threading.Timer(0.2, lambda: model.answers[-1].cancel.cancel()).start()
            with pytest.raises(openai.APIError) as caught:
                list(client.chat.completions.create(model="x", messages=slow, stream=stream))
            assert caught.value.code == "cancelled"


def test_while_loading_models_answer_and_the_rest_says_when() -> None:
    """The name is the one that will answer; nobody needs a key to ask whether it is ready."""
    service = Service(loader=ScriptedModel(load_seconds=30), env={})
    with serving(service, Settings(model="/models/chatglm-6b")) as site, site.client() as client:
        service.load()
        assert [model.id for model in client.models.list()] == ["chatglm-6b"]
        with pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(model="x", messages=USER)
        assert (caught.value.status_code, caught.value.code) == (503, "model_not_ready")
        assert caught.value.response.headers["retry-after"]
        ready = httpx.get(f"{site.url}/ready")
        assert (ready.status_code, ready.json()["status"]) == (503, "loading")
        assert httpx.get(f"{site.url}/health").json() == {"status": "ok"}
        assert httpx.get(f"{site.url}/metrics").status_code == 401
        service.close()


def test_clients_that_never_finish_their_headers_are_hung_up_on(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither at the first nor at a later request of a connection."""
    monkeypatch.setattr(ImpatientH11, "head_seconds", 0.3)
    for opening in (b"", b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", site.port), timeout=5) as slow:
            slow.sendall(opening)
            if opening:
                assert b"200" in slow.recv(4096)
            slow.sendall(b"GET /health HTTP/1.1\r\nX-Slow: ")
            while slow.recv(4096):
                pass
