"""Starts the real page on the scripted service, for the browser tests: ``serve.py PORT [scenario]``.

Besides the page it answers ``/scripted/state`` with what the service has seen. ``SCRIPTED_SETTINGS`` in the
environment, a JSON object, changes settings.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from chatglm_backend.errors import MissingFile
from chatglm_backend.network import quiet_environment
from chatglm_backend.settings import Settings
from chatglm_backend.testing import ScriptedService, scripted_model

SCENARIOS: dict[str, Callable[[], ScriptedService]] = {
    "ready": ScriptedService,
    "compare": ScriptedService,
    "keyboard": ScriptedService,
    "tiny": lambda: ScriptedService(info=replace(scripted_model(), context_limit=120)),
    "demo": lambda: ScriptedService(info=scripted_model(is_demo=True)),
    "loading": lambda: ScriptedService(load_seconds=6),
    "reloading": lambda: ScriptedService(load_seconds=3),
    "failing": lambda: ScriptedService(
        load_seconds=2, load_error=MissingFile(path="/models/chatglm/pytorch_model.bin")
    ),
}


def main() -> None:
    """Serve until killed."""
    port, scenario = int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "ready"
    quiet_environment(os.environ)
    import uvicorn
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    from webui import create_app

    service = SCENARIOS[scenario]()
    data = os.environ.get("CHATGLM_DATA")
    settings = {"data": data, "history": data is not None, **json.loads(os.environ.get("SCRIPTED_SETTINGS", "{}"))}
    app = create_app(service, Settings(**settings))

    def state(_: object) -> JSONResponse:
        return JSONResponse(
            {
                "tickets": [
                    {"made": t.made, "cancelled": t.cancelled, "ended": t.ended.is_set()} for t in service.tickets
                ],
                "messages": [[m.content for m in r.messages] for r in service.requests],
                "prompts": [r.prompt or (r.messages[-1].content if r.messages else "") for r in service.requests],
                "max_new_tokens": [r.params.max_new_tokens for r in service.requests],
                "loaded": service.loaded,
                "kernels": [r.kernel for r in service.requests],
                "formats": [r.prompt_format for r in service.requests],
                "sessions": [r.session_id for r in service.requests],
            }
        )

    app.router.routes.insert(0, Route("/scripted/state", state))
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    main()
