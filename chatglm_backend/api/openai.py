"""``/v1/models``, ``/v1/chat/completions`` and ``/v1/completions``: same engine, queue and limits as the page."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.responses import JSONResponse

from chatglm_backend.access.asgi import client_address
from chatglm_backend.api.answering import STOPPED, Answering, Begun
from chatglm_backend.api.answers import ClientLeft, EventStream, while_there
from chatglm_backend.api.problems import OpenAIRoute, Problem, problem_of, problem_reply
from chatglm_backend.api.replies import finish_word, spelt, sse
from chatglm_backend.api.schemas import ChatRequest, CompletionRequest
from chatglm_backend.api.tools import text_of
from chatglm_backend.core import Completed, PromptChances, TokenEvent, Usage
from chatglm_backend.errors import ChatGLMError
from chatglm_backend.service import Service
from chatglm_backend.settings import Settings

_CLIENT_LEFT = 499
_KEEP_ALIVE = b": still working\n\n"
_HEARTBEAT_S = 10.0
_METHODS = {"/v1/models": "GET", "/v1/chat/completions": "POST", "/v1/completions": "POST"}
_NOT_OFFERED = {
    "embeddings": "Embeddings are not offered: the vectors of a chat model find texts badly, and this server runs "
    "no other model. Use a model made for them, such as bge-small-zh-v1.5, in your program or on another server.",
    "responses": "The Responses API is not offered; use /v1/chat/completions.",
    "batches": "Batches are not offered here; use python -m chatglm_backend batch, or the page.",
    **{
        name: f"{name.replace('_', ' ').capitalize()}: not offered; this server answers chats and completions only."
        for name in ("audio", "images", "moderations", "files", "assistants", "threads", "vector_stores", "fine_tuning")
    },
}
_STREAM: dict[str, Any] = {"text/event-stream": {}}
_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {"description": "The answer, whole or streamed.", "content": {"application/json": {}, **_STREAM}}
}
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": text}
    for status, text in {
        400: "The request is not valid.",
        401: "The key is missing or wrong.",
        413: "The request is too large.",
        429: "Too many requests from you wait already.",
        500: "The engine failed.",
        503: "Loading, full, or shutting down.",
    }.items()
}


def openai_router(service: Service, settings: Settings, max_body: int = 1_000_000) -> APIRouter:
    """The routes under ``/v1``. Files in messages apart, a request may have ``max_body`` bytes."""
    routes = _Routes(service, settings, max_body)
    router = APIRouter(route_class=OpenAIRoute, tags=["OpenAI"])
    add = router.add_api_route
    add("/v1/models", routes.models, methods=["GET"], summary="The model that answers")
    add("/v1/models/{model:path}", routes.model, methods=["GET"], responses={404: {"description": "Another model."}})
    add("/v1/chat/completions", routes.chat, methods=["POST"], responses={**_ANSWER, **_ERRORS}, response_model=None)
    add("/v1/completions", routes.completion, methods=["POST"], responses={**_ANSWER, **_ERRORS}, response_model=None)
    everything = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"]
    add("/v1/{rest:path}", routes.other, methods=everything, include_in_schema=False)
    return router


class _Routes:
    def __init__(self, service: Service, settings: Settings, max_body: int) -> None:
        self._max_body = max_body
        self._answering = Answering(service, settings)
        self._started = int(time.time())

    async def models(self) -> dict[str, Any]:
        """The model, also while it is loading, and one entry for each fine-tune beside it: ``model:name``."""
        return {"object": "list", "data": [self._entry(name) for name in self._answering.names()]}

    async def model(self, model: str) -> dict[str, Any]:
        """The model or one of its fine-tunes, by its name."""
        if model not in self._answering.names():
            raise self._answering.no_model()
        return self._entry(model)

    async def chat(self, body: ChatRequest, request: Request) -> Response:
        """Answer the last message of a conversation, or go on with it where it is the assistant's."""
        files = sum(len(file.coded) for message in body.messages for file in message.files)
        if len(await request.body()) - files > self._max_body:
            raise Problem(413, "The request is too large.", "body_too_large")
        return await self._answer(request, body)

    async def completion(self, body: CompletionRequest, request: Request) -> Response:
        """Continue a text."""
        return await self._answer(request, body)

    async def other(self, request: Request, rest: str) -> Response:
        """Say in OpenAI's form that there is nothing here."""
        allowed = _METHODS.get(f"/v1/{rest}")
        if allowed is not None:
            problem = Problem(405, f"Use {allowed} for this address.", "method_not_allowed")
            return problem_reply(problem, {"allow": allowed})
        kind = rest.split("/")[0]
        missing = _NOT_OFFERED.get(kind, f"There is no {request.method} route here.")
        return problem_reply(Problem(404, missing, "not_offered" if kind in _NOT_OFFERED else "not_found"))

    async def _answer(self, request: Request, body: ChatRequest | CompletionRequest) -> Response:
        visitor = f"api:{client_address(request.scope)}"
        begun = await self._answering.begin(body, visitor, request.state.number)
        if body.stream:
            return EventStream(begun.choices.cancel, _never_silent(_stream(begun)))
        try:
            return JSONResponse(await while_there(begun.choices.cancel, request.receive, begun.whole()))
        except ClientLeft:
            return Response(status_code=_CLIENT_LEFT)

    def _entry(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._started, "owned_by": "local"}


