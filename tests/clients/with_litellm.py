# /// script
# requires-python = ">=3.10"
# dependencies = ["litellm==1.110.2"]
# ///
"""LiteLLM, with its provider for endpoints like OpenAI's."""

from __future__ import annotations

import json
import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # nothing is fetched

import litellm
from checks import ANSWER, ASK_WEATHER, BUNDLED, CITY, KEY, QUESTION, TOOLS, WEATHER, check, done, holds, same

bundled = {"model": "openai/x", "api_base": f"{BUNDLED}/v1", "api_key": KEY, "max_tokens": 48, "max_retries": 0}
scripted = {**bundled, "api_base": f"{TOOLS}/v1"}
said = [{"role": "user", "content": QUESTION}]
tools = [{"type": "function", "function": WEATHER}]

with check("completion"):
    holds(litellm.completion(messages=said, **bundled).choices[0].message.content, ANSWER)
with check("completion, streamed"):
    parts = litellm.completion(messages=said, stream=True, stream_options={"include_usage": True}, **bundled)
    holds("".join(part.choices[0].delta.content or "" for part in parts if part.choices), ANSWER)
with check("text_completion"):
    assert litellm.text_completion(prompt="a", **{**bundled, "model": "text-completion-openai/x"}).choices[0].text
with check("response_format json_schema"):
    schema = {"type": "object", "properties": {"capital": {"type": "boolean"}}, "required": ["capital"]}
    form = {"type": "json_schema", "json_schema": {"name": "City", "schema": schema}}
    reply = litellm.completion(messages=said, response_format=form, **bundled)
    same(type(json.loads(reply.choices[0].message.content)["capital"]), bool)
with check("tools, whole and streamed"):
    for stream in (False, True):
        given = {"messages": [{"role": "user", "content": ASK_WEATHER}], "tools": tools, **scripted}
        reply = litellm.completion(stream=stream, **given)
        reply = litellm.stream_chunk_builder([*reply]) if stream else reply
        (call,) = reply.choices[0].message.tool_calls
        same((call.function.name, json.loads(call.function.arguments)), ("get_weather", CITY))
        same(reply.choices[0].finish_reason, "tool_calls")
with check("its own exceptions"):
    try:
        litellm.completion(messages=said, tools=tools, **bundled)
    except litellm.BadRequestError as error:
        same(error.status_code, 400)
    else:
        raise AssertionError("it was not refused")
done("litellm", "openai")
