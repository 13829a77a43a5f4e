"""``/health`` (alive), ``/ready`` (a status word, with progress while loading) and ``/metrics``.

The first two answer anyone, so they say nothing of files, names or errors.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from starlette.responses import JSONResponse

from chatglm_backend.api.metrics import exposition
from chatglm_backend.core import ModelState, ModelStatus
from chatglm_backend.service import Service


def operations_router(service: Service) -> APIRouter:
    """The routes for whoever looks after the server."""
    router = APIRouter(tags=["Operations"])

    @router.get("/health", summary="Whether the process is alive")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @router.get("/ready", summary="Whether a model is ready", responses={503: {"description": "Not ready."}})
    async def ready() -> JSONResponse:
        status, body = readiness(service.status())
        return JSONResponse(body, status, headers={"retry-after": "2"} if status == 503 else None)

    @router.get("/metrics", summary="Counters for Prometheus", response_class=Response)
    async def counters() -> Response:
        content, kind = exposition(service.metrics(), ready=service.status().answers, machines=service.machines())
        return Response(content, headers={"content-type": kind})

    return router


def readiness(status: ModelStatus) -> tuple[int, dict[str, Any]]:
    """HTTP status and body. ``progress`` is in percent of the stage, absent where its size is unknown."""
    if status.answers:
        return 200, {"status": "ready"}
    body: dict[str, Any] = {"status": status.state.value}
    step = status.progress
    if status.state is ModelState.LOADING and step is not None:
        body["stage"] = step.stage
        if step.total > 0:
            body["progress"] = round(100 * min(step.done, step.total) / step.total, 1)
    return 503, body
