"""How many tokens a text has that is being typed, counted by the loaded model's own tokenizer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Annotated

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, BeforeValidator, Field

from chatglm_backend.core import GenerationRequest, Message
from chatglm_backend.errors import ChatGLMError
from chatglm_backend.sentences import Language, Texts
from chatglm_backend.service import Service
from chatglm_backend.store.branches import clean
from chatglm_backend.ui.history import History

_MOST, _MOST_WAITING = 100_000, 32


def _whole(text: object) -> object:
    """Half of a surrogate pair, where a text was cut, becomes a mark."""
    return clean(text) if isinstance(text, str) else text


class _Typed(BaseModel):
    """The beginning of a text, as much as is sent, and how many characters all of it has."""

    text: Annotated[str, BeforeValidator(_whole), Field(max_length=_MOST)]
    length: int = Field(ge=0, le=10**9)
    language: str = "en"


def count_router(service: Service, history: History, catalogues: Mapping[Language, Texts]) -> APIRouter:
    """``chat/count``, under each language's path and at the top; the page says its language by itself.

    Of each visitor at most the newest text waits to be counted, and of all only so many. The others are answered with
    503, and their pages ask again.
    """
    router = APIRouter(include_in_schema=False)
    # Of their own: long texts must not hold the threads that everybody's requests go through.
    pool = ThreadPoolExecutor(1, "counting")
    newest: dict[str, Future[tuple[int, int]]] = {}

    def tokens(typed: _Typed) -> tuple[int, int]:
        """Of the text, and of the prompt that it makes. Raises ModelNotReady."""
        raw = service.preview_prompt(GenerationRequest("count", prompt=typed.text, prompt_format="raw"))
        chat = service.preview_prompt(GenerationRequest("count", messages=(Message("user", typed.text),)))
        more = max(0, typed.length - len(typed.text)) * len(raw.ids) // max(1, len(typed.text))
        return len(raw.ids) + more, len(chat.ids) + more

    async def counted(visitor: str, typed: _Typed) -> tuple[int, int] | None:
        """As :func:`tokens`; ``None`` where the text has to give way."""
        before = newest.get(visitor)
        if before is not None:
            before.cancel()
        elif len(newest) >= _MOST_WAITING:
            return None
        newest[visitor] = mine = pool.submit(tokens, typed)
        try:
            await asyncio.wait({asyncio.wrap_future(mine)})
            return None if mine.cancelled() else mine.result()
        finally:
            if newest.get(visitor) is mine:
                del newest[visitor]

    async def count(request: Request, typed: _Typed) -> JSONResponse:
        texts = catalogues.get(typed.language, catalogues["en"])
        info = service.status().info
        if info is None or not typed.text:
            return JSONResponse({"said": "", "over": False})
        try:
            address = request.client.host if request.client else None
            found = await counted(history.name_of(request.cookies, address), typed)
        except ChatGLMError:
            return JSONResponse({"said": "", "over": False})
        if found is None:
            return JSONResponse({"said": "", "over": False}, 503)
        text, prompt = found
        over = prompt >= info.context_limit
        code = "count.over" if over else "count.about" if typed.length > len(typed.text) else "count.tokens"
        return JSONResponse({"said": texts(code, tokens=f"{text:,}", limit=f"{info.context_limit:,}"), "over": over})

    for path in ("", *(f"/{name}" for name in catalogues)):
        router.add_api_route(f"{path}/chat/count", count, methods=["POST"])
    return router
