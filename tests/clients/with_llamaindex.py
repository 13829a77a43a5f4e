# /// script
# requires-python = ">=3.10"
# dependencies = ["llama-index-llms-openai-like==0.8.1", "llama-index-core==0.14.25"]
# ///
"""LlamaIndex's language model for endpoints like OpenAI's."""

from __future__ import annotations

import asyncio

from checks import ANSWER, ASK_WEATHER, BUNDLED, KEY, QUESTION, SUNNY, TOLD, TOOLS, check, done, holds, same
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel


class City(BaseModel):
    """A small schema."""

    name: str
    capital: bool


def model(url: str, *, tools: bool = False) -> OpenAILike:
    """The model of one server."""
    return OpenAILike(
        model="x", api_base=f"{url}/v1", api_key=KEY, is_chat_model=True, is_function_calling_model=tools,
        max_retries=0, max_tokens=64, context_window=2048,
    )  # fmt: skip


def get_weather(city: str) -> str:
    """The weather of a city."""
    asked.append(city)
    return TOLD


asked: list[str] = []
bundled, scripted = model(BUNDLED), model(TOOLS, tools=True)
said = [ChatMessage(role="user", content=QUESTION)]
tool = FunctionTool.from_defaults(get_weather)

with check("chat"):
    holds(bundled.chat(said).message.content, ANSWER)
with check("stream_chat"):
    holds([*bundled.stream_chat(said)][-1].message.content, ANSWER)
with check("complete"):
    holds(bundled.complete(QUESTION).text, ANSWER)
with check("chat_with_tools"):
    reply = scripted.chat_with_tools([tool], user_msg=ASK_WEATHER)
    (call,) = scripted.get_tool_calls_from_response(reply)
    same((call.tool_name, call.tool_kwargs), ("get_weather", {"city": "Beijing"}))
with check("FunctionAgent, which runs the tool and streams"):

    async def agent() -> str:
        """Its last word."""
        return str(await FunctionAgent(tools=[tool], llm=scripted).run(ASK_WEATHER))

    same((asyncio.run(agent()), asked), (SUNNY, ["Beijing"]))
with check("as_structured_llm, by a tool"):
    reply = scripted.as_structured_llm(City).chat([ChatMessage(role="user", content="Which city is it?")])
    same(reply.raw, City(name="Berlin", capital=True))
done("llama-index-llms-openai-like", "llama-index-core", "openai")
