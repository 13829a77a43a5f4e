"""The endpoint on a real server in this process, behind the guard, in front of any service."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import uvicorn
from fastapi import FastAPI

from chatglm_backend.access.guard import Guard
from chatglm_backend.access.policy import AccessPolicy
from chatglm_backend.access.server import server_options
from chatglm_backend.api import openai_router, operations_router
from chatglm_backend.errors import ContextLimitExceeded, QueueFull, TooManyRequests
from chatglm_backend.service import Service
from chatglm_backend.settings import Settings
from chatglm_backend.testing import SCENES, Script, ScriptedModel, scripted_service

TOKEN = "a-token-for-tests"  # noqa: S105
WEB_APP = "http://localhost:3000"
USER = [{"role": "user", "content": "What is AI?"}]
ANSWER = "AI is the study of machines that learn."


@dataclass
class Site:
    """A running server."""

    url: str
    port: int
    service: Any
    model: Any = None

    def client(self, key: str = TOKEN, **options: Any) -> openai.OpenAI:
        """The official client; it repeats nothing by itself."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=30, **options)

    def post(self, body: Any, path: str = "/v1/chat/completions", **headers: str) -> httpx.Response:
        """A bare request."""
        content = body if isinstance(body, (bytes, str)) else json.dumps(body)
        lines = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json", **headers}
        return httpx.post(self.url + path, content=content, headers=lines, timeout=30)


@contextmanager
def serving(
    service: Service,
    settings: Settings | None = None,
    *,
    model: Any = None,
) -> Iterator[Site]:
    """Serve on a free port of this machine, behind the guard."""
    settings = settings or Settings()
    app = FastAPI()
    app.include_router(openai_router(service, settings))
    app.include_router(operations_router(service))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        policy = AccessPolicy(port=port, required=True, token=TOKEN, origins=frozenset({WEB_APP}))
        app.add_middleware(Guard, policy=policy)
        config = uvicorn.Config(app, log_level="error", **server_options(policy, settings))
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])), daemon=True)
        thread.start()
        until = time.monotonic() + 20
        while not server.started and time.monotonic() < until:
            time.sleep(0.01)
        try:
            yield Site(f"http://127.0.0.1:{port}", port, service, model)
        finally:
            server.should_exit = True
            thread.join(20)


@contextmanager
def scripted_site() -> Iterator[Site]:
    """Serve a scripted model that also refuses, as a service does."""
    scenes = {
        **SCENES,
        "oversized": Script((), refuse=ContextLimitExceeded(prompt_tokens=9000, limit=2048)),
        "full": Script((), refuse=QueueFull(waiting=64)),
        "greedy visitor": Script((), refuse=TooManyRequests(limit=4)),
    }
    model = ScriptedModel(scenes)
    service = scripted_service(model)
    with serving(service, model=model) as running:
        yield running
    service.close()


def wait_for(check: Callable[[], bool], seconds: float = 5.0) -> bool:
    """Whether something comes true in time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if check():
            return True
        time.sleep(0.01)
    return check()
