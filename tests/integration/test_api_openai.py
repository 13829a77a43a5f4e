"""OpenAI's own client against the endpoint on a real server, in front of a scripted model."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import httpx
import openai
import pytest
from api_site import TOKEN, WEB_APP, Site, serving, wait_for

from chatglm_backend.access.server import ImpatientH11
from chatglm_backend.errors import ContextLimitExceeded, QueueFull, TooManyRequests
from chatglm_backend.service import Service
from chatglm_backend.settings import Settings
from chatglm_backend.testing import PART, SCENES, Script, ScriptedModel, scripted_info, scripted_service

USER = [{"role": "user", "content": "What is AI?"}]
ANSWER = "AI is the study of machines that learn."


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """The scripted model behind the endpoint."""
    scenes = {
        **SCENES,
        "oversized": Script((), refuse=ContextLimitExceeded(prompt_tokens=9000, limit=2048)),
        "full": Script((), refuse=QueueFull(waiting=64)),
        "greedy visitor": Script((), refuse=TooManyRequests(limit=4)),
    }
    model = ScriptedModel(scenes)
    service = scripted_service(model)
    with serving(service, model=model) as running:
        yield running
    service.close()


@pytest.fixture
def client(site: Site) -> Iterator[openai.OpenAI]:
    """The official client of the scripted model."""
    with site.client() as made:
        yield made


def test_a_chat_is_answered(client: openai.OpenAI) -> None:
    """Text, reason, counts and the real model's name."""
    reply = client.chat.completions.create(model="gpt-4o", messages=USER)
    assert reply.choices[0].message.content == ANSWER
    assert reply.choices[0].message.role == "assistant"
    assert reply.choices[0].finish_reason == "stop"
    assert reply.model == "scripted-chatglm"
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (12, 9, 21)


def test_a_streamed_chat_is_the_same_text(client: openai.OpenAI) -> None:
    """In pieces, with the reason at the end and the counts when asked for."""
    stream = client.chat.completions.create(
        model="x", messages=USER, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert "".join(piece or "" for piece in pieces) == ANSWER
    assert len([piece for piece in pieces if piece]) == 9
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert (chunks[-1].choices, chunks[-1].usage.total_tokens) == ([], 21)
    assert len({chunk.id for chunk in chunks}) == 1
    uncounted = list(client.chat.completions.create(model="x", messages=USER, stream=True))
    assert all(chunk.choices and chunk.usage is None for chunk in uncounted)


def test_completions_work_whole_and_streamed(site: Site, client: openai.OpenAI) -> None:
    """The prompt goes to the model as it is, and with ``echo`` stands before the answer."""
    for echo, expected in ((None, ANSWER), (True, f"What is AI{ANSWER}")):
        whole = client.completions.create(model="x", prompt="What is AI", echo=echo)
        streamed = list(client.completions.create(model="x", prompt="What is AI", echo=echo, stream=True))
        assert (whole.choices[0].text, whole.choices[0].finish_reason) == (expected, "stop")
        assert "".join(chunk.choices[0].text for chunk in streamed) == expected
    assert site.model.requests[-1].prompt_format == "raw"
    assert site.model.requests[-1].prompt == "What is AI"


def test_what_is_asked_for_reaches_the_engine(site: Site, client: openai.OpenAI) -> None:
    """All of it; and a limit ends the answer with its own reason."""
    reply = client.chat.completions.create(
        model="x", messages=USER, max_completion_tokens=2, temperature=0, top_p=0.5, seed=7, stop=["!", "?"],
        prediction={"type": "content", "content": [{"type": "text", "text": "AI is"}]}, extra_body={"top_k": 4},
    )  # fmt: skip
    params = site.model.requests[-1].params
    assert site.model.requests[-1].predicted == "AI is"
    assert (params.max_new_tokens, params.temperature, params.top_p, params.seed) == (2, 0, 0.5, 7)
    assert (params.top_k, params.stop) == (4, ("!", "?"))
    assert (reply.choices[0].finish_reason, reply.choices[0].message.content) == ("length", "AI is")


def test_the_asynchronous_client_works(site: Site) -> None:
    """Several answers at once, each its own."""

    async def ask() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=f"{site.url}/v1", api_key=TOKEN, max_retries=0) as client:
            texts = ["What is AI", "latex", "What is AI"]
            replies = await asyncio.gather(
                *(
                    client.chat.completions.create(model="x", messages=[{"role": "user", "content": text}])
                    for text in texts
                )
            )
        return [reply.choices[0].message.content for reply in replies]

    assert asyncio.run(ask()) == [ANSWER, "".join(SCENES["latex"].pieces), ANSWER]


