# /// script
# requires-python = ">=3.10"
# dependencies = ["langchain-openai==1.7.4", "langchain-core==1.8.3"]
# ///
"""LangChain's chat model for OpenAI's endpoints."""

from __future__ import annotations

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
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel, Field


class City(BaseModel):
    """A small schema."""

    name: str = Field(max_length=12)
    capital: bool


def model(url: str, **fields: object) -> ChatOpenAI:
    """A chat model of one server."""
    return ChatOpenAI(base_url=f"{url}/v1", api_key=KEY, model="x", max_retries=0, max_tokens=96, **fields)


bundled, scripted = model(BUNDLED), model(TOOLS)
with_tools = scripted.bind_tools([{"type": "function", "function": WEATHER}])

with check("invoke"):
    holds(bundled.invoke(QUESTION).content, ANSWER)
with check("stream, with usage"):
    parts = [*model(BUNDLED, stream_usage=True).stream(QUESTION)]
    holds("".join(part.content for part in parts), ANSWER)
    assert any(part.usage_metadata for part in parts)
with check("batch"):
    same(len(bundled.batch([QUESTION] * 3)), 3)
with check("generate of the older completions, two prompts"):
    older = OpenAI(base_url=f"{BUNDLED}/v1", api_key=KEY, model="x", max_tokens=4, max_retries=0)
    same(len(older.generate(["a", "b"]).generations), 2)
with check("bind_tools, invoke, the result sent back"):
    said = [HumanMessage(ASK_WEATHER)]
    called = with_tools.invoke(said)
    (call,) = called.tool_calls
    same((call["name"], call["args"]), ("get_weather", CITY))
    same(with_tools.invoke([*said, called, ToolMessage(TOLD, tool_call_id=call["id"])]).content, SUNNY)
with check("bind_tools, stream"):
    parts = [*with_tools.stream(ASK_WEATHER)]
    whole = parts[0]
    for part in parts[1:]:
        whole += part
    same([(call["name"], call["args"]) for call in whole.tool_calls], [("get_weather", CITY)])
with check("bind_tools, tool_choice any and by name"):
    for choice in ("any", "get_weather"):
        forced = scripted.bind_tools([{"type": "function", "function": WEATHER}], tool_choice=choice)
        same(len(forced.invoke(ASK_WEATHER).tool_calls), 1)
with check("with_structured_output, function_calling"):
    city = scripted.with_structured_output(City, method="function_calling").invoke("Which city is it?")
    same(city, City(name="Berlin", capital=True))
with check("with_structured_output, json_schema"):
    same(type(bundled.with_structured_output(City, method="json_schema").invoke(QUESTION)), City)
with check("with_structured_output, json_mode"):
    city = scripted.with_structured_output(City, method="json_mode").invoke("Berlin as JSON")  # by the script
    same(city, City(name="Berlin", capital=True))
with check("with_structured_output, json_schema, streamed"):
    parts = [*bundled.with_structured_output(City, method="json_schema").stream(QUESTION)]
    same(type(parts[-1]), City)
done("langchain-openai", "langchain-core", "openai")
