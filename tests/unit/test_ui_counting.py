"""Tokens of what is typed: the loaded model's own count, in the page's language, with a word where it is too long."""

from __future__ import annotations

from dataclasses import replace

from fastapi import FastAPI
from fastapi.testclient import TestClient

from chatglm_backend.sentences import load_texts
from chatglm_backend.service import Service
from chatglm_backend.testing import ScriptedModel, scripted_info, scripted_service
from chatglm_backend.ui.counting_routes import count_router


def _client(service: Service) -> TestClient:
    app = FastAPI()
    app.include_router(count_router(service, {"en": load_texts("en"), "zh": load_texts("zh")}))
    return TestClient(app)


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
    assert client.post("/chat/count", **half).json()["said"] == "1 tokens"  # of a pair that was cut
    assert client.post("/chat/count", json={"text": "x" * 100_001, "length": 1}).status_code == 422


def test_without_a_model_nothing_is_said() -> None:
    """It is counted once there is one."""
    reply = _client(Service(loader=ScriptedModel())).post("/chat/count", json={"text": "hello", "length": 5})
    assert reply.json() == {"said": "", "over": False}
