# /// script
# requires-python = ">=3.10"
# dependencies = ["openai==3.57.0"]
# ///
"""OpenAI's own client for Python."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager

import openai
from checks import (
    ANSWER,
    ASK_WEATHER,
    BUNDLED,
    CITY,
    KEY,
    QUESTION,
    SUNNY,
    TOLD,
    TOOLS,
    WEATHER,
    check,
    done,
    holds,
    same,
)
from pydantic import BaseModel, Field


class City(BaseModel):
    """A small schema."""

    name: str = Field(max_length=12)
    capital: bool


@contextmanager
def refused(code: str) -> Iterator[None]:
    """Raise AssertionError unless a block is refused with this code."""
    try:
        yield
    except openai.APIStatusError as error:
        same(error.code, code)
    else:
        raise AssertionError("it was not refused")


bundled = openai.OpenAI(base_url=f"{BUNDLED}/v1", api_key=KEY, max_retries=0)
scripted = openai.OpenAI(base_url=f"{TOOLS}/v1", api_key=KEY, max_retries=0)
ask = {"model": "x", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 48}
tools = [{"type": "function", "function": WEATHER}]
said = [{"role": "user", "content": ASK_WEATHER}]

with check("models"):
    assert bundled.models.retrieve(bundled.models.list().data[0].id).object == "model"
with check("chat, whole, with usage"):
    reply = bundled.chat.completions.create(**ask)
    holds(reply.choices[0].message.content, ANSWER)
    assert reply.usage.completion_tokens > 0
with check("chat, streamed, with usage"):
    chunks = [*bundled.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True})]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    same((text, chunks[-1].usage), (reply.choices[0].message.content, reply.usage))
with check("chat, asynchronous"):

    async def together() -> list[str | None]:
        """Three at once."""
        async with openai.AsyncOpenAI(base_url=f"{BUNDLED}/v1", api_key=KEY) as client:
            replies = await asyncio.gather(*(client.chat.completions.create(**ask) for _ in range(3)))
        return [one.choices[0].message.content for one in replies]

    same(asyncio.run(together()), [text] * 3)
with check("n, logprobs, stop, seed, penalties"):
    fields = {"n": 2, "logprobs": True, "top_logprobs": 2, "stop": ["。"], "seed": 7, "temperature": 0.8}
    several = bundled.chat.completions.create(**ask, **fields, presence_penalty=0.5, frequency_penalty=0.5)
    same([len(choice.logprobs.content[0].top_logprobs) for choice in several.choices], [2, 2])
with check("completions, a list of prompts, echo, logprobs"):
    two = bundled.completions.create(model="x", prompt=["a", "b"], echo=True, max_tokens=2)
    same([choice.text[0] for choice in two.choices], ["a", "b"])
    one = bundled.completions.create(model="x", prompt="a", logprobs=2, max_tokens=2)
    same(len(one.choices[0].logprobs.token_logprobs), 2)
    told = scripted.completions.create(model="x", prompt="as JSON", echo=True, logprobs=1, max_tokens=0).choices[0]
    same((told.text, told.logprobs.tokens, told.logprobs.token_logprobs[0]), ("as JSON", ["as ", "JSON"], None))
with check("response_format json_schema (parse)"):
    same(type(bundled.chat.completions.parse(**ask, response_format=City).choices[0].message.parsed), City)
with check("tools, whole"):
    reply = scripted.chat.completions.create(model="x", messages=said, tools=tools)
    call = reply.choices[0].message.tool_calls[0]
    same((call.function.name, json.loads(call.function.arguments)), ("get_weather", CITY))
    same(reply.choices[0].finish_reason, "tool_calls")
with check("tools, the result sent back"):
    told = [*said, reply.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": TOLD}]
    same(scripted.chat.completions.create(model="x", messages=told, tools=tools).choices[0].message.content, SUNNY)
with check("tools, streamed (the client's own accumulation), tool_choice by name"):
    choice = {"type": "function", "function": {"name": "get_weather"}}
    with scripted.chat.completions.stream(model="x", messages=said, tools=tools, tool_choice=choice) as stream:
        final = stream.get_final_completion().choices[0].message
    same(json.loads(final.tool_calls[0].function.arguments), CITY)
with check("tools and what else is not offered: a clear error"):
    with refused("tools_not_supported"):
        bundled.chat.completions.create(**ask, tools=tools)
    with refused("not_offered"):
        bundled.embeddings.create(model="x", input="x")
    with refused("not_offered"):
        bundled.responses.create(model="x", input="x")
done("openai")