def test_models_are_listed(client: openai.OpenAI) -> None:
    """One, found by its name."""
    assert [model.id for model in client.models.list()] == ["scripted-chatglm"]
    assert client.models.retrieve("scripted-chatglm").owned_by == "local"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4o")


@pytest.mark.parametrize("key", ["wrong-key-of-nobody", "a-token-for-test"])
def test_a_wrong_key_is_an_authentication_error(site: Site, key: str) -> None:
    """As the client knows it."""
    with site.client(key) as client, pytest.raises(openai.AuthenticationError) as caught:
        client.models.list()
    assert caught.value.code == "invalid_api_key"


@pytest.mark.parametrize(
    ("text", "kind", "code"),
    [
        ("oversized", openai.BadRequestError, "context_length_exceeded"),
        ("full", openai.InternalServerError, "queue_full"),
        ("greedy visitor", openai.RateLimitError, "too_many_requests"),
        ("broken", openai.InternalServerError, "engine_failure"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_goes_wrong_has_its_own_exception(
    client: openai.OpenAI, text: str, kind: type[openai.APIStatusError], code: str, *, stream: bool
) -> None:
    """With our sentence; in a running stream it is the plain one."""
    expected: type[openai.APIError] = openai.APIError if stream and text == "broken" else kind
    with pytest.raises(expected) as caught:
        list(client.chat.completions.create(model="x", messages=[{"role": "user", "content": text}], stream=stream))
    assert caught.value.code == code
    assert len(str(caught.value)) > 20


def test_a_prompt_that_is_too_long_is_named_by_its_field(client: openai.OpenAI) -> None:
    """Also where it is the second of several."""
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="x", prompt=["What is AI", "oversized"])
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "prompt")


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"unheard_of": 1}, "unheard_of", "unknown_parameter"),
        ({"functions": [{}]}, "functions", "unsupported_value"),
        ({"seed": "x"}, "seed", "invalid_value"),
    ],
)
def test_what_is_not_supported_is_a_clear_400(
    client: openai.OpenAI, fields: dict[str, Any], param: str, code: str
) -> None:
    """The sentence names the field, and so does the error."""
    with pytest.raises(openai.BadRequestError, match=param) as caught:
        client.chat.completions.create(model="x", messages=USER, extra_body=fields)
    assert (caught.value.param, caught.value.code) == (param, code)


def test_several_answers_to_several_prompts(site: Site, client: openai.OpenAI) -> None:
    """In order, each of its own request, with seeds of their own; a prompt counts once; streamed as whole."""
    asked: dict[str, Any] = {"model": "x", "prompt": ["What is AI", "latex"], "n": 2, "seed": 7, "echo": True}
    texts = [f"What is AI{ANSWER}"] * 2 + ["latex" + "".join(SCENES["latex"].pieces)] * 2
    before = len(site.model.requests)
    whole = client.completions.create(**asked)
    assert [(one.index, one.text) for one in whole.choices] == list(enumerate(texts))
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (24, 2 * 9 + 2 * 5)
    made = sorted(site.model.requests[before:], key=lambda request: (request.prompt or "", request.shared is False))
    assert [(one.params.seed, one.shared) for one in made] == [(7, True), (8, False)] * 2
    streamed, usages = [""] * 4, []
    for chunk in client.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        usages.append(chunk.usage)
        for choice in chunk.choices:
            streamed[choice.index] += choice.text
    assert streamed == texts
    assert (usages[-1], set(usages[:-1])) == (whole.usage, {None})