async def _never_silent(parts: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """``parts`` without empty ones, and a comment wherever nothing was to be said for a while: a long prompt is read,
    or a call is written.
    """
    said_at = time.monotonic()
    async with aclosing(parts):
        async for part in parts:
            if part or time.monotonic() - said_at >= _HEARTBEAT_S:
                yield part or _KEEP_ALIVE
                said_at = time.monotonic()


async def _stream(begun: Begun) -> AsyncGenerator[bytes, None]:
    """The answers as chunks, each with its echo before it, and empty parts where there was work but nothing to say.

    An error in the middle is the last of them, and then ``[DONE]`` does not come.
    """
    choices, shape, echoes, reader = begun.choices, begun.shape, begun.echoes, begun.reader
    usages: dict[int, Usage] = {}
    lengths = [0] * len(echoes)
    readers = [reader() if reader else None for _ in echoes]
    for index, echo in enumerate(echoes):
        opening = shape.first(index)
        if opening is not None:
            yield sse(opening)
        if echo and not begun.prompt_chances:
            yield sse(shape.piece(index, echo))
    try:
        async with aclosing(choices.follow(_HEARTBEAT_S)) as following:
            async for index, events in following:
                yield b""
                for event in events:
                    if isinstance(event, PromptChances):
                        yield sse(shape.piece(index, echoes[index], event.chances))
                        lengths[index] = sum(len(spelt(own)) for own, *_ in event.chances)
                        continue
                    chances = [event.chances] if isinstance(event, TokenEvent) and event.chances else []
                    reading = readers[index]
                    text = text_of(event, reading)
                    if text or chances:
                        yield sse(shape.piece(index, text, chances, lengths[index]))
                        lengths[index] += sum(len(spelt(own)) for own, *_ in chances)
                    if isinstance(event, Completed):
                        usages[index] = event.usage
                        calls = reading.calls if reading else ()
                        finish = finish_word(event.finish_reason, calls)
                        if finish is None:
                            raise STOPPED
                        for chunk in shape.calls(index, calls):
                            yield sse(chunk)
                        yield sse(shape.last(index, finish))
    except (ChatGLMError, Problem) as error:
        yield sse(problem_of(error).body())
        return
    if shape.counted:
        yield sse(shape.usage(begun.usage([usages[index] for index in range(len(echoes))])))
    yield sse("[DONE]")
