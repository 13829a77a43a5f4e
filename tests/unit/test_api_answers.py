"""Following a ticket: heartbeats, time limits, clients that leave or stall, and any JSON at all as a request."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st

from chatglm_backend.api import openai_router
from chatglm_backend.api.answers import ClientLeft, EventStream, while_there
from chatglm_backend.api.choices import Answer, Choices
from chatglm_backend.api.replies import Shape
from chatglm_backend.core import FinishReason, GenerationRequest, TokenChance
from chatglm_backend.errors import EngineFailure
from chatglm_backend.service import Service
from chatglm_backend.serving.ticket import Ticket
from chatglm_backend.settings import Settings
from chatglm_backend.testing import Script, ScriptedModel, scripted_service

SLOW = Script(("a", "b", "c"), delay_s=30.0)
QUICK = Script(("a", "b", "c"), delay_s=0.0)


@pytest.fixture
def ticket() -> Iterator[Callable[[Script], Ticket]]:
    """A maker of answers that play a script."""
    services: list[Service] = []

    def make(script: Script) -> Ticket:
        services.append(scripted_service(ScriptedModel({}, script)))
        return services[-1].submit(GenerationRequest("id", prompt="x"))

    yield make
    for service in services:
        service.close()


async def never() -> dict[str, Any]:
    """A client that stays and says nothing."""
    await asyncio.sleep(30)
    return {"type": "http.disconnect"}


async def gone() -> dict[str, Any]:
    """A client that has left."""
    return {"type": "http.disconnect"}


def whole(ticket: Ticket, receive: Any) -> list[Answer]:
    """What a client gets that waits for the whole."""

    async def submit(_: GenerationRequest) -> Ticket:
        return ticket

    async def collect() -> list[Answer]:
        choices = Choices([ticket.request], 1, submit, at_once=1)
        await choices.begin()
        return await while_there(choices.cancel, receive, choices.collect())

    return asyncio.run(collect())


def test_a_whole_answer_is_its_pieces(ticket: Any) -> None:
    """In their order, with the last event."""
    answer = whole(ticket(QUICK), never)[0]
    assert (answer.text, answer.end.finish_reason) == ("abc", FinishReason.STOP)


@pytest.mark.parametrize("kind", ["chat", "text"])
def test_what_cannot_be_is_still_json(kind: Any) -> None:
    """No infinity, and no number that is none, whatever a model's logits are."""
    chances = [tuple(TokenChance(i, b"\xe4", chance) for i, chance in enumerate((-math.inf, math.nan)))]
    choice = Shape(kind, "id", 0, "model").choice(0, "", "x", "stop", chances)
    assert "-9999.0" in json.dumps(choice, allow_nan=False)


def test_a_client_that_left_before_the_start_ends_the_ticket(ticket: Any) -> None:
    """Though nothing of the answer was ever read."""
    slow = ticket(SLOW)
    with pytest.raises(ClientLeft):
        whole(slow, gone)
    assert slow.cancel_token.cancelled


def test_an_error_comes_out_whole(ticket: Any) -> None:
    """Instead of half an answer."""
    with pytest.raises(EngineFailure):
        whole(ticket(Script(("a", "b"), delay_s=0.0, fail_after=1)), never)


@pytest.mark.parametrize("leaves", [True, False])
def test_a_stream_nobody_takes_is_ended(ticket: Any, *, leaves: bool) -> None:
    """The client hung up, or it takes nothing for too long."""
    slow = ticket(SLOW)

    async def parts() -> AsyncGenerator[bytes, None]:
        while True:
            yield b"data: x\n\n"
            await asyncio.sleep(0)

    async def stalled(message: Any) -> None:
        if message["type"] == "http.response.body":
            await asyncio.sleep(30)

    began = time.monotonic()
    stream = EventStream(slow.cancel, parts(), stall_s=30.0 if leaves else 0.05)
    asyncio.run(stream({"type": "http"}, gone if leaves else never, stalled))  # type: ignore[arg-type]
    assert slow.cancel_token.cancelled
    assert time.monotonic() - began < 10


@pytest.fixture(scope="module")
def endpoint() -> FastAPI:
    """The routes on a scripted model that answers at once."""
    service = scripted_service(ScriptedModel({}, QUICK))
    app = FastAPI()
    app.include_router(openai_router(service, Settings()))
    return app


def post(app: FastAPI, path: str, body: bytes) -> httpx.Response:
    """Send one body without a server; whatever breaks inside comes out here."""

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.post(path, content=body, headers={"content-type": "application/json"})

    return asyncio.run(send())


def test_a_file_stands_before_its_question(endpoint: FastAPI) -> None:
    """It counts as part of the prompt, has a limit of its own, and one that says nothing is refused."""

    def ask(data: bytes, text: str = "x") -> httpx.Response:
        file = {"type": "file", "file": {"filename": "a.txt", "file_data": base64.b64encode(data).decode()}}
        content = [{"type": "text", "text": text}, file]
        body = {"messages": [{"role": "user", "content": content}], "max_tokens": 4}
        return post(endpoint, "/v1/chat/completions", json.dumps(body).encode())

    assert ask(b"some words of a file").status_code == 200
    assert ask(b"x", "long " * 200_001).status_code == 413
    refusal = ask(b" ").json()["error"]
    assert (refusal["code"], refusal["param"]) == ("document_refused", "messages")
    assert refusal["message"] == "a.txt cannot be read: it holds no text."


any_text = st.text(st.characters(codec=None), max_size=20)
any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4),
    max_leaves=8,
)
FIELDS = (
    "model", "messages", "prompt", "n", "stream", "stream_options", "stop", "seed", "temperature", "top_p", "top_k",
    "max_tokens", "max_completion_tokens", "repetition_penalty", "tools", "logprobs", "logit_bias", "response_format",
    "best_of", "echo", "suffix", "functions", "modalities", "stop_token_ids", "top_logprobs", "user",
)  # fmt: skip
GOOD: dict[str, Any] = {"prompt": "x", "messages": [{"role": "user", "content": "x"}], "max_tokens": 4}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@given(changes=st.dictionaries(st.sampled_from(FIELDS), any_json, min_size=1, max_size=3))
@settings(max_examples=80, deadline=None)
def test_any_value_in_any_field_is_served_or_refused(endpoint: FastAPI, path: str, changes: dict[str, Any]) -> None:
    """Never an error of the server's own, and always one in OpenAI's form."""
    reply = post(endpoint, path, json.dumps(GOOD | changes).encode())
    assert reply.status_code in (200, 400)
    if reply.status_code == 400:
        assert reply.json()["error"]["message"].endswith(".")


@given(message=st.fixed_dictionaries({"role": any_json | st.just("user"), "content": any_json}))
@settings(max_examples=50, deadline=None)
def test_any_message_is_served_or_refused(endpoint: FastAPI, message: dict[str, Any]) -> None:
    """Whatever its role and content are."""
    reply = post(endpoint, "/v1/chat/completions", json.dumps({"messages": [message]}).encode())
    assert reply.status_code in (200, 400)


@given(body=st.binary(max_size=60))
@settings(max_examples=50, deadline=None)
def test_any_bytes_are_refused(endpoint: FastAPI, body: bytes) -> None:
    """With a 400."""
    assert post(endpoint, "/v1/chat/completions", body).status_code == 400
