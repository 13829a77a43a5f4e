"""Tokens of what is typed: the loaded model's own count, in the page's language, with a word where it is too long."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import Any

import httpx
from fastapi import FastAPI
from fastapi.testclient import TestClient

from chatglm_backend.core import GenerationRequest
from chatglm_backend.sentences import load_texts
from chatglm_backend.service import Service
from chatglm_backend.settings import Settings
from chatglm_backend.testing import ScriptedModel, scripted_info, scripted_service
from chatglm_backend.ui.counting_routes import count_router
from chatglm_backend.ui.history import History


def _app(service: Service) -> FastAPI:
    app, history = FastAPI(), History(Settings(history=False))
    app.include_router(count_router(service, history, {"en": load_texts("en"), "zh": load_texts("zh")}))
    return app


def _client(service: Service) -> TestClient:
    return TestClient(_app(service))


def test_tokens_are_counted_by_the_model_and_a_text_that_does_not_fit_is_said() -> None:
    """The scripted tokenizer has a token for each character, and six more in a chat."""
    client = _client(scripted_service(ScriptedModel(info=replace(scripted_info(), context_limit=2000))))

    def said(text: str, length: int | None = None, language: str = "en") -> tuple[str, bool]:
        body = {"text": text, "length": len(text) if length is None else length, "language": language}
        reply = client.post(f"/{language}/chat/count", json=body).json()
        return reply["said"], reply["over"]

    assert said("hello") == ("5 tokens", False)
    assert said("你好", language="zh") == ("2 个 token", False)
    assert said("x" * 1993) == ("1,993 tokens", False)
    assert said("x" * 1994) == ("1,994 tokens: more than this model can read (2,000). Shorten the text.", True)
    assert said("x" * 100, length=1000) == ("about 1,000 tokens", False)
    assert said("x" * 100, length=1_000_000)[1]
    assert said("") == ("", False)
    half = {"content": b'{"text": "\\ud83d", "length": 1}', "headers": {"content-type": "application/json"}}
    assert client.post("/chat/count", **half).json()["said"] == "1 token"  # of a pair that was cut
    assert client.post("/chat/count", json={"text": "x" * 100_001, "length": 1}).status_code == 422


def test_without_a_model_nothing_is_said() -> None:
    """It is counted once there is one."""
    reply = _client(Service(loader=ScriptedModel())).post("/chat/count", json={"text": "hello", "length": 5})
    assert reply.json() == {"said": "", "over": False}


def test_of_each_visitor_only_the_newest_text_waits_and_of_all_only_so_many() -> None:
    """The others are told at once to ask again; what is being counted is counted to its end."""
    service, gate, counted, begun = scripted_service(ScriptedModel()), threading.Event(), [], threading.Event()
    preview = service.preview_prompt

    def slowly(request: GenerationRequest) -> Any:
        if request.prompt is not None:
            counted.append(request.prompt)
            begun.set()
            assert gate.wait(30)
        return preview(request)

    service.preview_prompt = slowly  # type: ignore[method-assign]
    app = _app(service)

    async def ask(visitor: int, text: str) -> int:
        transport = httpx.ASGITransport(app, client=(f"10.0.0.{visitor}", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return (await client.post("/chat/count", json={"text": text, "length": len(text)})).status_code

    async def scene() -> list[int]:
        asked = [asyncio.create_task(ask(1, "1"))]
        assert await asyncio.to_thread(begun.wait, 30)
        for visitor, text in ((1, "2"), (1, "3"), *((number, "x") for number in range(2, 34))):
            asked.append(asyncio.create_task(ask(visitor, text)))
            await asyncio.sleep(0)
        await asyncio.wait({asked[1], asked[-1]}, timeout=30)
        gate.set()
        return await asyncio.gather(*asked)

    assert asyncio.run(scene()) == [200, 503, *[200] * 32, 503]
    assert counted[:2] == ["1", "3"]
