"""A document's way from the page into the server. Whose it is is read from the cookie, never from the address."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from chatglm_backend.errors import ChatGLMError, DocumentRefused
from chatglm_backend.sentences import Language, Sentence, Texts
from chatglm_backend.ui.documents import DocumentDesk
from chatglm_backend.ui.history import History

_TYPE = "application/octet-stream"


def document_router(desk: DocumentDesk, history: History, catalogues: Mapping[Language, Texts]) -> APIRouter:
    """``chat/document``, under each language's path and at the top; the page says its language by itself."""
    router = APIRouter(include_in_schema=False)

    async def take(request: Request, name: str = "", language: str = "en") -> Response:
        texts = catalogues.get(language, catalogues["en"])
        # Another site's form cannot send this type without asking first.
        if request.headers.get("content-type", "") != _TYPE:
            return JSONResponse({"message": texts("document.failed")}, 403)
        visitor = history.name_of(request.cookies, request.client.host if request.client else None)
        try:
            data = await request.body()
            if len(data) > desk.max_bytes:
                reason = Sentence("document.large", limit=desk.max_bytes >> 20)
                raise DocumentRefused(name=name[:200], reason=reason)
            document = await desk.read(visitor, name[:200], data, request.is_disconnected)
        except ChatGLMError as error:
            return JSONResponse({"message": texts.say(error)}, 400)
        return JSONResponse({"id": document.id})

    for path in ("", *(f"/{name}" for name in catalogues)):
        router.add_api_route(f"{path}/chat/document", take, methods=["POST"])
    return router
