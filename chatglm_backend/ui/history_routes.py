"""Conversations out of the page and into it, as files. Who asks is read from the cookie, never from the address."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from functools import partial
from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from chatglm_backend.errors import ConversationDamaged, HistoryError, ImportRefused
from chatglm_backend.sentences import Language, Texts
from chatglm_backend.store.records import Conversation
from chatglm_backend.store.transfer import MAX_IMPORT_BYTES, from_json, to_json, to_markdown
from chatglm_backend.ui.attached import where
from chatglm_backend.ui.history import History

_ALL = 1_000_000


def history_router(history: History, catalogues: Mapping[Language, Texts]) -> APIRouter:
    """``history/export`` and ``import``, under each language's path and at the top; the page says its language."""
    router = APIRouter(include_in_schema=False)
    for language, texts in catalogues.items():
        _add(router, f"/{language}/history", history, texts, catalogues)
    _add(router, "/history", history, catalogues["en"], catalogues)
    return router


def _add(router: APIRouter, path: str, history: History, own: Texts, catalogues: Mapping[Language, Texts]) -> None:
    def export(request: Request, id: str = "", form: str = "json", language: str = "") -> Response:  # noqa: A002  the address says id
        texts = catalogues.get(language, own)
        visitor = history.visitor(request.cookies)
        if visitor is None:
            return JSONResponse({"message": texts("history.export_failed")}, 404)
        try:
            found, damaged = _found(history, visitor, id)
        except HistoryError as error:
            return JSONResponse({"message": texts.say(error)}, 404)
        if form == "md":
            words = ("user", "assistant", "tool", "interrupted", "document", "sources")
            names = {name: texts(f"history.{name}") for name in words}
            text, kind = to_markdown(found, names, partial(where, texts)), "text/markdown"
        else:
            text, kind = to_json(found), "application/json"
        said = texts("history.left_out", count=damaged) if damaged else ""
        title = found[0].title if id else ""
        return _download(text, title, "md" if form == "md" else "json", kind, said)

    async def take(request: Request, language: str = "") -> Response:
        texts = catalogues.get(language, own)
        visitor = history.visitor(request.cookies)
        # Another site's form cannot send this type without asking first.
        if visitor is None or not request.headers.get("content-type", "").startswith("application/json"):
            return JSONResponse({"message": texts("history.import_failed")}, 403)
        data = bytearray()
        async for part in request.stream():
            data += part
            if len(data) > MAX_IMPORT_BYTES:
                return JSONResponse({"message": texts("history.import_too_large")}, 413)
        try:
            ids = await asyncio.to_thread(lambda: history.store.add_all(visitor, from_json(bytes(data))))
        except HistoryError as error:
            return JSONResponse({"message": texts.say(error)}, 400 if isinstance(error, ImportRefused) else 507)
        return JSONResponse({"message": texts("history.imported", count=len(ids))})

    router.add_api_route(f"{path}/export", export, methods=["GET"])
    router.add_api_route(f"{path}/import", take, methods=["POST"])


def _found(history: History, visitor: str, name: str) -> tuple[tuple[Conversation, ...], int]:
    """One conversation or all, and how many cannot be read."""
    if name:
        return (history.store.read(visitor, name),), 0
    whole, damaged = [], 0
    for one in history.store.list(visitor, limit=_ALL):
        try:
            whole.append(history.store.read(visitor, one.id))
        except ConversationDamaged:  # noqa: PERF203
            damaged += 1
    return tuple(whole), damaged


def _download(text: str, title: str, ending: str, kind: str, said: str) -> Response:
    """A file; ``said`` goes with it for the page to show."""
    title = re.sub(r'[\\/:*?"<>|\x00-\x1f\x7f]+', " ", title).strip()
    name = f"{title or 'conversations'}.{ending}"
    plain, full = f'filename="conversations.{ending}"', f"filename*=UTF-8''{quote(name, safe='')}"
    headers = {
        "content-disposition": f"attachment; {plain}; {full}",
        "cache-control": "no-store",
        "x-content-type-options": "nosniff",
        "x-said": quote(said, safe=""),
    }
    return Response(text, media_type=f"{kind}; charset=utf-8", headers=headers)
