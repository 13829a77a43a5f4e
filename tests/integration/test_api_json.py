"""JSON answers of the bundled model, through OpenAI's own client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import openai
import pytest
from api_site import Site, serving
from pydantic import BaseModel, ConfigDict, Field

from chatglm_backend.service import Service
from chatglm_backend.settings import Settings

pytestmark = pytest.mark.model
USER: Any = [{"role": "user", "content": "What is AI?"}]
SCHEMA = {
    "type": "object",
    "properties": {
        "word": {"type": "string", "maxLength": 6},
        "kind": {"enum": ["城市", "other"]},
        "marks": {"type": "array", "items": {"type": "integer", "maximum": 99, "minimum": 0}, "maxItems": 2},
    },
    "required": ["word", "kind", "marks"],
}


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """The bundled model behind the endpoint."""
    settings = Settings(history=False, threads=1)
    service = Service(settings)
    service.load()
    service.wait_ready(120)
    with serving(service, settings) as running:
        yield running
    service.close()


@pytest.fixture
def client(site: Site) -> Iterator[openai.OpenAI]:
    """The official client."""
    with site.client() as made:
        yield made


def wanted(schema: dict[str, Any]) -> Any:
    """The request's field."""
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


def check(text: str) -> None:
    """Whether a text fits ``SCHEMA``."""
    found = json.loads(text)
    assert list(found) == ["word", "kind", "marks"]
    assert len(found["word"]) <= 6
    assert found["kind"] in ("城市", "other")
    assert all(type(mark) is int and 0 <= mark <= 99 for mark in found["marks"])


def test_answers_fit_their_schema(client: openai.OpenAI) -> None:
    """Whole, streamed and several at once, beside an ordinary one; the end of the JSON is the end of the answer."""
    whole = client.chat.completions.create(model="x", messages=USER, response_format=wanted(SCHEMA))
    text = whole.choices[0].message.content or ""
    check(text)
    assert (text[0], text[-1], whole.choices[0].finish_reason) == ("{", "}", "stop")
    stream = client.chat.completions.create(model="x", messages=USER, response_format=wanted(SCHEMA), stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == text
    several = client.chat.completions.create(
        model="x", messages=USER, response_format=wanted(SCHEMA), n=3, temperature=1.5, seed=1, logprobs=True
    )
    for choice in several.choices:
        check(choice.message.content or "")
    plain = client.chat.completions.create(model="x", messages=USER, max_tokens=16)
    assert plain.choices[0].message.content not in ("", text)


class Place(BaseModel):
    """What a program may want."""

    model_config = ConfigDict(title="A place")
    city: Literal["北京", "Paris"]
    inhabitants: Annotated[int, Field(ge=1, le=9)] | None


def test_the_clients_own_classes_come_back(client: openai.OpenAI) -> None:
    """As OpenAI's client asks for them."""
    reply = client.chat.completions.parse(model="x", messages=USER, response_format=Place)
    assert isinstance(reply.choices[0].message.parsed, Place)


def test_any_object_and_an_answer_cut_off(site: Site, client: openai.OpenAI) -> None:
    """In completions too; what is cut off says so."""
    body = {
        "prompt": "JSON:",
        "response_format": {"type": "json_object"},
        "max_tokens": 300,
        "temperature": 0.7,
        "seed": 2,
    }
    choice = site.post(body, "/v1/completions").json()["choices"][0]
    assert choice["text"].startswith("{")
    if choice["finish_reason"] == "stop":
        assert isinstance(json.loads(choice["text"]), dict)
    cut = client.chat.completions.create(model="x", messages=USER, response_format=wanted(SCHEMA), max_tokens=3)
    assert cut.choices[0].finish_reason == "length"


def test_a_schema_that_cannot_be_kept_to_is_refused(client: openai.OpenAI) -> None:
    """Its keyword is named, streamed or not."""
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="uniqueItems") as caught:
            client.chat.completions.create(  # type: ignore[call-overload]
                model="x", messages=USER, stream=stream, response_format=wanted({"type": "array", "uniqueItems": True})
            )
        assert caught.value.param == "response_format"