def test_probabilities_are_told_for_every_token(client: openai.OpenAI) -> None:
    """In both forms, streamed as whole; none unless asked for."""
    pieces = list(SCENES["What is AI"].pieces)
    asked: dict[str, Any] = {"model": "x", "messages": USER, "logprobs": True, "top_logprobs": 2}
    content = client.chat.completions.create(**asked).choices[0].logprobs.content
    assert [(one.token, one.bytes, one.logprob) for one in content] == [(p, [*p.encode()], -0.5) for p in pieces]
    assert [(top.token, top.logprob) for top in content[0].top_logprobs] == [("o1", -1.0), ("o2", -2.0)]
    chunks = [chunk.choices[0].logprobs for chunk in client.chat.completions.create(**asked, stream=True)]
    assert [one for chunk in chunks if chunk for one in chunk.content] == content

    asked = {"model": "x", "prompt": "What is AI"}
    whole = client.completions.create(**asked, logprobs=1).choices[0].logprobs
    assert (whole.tokens, whole.token_logprobs) == (pieces, [-0.5] * 9)
    assert (whole.top_logprobs, whole.text_offset[:3]) == ([{"o1": -1.0}] * 9, [0, 2, 5])
    parts = [chunk.choices[0].logprobs for chunk in client.completions.create(**asked, logprobs=1, stream=True)]
    assert [place for part in parts if part for place in part.text_offset] == whole.text_offset
    assert client.completions.create(**asked).choices[0].logprobs is None


def test_a_prompts_probabilities_are_told_with_echo(client: openai.OpenAI) -> None:
    """Before the answer's, streamed as whole, and without one; its first token has none."""
    pieces = list(SCENES["What is AI"].pieces)
    asked: dict[str, Any] = {"model": "x", "prompt": "What is AI", "echo": True, "logprobs": 1}
    choice = client.completions.create(**asked).choices[0]
    whole = choice.logprobs
    assert (choice.text, whole.tokens) == (f"What is AI{ANSWER}", ["What ", "is ", "AI", *pieces])
    assert (whole.token_logprobs, whole.top_logprobs) == ([None, *[-0.5] * 11], [None, *[{"o1": -1.0}] * 11])
    assert whole.text_offset[:5] == [0, 5, 8, 10, 12]
    chunks = [chunk.choices[0] for chunk in client.completions.create(**asked, stream=True)]
    assert "".join(chunk.text for chunk in chunks) == choice.text
    assert [place for one in chunks if one.logprobs for place in one.logprobs.text_offset] == whole.text_offset
    alone = client.completions.create(**asked, max_tokens=0)
    assert (alone.choices[0].text, alone.choices[0].finish_reason) == ("What is AI", "length")
    assert (alone.choices[0].logprobs.tokens, alone.usage.completion_tokens) == (whole.tokens[:3], 0)


def test_an_error_in_one_of_several_answers_is_the_errors_of_all(site: Site, client: openai.OpenAI) -> None:
    """And nothing goes on for nobody."""
    for second, kind in (("broken", openai.InternalServerError), ("full", openai.InternalServerError)):
        with pytest.raises(kind):
            client.completions.create(model="x", prompt=["slow", second])
        assert wait_for(lambda: all(answer.ended.is_set() for answer in site.model.answers))


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


TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]
CALL = ("get_", "weather", "\n ```python\n", "tool_call(city='北京')\n", "```")


