"""``/v1/models``, ``/v1/chat/completions`` and ``/v1/completions``: same engine, queue and limits as the page.

Any model name is accepted, because one model answers; replies name the real one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import PurePath
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from starlette.responses import JSONResponse

from chatglm_backend.access.asgi import client_address
from chatglm_backend.api.answers import ClientLeft, EventStream, while_there
from chatglm_backend.api.choices import Choices, Reader
from chatglm_backend.api.problems import OpenAIRoute, Problem, problem_of, problem_reply
from chatglm_backend.api.replies import Shape, finish_word, spelt, sse
from chatglm_backend.api.schemas import ChatRequest, CompletionRequest
from chatglm_backend.api.tools import conversation, offered, text_of
from chatglm_backend.core import Completed, GenerationRequest, TokenEvent, Usage
from chatglm_backend.errors import ChatGLMError, InvalidRequest
from chatglm_backend.sentences import Sentence
from chatglm_backend.service import Service
from chatglm_backend.serving.ticket import Ticket
from chatglm_backend.settings import Settings
from chatglm_backend.tokenizers.tools import ReplyReader

_STOPPED = Problem(503, "The answer was stopped before its end. Try again.", "cancelled")
_CLIENT_LEFT = 499
_KEEP_ALIVE = b": still working\n\n"
_HEARTBEAT_S = 10.0
_METHODS = {"/v1/models": "GET", "/v1/chat/completions": "POST", "/v1/completions": "POST"}
_NOT_OFFERED = {
    "embeddings": "Embeddings are not offered: a chat model's own vectors are poor ones, and no other is here.",
    "responses": "The Responses API is not offered; use /v1/chat/completions.",
    "batches": "Batches are not offered; send a list of prompts, or several requests at once.",
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


def openai_router(service: Service, settings: Settings) -> APIRouter:
    """The routes under ``/v1``."""
    routes = _Routes(service, settings)
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
    def __init__(self, service: Service, settings: Settings) -> None:
        self._service = service
        self._settings = settings
        self._started = int(time.time())

    async def models(self) -> dict[str, Any]:
        """The model, also while it is loading, and one entry for each fine-tune beside it: ``model:name``."""
        return {"object": "list", "data": [self._entry(name) for name in self._names()]}

    async def model(self, model: str) -> dict[str, Any]:
        """The model or one of its fine-tunes, by its name."""
        names = self._names()
        if model not in names:
            raise _no_model(names)
        return self._entry(model)

    async def chat(self, body: ChatRequest, request: Request) -> Response:
        """Answer the last message of a conversation, or go on with it where it is the assistant's."""
        functions, openings = offered(body.tools or (), body.tool_choice)
        messages = conversation(body.messages, functions)
        if functions or any(turn.role == "tool" for turn in messages):
            self._check_tools("tools" if functions else "messages")
        begun = messages[-1].role == "assistant"
        if begun and openings:
            raise InvalidRequest(field="tool_choice", value="-", reason=Sentence("request.begun_call"))
        names = tuple(function["name"] for function in functions)
        asked = {"messages": messages, "prompt_format": "chat", "openings": openings}
        return await self._answer(
            request, body, asked, reader=(lambda: ReplyReader(names, begun=begun)) if names else None
        )

    async def completion(self, body: CompletionRequest, request: Request) -> Response:
        """Continue a text."""
        return await self._answer(request, body, *({"prompt": one, "prompt_format": "raw"} for one in body.prompt))

    async def other(self, request: Request, rest: str) -> Response:
        """Say in OpenAI's form that there is nothing here."""
        allowed = _METHODS.get(f"/v1/{rest}")
        if allowed is not None:
            problem = Problem(405, f"Use {allowed} for this address.", "method_not_allowed")
            return problem_reply(problem, {"allow": allowed})
        kind = rest.split("/")[0]
        missing = _NOT_OFFERED.get(kind, f"There is no {request.method} route here.")
        return problem_reply(Problem(404, missing, "not_offered" if kind in _NOT_OFFERED else "not_found"))

    async def _answer(
        self,
        request: Request,
        body: ChatRequest | CompletionRequest,
        *prompts: dict[str, Any],
        reader: Reader | None = None,
    ) -> Response:
        """``prompts`` are fields of a request, each for a prompt."""
        params = body.params(self._settings)
        visitor, adapter = f"api:{client_address(request.scope)}", self._adapter(body.model)
        kind: Literal["chat", "text"] = "chat" if isinstance(body, ChatRequest) else "text"
        name = f"{'chatcmpl' if kind == 'chat' else 'cmpl'}-{request.state.number}"
        wanted = [
            GenerationRequest(f"{name}-p{i}" if i else name, visitor, params=params, adapter=adapter, **asked)
            for i, asked in enumerate(prompts)
        ]
        count = body.n or 1
        choices = Choices(wanted, count, self._submit, at_once=self._settings.visitor_limit)
        await choices.begin()
        shape = Shape(kind, name, int(time.time()), _join(self._name(), adapter), body.include_usage)
        echoes = [prompt for prompt in body.echoes for _ in range(count)]
        if body.stream:
            return EventStream(choices.cancel, _stream(choices, shape, echoes, count, reader))
        try:
            answers = await while_there(choices.cancel, request.receive, choices.collect(reader))
        except ClientLeft:
            return Response(status_code=_CLIENT_LEFT)
        made = []
        for index, (echo, answer) in enumerate(zip(echoes, answers, strict=True)):
            finish = finish_word(answer.end.finish_reason, answer.calls)
            if finish is None:
                return problem_reply(_STOPPED)
            made.append(shape.choice(index, echo, answer.text, finish, answer.chances, answer.calls))
        return JSONResponse(shape.whole(made, _sum([answer.end.usage for answer in answers], count)))

    async def _submit(self, wanted: GenerationRequest) -> Ticket:
        """Queue a request in a thread; if the caller is gone meanwhile, its ticket goes too."""
        timeout_s = self._settings.request_timeout
        submitting = asyncio.ensure_future(asyncio.to_thread(self._service.submit, wanted, timeout_s=timeout_s))
        try:
            return await asyncio.shield(submitting)
        except asyncio.CancelledError:
            submitting.add_done_callback(_cancel_result)
            raise

    def _check_tools(self, field: str) -> None:
        """Refuse what ``field`` asks of a model that was not trained for tools."""
        info = self._service.status().info
        if info is not None and not info.tools:
            raise Problem(400, str(Sentence("request.no_tools", model=info.name)), "tools_not_supported", field)

    def _name(self) -> str:
        info = self._service.status().info
        if info is not None:
            return info.name
        return PurePath(self._settings.model).name if self._settings.model else "chatglm"

    def _names(self) -> list[str]:
        """The model's name and those of its fine-tunes."""
        info = self._service.status().info
        return [self._name(), *(_join(self._name(), one.name) for one in (info.adapters if info else ()))]

    def _adapter(self, model: str | None) -> str:
        """Which fine-tune a request's ``model`` names: none by the model's own name, the first by a foreign one."""
        info, base = self._service.status().info, self._name()
        if info is None or model == base:
            return ""
        if model is None or not model.startswith(f"{base}:"):
            return info.first_adapter
        if model not in self._names():
            raise _no_model(self._names())
        return model.removeprefix(f"{base}:")

    def _entry(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._started, "owned_by": "local"}


