"""Starts the real page on the scripted service, for the browser tests: ``serve.py PORT [scenario]``.

Besides the page it answers ``/scripted/state`` with what the service has seen, and ``/scripted/hold`` and ``release``
keep a loading from ending. ``SCRIPTED_DATA`` is the folder for conversations where the scenario keeps any.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from chatglm_backend.errors import MissingFile
from chatglm_backend.network import quiet_environment
from chatglm_backend.settings import Settings
from chatglm_backend.testing import ScriptedService, scripted_model

SCENARIOS: dict[str, tuple[Callable[[], ScriptedService], dict[str, Any]]] = {
    "ready": (ScriptedService, {"history": False, "allowed_hosts": "chatglm-demo.lan"}),
    "kept": (ScriptedService, {"history": True, "disconnect_grace": 60}),
    "brittle": (ScriptedService, {"history": True, "disconnect_grace": 1}),
    "shared": (ScriptedService, {"history": False, "insecure_listen": True}),
    "tiny": (
        lambda: ScriptedService(info=replace(scripted_model(), family="chatglm3", context_limit=120)),
        {"history": False},
    ),
    "locked": (ScriptedService, {"history": False, "token": "a-token-for-tests"}),
    "demo": (lambda: ScriptedService(info=scripted_model(is_demo=True)), {"history": False}),
    "loading": (lambda: ScriptedService(load_seconds=0.5, hold=True), {"history": False}),
    "failing": (
        lambda: ScriptedService(load_seconds=0.5, load_error=MissingFile(path="/models/chatglm/pytorch_model.bin")),
        {"history": False},
    ),
}


def main() -> None:
    """Serve until killed."""
    port, scenario = int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "ready"
    quiet_environment(os.environ)
    import uvicorn
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    from webui import create_app

    make, settings = SCENARIOS[scenario]
    service = make()
    app = create_app(service, Settings(data=os.environ.get("SCRIPTED_DATA"), **settings))

    def scripted(request: Request) -> JSONResponse:
        if request.path_params["what"] in ("hold", "release"):
            service.hold_loading(request.path_params["what"] == "hold")
        return JSONResponse(_seen(service))

    app.router.routes.insert(0, Route("/scripted/{what}", scripted))
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


def _seen(service: ScriptedService) -> dict[str, Any]:
    return {
        "tickets": [{"made": t.made, "cancelled": t.cancelled, "ended": t.ended.is_set()} for t in service.tickets],
        "messages": [[m.content for m in r.messages] for r in service.requests],
        "prompts": [r.prompt or (r.messages[-1].content if r.messages else "") for r in service.requests],
        "max_new_tokens": [r.params.max_new_tokens for r in service.requests],
        "loaded": service.loaded,
        "kernels": [r.kernel for r in service.requests],
        "formats": [r.prompt_format for r in service.requests],
        "sessions": [r.session_id for r in service.requests],
    }


if __name__ == "__main__":
    main()