@pytest.mark.parametrize("written", [CALL, ("get_", "weather\n", '{"city": ', '"北京"', "}")], ids=["chatglm3", "glm4"])
def test_tools_are_offered_called_and_answered(written: tuple[str, ...]) -> None:
    """Whole and streamed alike: the name first, the arguments whole; a broken call is text; history goes back in."""
    scenes = {
        "call": Script(("\n", " I ", "look. ", PART, *written)),
        "broken": Script(written[:-1]),
        "sunny": Script(("\n", " Sunny", "."), prompt_tokens=3),
    }
    model = ScriptedModel(scenes, info=replace(scripted_info(), family="chatglm3", tools=True))
    service = scripted_service(model)
    with serving(service, model=model) as site, site.client() as client:
        ask = partial(client.chat.completions.create, model="x", tools=TOOLS)
        said: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "call"}]
        choice = ask(messages=said, tool_choice="required").choices[0]
        (call,) = choice.message.tool_calls
        assert (choice.finish_reason, choice.message.content) == ("tool_calls", "I look.")
        assert (call.function.name, call.function.arguments) == ("get_weather", '{"city": "北京"}')
        assert model.requests[-1].openings == ("get_weather\n",)
        assert [turn.content for turn in model.requests[-1].messages[1:]] == ["Be brief.", "call"]

        chunks = [chunk.choices[0] for chunk in ask(messages=said, stream=True)]
        parts = [chunk.delta.tool_calls[0] for chunk in chunks if chunk.delta.tool_calls]
        assert "".join(chunk.delta.content or "" for chunk in chunks) == "I look."
        assert [(part.index, part.function.name, part.function.arguments) for part in parts] == [
            (0, "get_weather", ""), (0, None, '{"city": "北京"}')
        ]  # fmt: skip
        assert (parts[0].type, bool(parts[0].id), chunks[-1].finish_reason) == ("function", True, "tool_calls")

        followed = [*said, choice.message, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
        answered = ask(messages=followed).choices[0]
        assert (answered.finish_reason, answered.message.content) == ("stop", "Sunny.")
        assert answered.message.tool_calls is None
        assert [turn.tool for turn in model.requests[-1].messages][-3:] == ["", "get_weather", ""]

        broken = ask(messages=[{"role": "user", "content": "broken"}]).choices[0]
        assert (broken.finish_reason, broken.message.content) == ("stop", "".join(written[:-1]).strip())
        with pytest.raises(openai.BadRequestError, match="begun"):
            ask(messages=[*said, {"role": "assistant", "content": "I"}], tool_choice="required")
    service.close()


def test_a_stream_is_never_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Comments come also while a prompt is read or a call is written; several answers call, and a cut call is text."""
    monkeypatch.setattr("chatglm_backend.api.openai._HEARTBEAT_S", 0.05)
    script = Script(CALL, prefill_units=8, delay_s=0.02)
    model = ScriptedModel({"call": script}, info=replace(scripted_info(), family="chatglm3", tools=True))
    service = scripted_service(model)
    with serving(service) as site:
        said = [{"role": "user", "content": "call"}]
        events = site.post({"messages": said, "tools": TOOLS, "stream": True, "n": 2}).text.split("\n\n")
        assert events.count(": still working") >= 3
        chunks = [json.loads(one[6:])["choices"][0] for one in events if one.startswith("data: {")]
        parts = [(chunk["index"], call) for chunk in chunks for call in chunk["delta"].get("tool_calls", ())]
        assert [part["index"] for _, part in parts] == [0] * 4
        assert sorted(index for index, _ in parts) == [0, 0, 1, 1]
        assert len({part["id"] for _, part in parts if "id" in part}) == 2

        cut = site.post({"messages": said, "tools": TOOLS, "max_tokens": 3}).json()["choices"][0]
        assert (cut["finish_reason"], cut["message"]["content"]) == ("length", "".join(CALL[:3]).strip())
        plain = site.post({"messages": said, "tools": TOOLS, "tool_choice": "none"}).json()["choices"][0]
        assert (plain["finish_reason"], "tool_calls" in plain["message"]) == ("stop", False)
    service.close()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": TOOLS}, "tools"),
        (
            {"messages": [
                *USER,
                {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]},
                {"role": "tool", "tool_call_id": "1", "content": "42"},
            ]},
            "messages",
        ),
    ],
)  # fmt: skip
def test_a_model_without_tools_says_so(client: openai.OpenAI, fields: dict[str, Any], param: str) -> None:
    """One clear refusal, unless none is to be called."""
    with pytest.raises(openai.BadRequestError, match="ChatGLM3-6B") as caught:
        client.chat.completions.create(model="x", **{"messages": USER, **fields})
    assert (caught.value.code, caught.value.param) == ("tools_not_supported", param)
    reply = client.chat.completions.create(model="x", messages=USER, tools=TOOLS, tool_choice="none")
    assert reply.choices[0].message.content == ANSWER
