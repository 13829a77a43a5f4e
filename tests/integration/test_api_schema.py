"""The endpoint against its own OpenAPI schema: schemathesis makes requests from it, right and wrong ones."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from webui_process import Running

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is missing: install requirements-dev.txt")
pytest.importorskip("gradio")
OPERATIONS = [
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{model}"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("GET", "/health"),
    ("GET", "/ready"),
    ("GET", "/metrics"),
]


@pytest.fixture(scope="module")
def described(page: Running) -> Any:
    """The schema as the server gives it."""
    reply = httpx.get(f"{page.url}/v1/openapi.json", trust_env=False)
    assert reply.status_code == 200
    return reply.json()


def test_the_schema_names_every_operation(described: Any) -> None:
    """With the fields and errors of a chat, and nothing of Gradio's."""
    found = {(method.upper(), path) for path, methods in described["paths"].items() for method in methods}
    assert found == set(OPERATIONS)
    chat = described["components"]["schemas"]["ChatRequest"]
    assert {"messages", "max_tokens", "stop", "seed", "stream"} <= set(chat["properties"])
    assert "503" in described["paths"]["/v1/chat/completions"]["post"]["responses"]


def _keep_to_what_no_schema_says(body: dict[str, Any]) -> None:
    """The bounds of 64 bits are rounded when written as a JSON number; tokens, tools and schemas follow other rules."""
    for name in ("logit_bias", "stop_token_ids", "top_logprobs", "tools", "tool_choice", "response_format"):
        body.pop(name, None)
    if body.get("echo"):
        body.pop("logprobs", None)  # not with a model of ChatGLM-6B's kind, as the bundled one is
    if "messages" in body:
        body["messages"] = [{"role": "user", "content": one.get("content")} for one in body["messages"]]
    if abs(body.get("seed") or 0) > 9e18:
        body["seed"] = 7


@pytest.mark.parametrize(("method", "path"), OPERATIONS, ids=lambda value: value.strip("/").replace("/", "-"))
def test_every_operation_keeps_to_the_schema(page: Running, described: Any, method: str, path: str) -> None:
    """Only described statuses and bodies, no server error, and wrong requests are refused."""
    import requests

    operation = schemathesis.openapi.from_dict(described)[path][method]
    session = requests.Session()
    session.trust_env = False  # the environment's proxy is not for this machine

    @seed(5)
    @settings(
        max_examples=20, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation.as_strategy())
    def check(case: Any) -> None:
        if case.meta.generation.mode.is_positive and method == "POST":
            _keep_to_what_no_schema_says(case.body)
        case.call_and_validate(base_url=page.url, session=session, timeout=30)

    with session:
        check()
