"""OpenAI's own client against the endpoint on a real server, in front of a scripted model."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from api_site import ANSWER, TOKEN, USER, Site, scripted_site, wait_for

from chatglm_backend.testing import SCENES


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """The scripted model behind the endpoint."""
    with scripted_site() as running:
        yield running


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
