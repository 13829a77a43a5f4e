"""The real page on a scripted model, for the browser tests.

Besides the page it answers ``/scripted/state`` with what the service has seen, and ``/scripted/hold`` and ``release``
keep a loading and a queue from ending. ``SCRIPTED_DATA`` is the folder for conversations where the scenario keeps any.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from chatglm_backend.core import AdapterInfo
from chatglm_backend.errors import MissingFile
from chatglm_backend.network import quiet_environment
from chatglm_backend.service import Service
from chatglm_backend.settings import Settings
from chatglm_backend.testing import ScriptedModel, scripted_info

SCENARIOS: dict[str, tuple[Callable[[], ScriptedModel], dict[str, Any]]] = {
    "ready": (ScriptedModel, {"history": False, "allowed_hosts": "chatglm-demo.lan", "disconnect_grace": 6}),
    "kept": (
        lambda: ScriptedModel(info=replace(scripted_info(), tools=True)),
        {"history": True, "disconnect_grace": 60},
    ),
    "brittle": (ScriptedModel, {"history": True, "disconnect_grace": 1}),
    "shared": (ScriptedModel, {"history": False, "insecure_listen": True}),
    "tiny": (
        lambda: ScriptedModel(info=replace(scripted_info(), family="chatglm3", context_limit=120)),
        {"history": False},
    ),
    "tuned": (
        lambda: ScriptedModel(
            info=replace(
                scripted_info(),
                adapters=tuple(AdapterInfo(name, "lora", 8, 8_000_000, "", name, name) for name in ("polite", "terse")),
            )
        ),
        {"history": True},
    ),
    "locked": (ScriptedModel, {"history": False, "token": "a-token-for-tests"}),
    "demo": (lambda: ScriptedModel(info=scripted_info(is_demo=True)), {"history": False}),
    "loading": (lambda: ScriptedModel(load_seconds=0.5), {"history": False}),
    "opening": (lambda: ScriptedModel(load_seconds=0.5, hold=True), {"history": False}),
    "failing": (
        lambda: ScriptedModel(load_seconds=0.5, load_error=MissingFile(path="/models/chatglm/pytorch_model.bin")),
        {"history": False},
    ),
}


def main(port: int, scenario: str, environment: dict[str, str]) -> None:
    """Serve until killed, in a process of its own with these variables."""
    os.environ.update(environment)
    quiet_environment(os.environ)
    import uvicorn
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    from webui import create_app

    make, settings = SCENARIOS[scenario]
    model, chosen = make(), Settings(data=os.environ.get("SCRIPTED_DATA"), **settings)
    app = create_app(Service(chosen, loader=model), chosen)

    def scripted(request: Request) -> JSONResponse:
        if request.path_params["what"] in ("hold", "release"):
            model.hold = request.path_params["what"] == "hold"
        return JSONResponse(_seen(model))

    app.router.routes.insert(0, Route("/scripted/{what}", scripted))
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


def _seen(model: ScriptedModel) -> dict[str, Any]:
    return {
        "tickets": [{"made": t.made, "cancelled": t.cancelled, "ended": t.ended.is_set()} for t in model.answers],
        "messages": [[m.content for m in r.messages] for r in model.requests],
        "prompts": [r.prompt or (r.messages[-1].content if r.messages else "") for r in model.requests],
        "max_new_tokens": [r.params.max_new_tokens for r in model.requests],
        "loaded": model.loaded,
        "kernels": [t.kernel for t in model.answers],
        "formats": [r.prompt_format for r in model.requests],
        "adapters": [r.adapter for r in model.requests],
        "visitors": [r.visitor for r in model.requests],
    }
