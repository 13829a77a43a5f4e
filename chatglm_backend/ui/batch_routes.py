"""Files of the Batch page, in and out. Whose they are is read from the cookie, never from the address."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from chatglm_backend.errors import ChatGLMError
from chatglm_backend.sentences import Language, Texts
from chatglm_backend.store.transfer import MAX_IMPORT_BYTES
from chatglm_backend.ui.batch import BatchDesk, said
from chatglm_backend.ui.history import History

_TYPE = "application/octet-stream"


def batch_router(desk: BatchDesk, history: History, catalogues: Mapping[Language, Texts]) -> APIRouter:
    """``batch/input`` and ``batch/output``, under each language's path and at the top; the page says its language."""
    router = APIRouter(include_in_schema=False)
    for path, texts in [
        *((f"/{name}/batch", texts) for name, texts in catalogues.items()),
        ("/batch", catalogues["en"]),
    ]:
        _add(router, path, desk, history, texts, catalogues)
    return router


def _add(
    router: APIRouter, path: str, desk: BatchDesk, history: History, own: Texts, catalogues: Mapping[Language, Texts]
) -> None:
    def visitor_of(request: Request) -> str:
        return history.name_of(request.cookies, request.client.host if request.client else None)

    async def take(request: Request, name: str = "", language: str = "") -> Response:
        texts = catalogues.get(language, own)
        # Another site's form cannot send this type without asking first.
        if request.headers.get("content-type", "") != _TYPE:
            return JSONResponse({"message": texts("batch.failed")}, 403)
        data = await request.body()
        if len(data) > MAX_IMPORT_BYTES:
            return JSONResponse({"message": texts("batch.too_large")}, 413)
        try:
            await asyncio.to_thread(desk.take, visitor_of(request), name[:200], data)
        except (ChatGLMError, OSError) as error:
            return JSONResponse({"message": texts.say(said(error))}, 400 if isinstance(error, ChatGLMError) else 507)
        return JSONResponse({"message": ""})

    def give(request: Request) -> Response:
        try:
            found = desk.target(visitor_of(request)).read_bytes()
        except FileNotFoundError:
            return PlainTextResponse("404", 404)
        headers = {
            "content-disposition": 'attachment; filename="answers.jsonl"',
            "cache-control": "no-store",
            "x-content-type-options": "nosniff",
        }
        # While it is being written it grows: what is sent is as long as was said, and ends with a whole line.
        return Response(found[: found.rfind(b"\n") + 1], media_type=_TYPE, headers=headers)

    router.add_api_route(f"{path}/input", take, methods=["POST"])
    router.add_api_route(f"{path}/output", give, methods=["GET"])
