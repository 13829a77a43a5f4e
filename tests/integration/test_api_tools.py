"""Tools with OpenAI's own client, in front of a scripted model that calls them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import openai
import pytest
from api_site import ANSWER, USER, Site, scripted_site, serving

from chatglm_backend.testing import PART, Script, ScriptedModel, scripted_info, scripted_service


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