async def _stream(
    choices: Choices, shape: Shape, echoes: Sequence[str], count: int, reader: Reader | None
) -> AsyncGenerator[bytes, None]:
    """The answers as chunks; an error in the middle is the last of them, and then ``[DONE]`` does not come.

    Each answer begins with its echo; ``count`` answers belong to a prompt.
    """
    usages: dict[int, Usage] = {}
    lengths = [len(echo) for echo in echoes]
    readers = [reader() if reader else None for _ in echoes]
    for index, echo in enumerate(echoes):
        opening = shape.first(index)
        if opening is not None:
            yield sse(opening)
        if echo:
            yield sse(shape.piece(index, echo))
    try:
        async with aclosing(choices.follow(_HEARTBEAT_S)) as following:
            async for index, events in following:
                if not events:
                    yield _KEEP_ALIVE
                for event in events:
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
                            raise _STOPPED
                        for chunk in shape.calls(index, calls):
                            yield sse(chunk)
                        yield sse(shape.last(index, finish))
    except (ChatGLMError, Problem) as error:
        yield sse(problem_of(error).body())
        return
    if shape.counted:
        yield sse(shape.usage(_sum([usages[index] for index in range(len(echoes))], count)))
    yield sse("[DONE]")


def _sum(usages: Sequence[Usage], count: int) -> Usage:
    """Of all answers; a prompt counts once, however many answers it has."""
    firsts = usages[::count]
    return Usage(
        sum(one.prompt_tokens for one in firsts),
        sum(one.completion_tokens for one in usages),
        cached_tokens=sum(one.cached_tokens for one in firsts),
    )


def _join(model: str, adapter: str) -> str:
    return f"{model}:{adapter}" if adapter else model


def _no_model(names: Sequence[str]) -> Problem:
    return Problem(404, f"Here there is {', '.join(names)}.", "model_not_found", "model")


def _cancel_result(submitting: asyncio.Future[Ticket]) -> None:
    if not submitting.cancelled() and submitting.exception() is None:
        submitting.result().cancel()
