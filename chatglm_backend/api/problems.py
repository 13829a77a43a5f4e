"""Every error in the form that OpenAI's clients read, and a route that turns whatever is raised into it."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import Receive, Scope, Send

from chatglm_backend.errors import (
    ChatGLMError,
    ContextLimitExceeded,
    DocumentRefused,
    InvalidRequest,
    ModelNotReady,
    NoMemoryForPrompt,
    QueueFull,
    ShuttingDown,
    TooManyRequests,
    UnknownAdapter,
    UnusableSchema,
)
from chatglm_backend.sentences import Sentence

_log = logging.getLogger(__name__)

_STATUS: Mapping[type[ChatGLMError], int] = {
    InvalidRequest: 400,
    UnusableSchema: 400,
    DocumentRefused: 400,
    ContextLimitExceeded: 400,
    UnknownAdapter: 404,
    TooManyRequests: 429,
    NoMemoryForPrompt: 503,
    QueueFull: 503,
    ModelNotReady: 503,
    ShuttingDown: 503,
}
_RETRY_SECONDS = "2"
_WORTH_COMPRESSING = 1500
_CODES = {"extra_forbidden": "unknown_parameter", "unsupported": "unsupported_value", "missing": "missing_parameter"}


@dataclass(eq=False)
class Problem(Exception):
    """One error as a client sees it; a route may raise it. ``param`` names the field at fault."""

    status: int
    message: str | Sentence
    code: str | None = None
    param: str | None = None

    def body(self, say: Callable[[object], str] = str) -> dict[str, object]:
        """The JSON body; ``say`` words a sentence."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        if self.status == 429:
            kind = "rate_limit_error"
        return {"error": {"message": say(self.message), "type": kind, "param": self.param, "code": self.code}}


def problem_of(error: BaseException) -> Problem:
    """What to tell a client about an error; nothing of the inside for unexpected ones."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, ContextLimitExceeded):
        return Problem(400, error.sentence, "context_length_exceeded", "messages")
    if isinstance(error, ChatGLMError):
        field = error.fields.get("field") if isinstance(error, InvalidRequest) else None
        if isinstance(error, UnusableSchema):
            field = "response_format"
        elif isinstance(error, DocumentRefused):
            field = "messages"
        return Problem(_STATUS.get(type(error), 500), error.sentence, error.code, str(field) if field else None)
    if isinstance(error, (RequestValidationError, ValidationError)):
        return _of_validation(error.errors())
    if isinstance(error, HTTPException):
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
        return Problem(error.status_code, str(error.detail), code)
    return Problem(500, "Something went wrong here. Try again.", "internal_error")


def problem_reply(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """The reply. ASCII only: half a character in a request must not break its own error."""
    lines = dict(headers or {})
    if problem.status in (429, 503):
        lines["retry-after"] = _RETRY_SECONDS
    return Response(json.dumps(problem.body()), problem.status, lines, "application/json")


class OpenAIRoute(APIRoute):
    """A route whose errors all have OpenAI's form; replies have a number, and are compressed but for streams."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The usual way, compressed."""
        compressed = GZipMiddleware(super().handle, minimum_size=_WORTH_COMPRESSING, compresslevel=5)
        await compressed(scope, receive, send)

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        """The usual handler with its errors caught."""
        handle = super().get_route_handler()

        async def numbered(request: Request) -> Response:
            request.state.number = number = uuid.uuid4().hex
            reply = await handle_or_explain(request)
            reply.headers["x-request-id"] = f"req-{number}"
            return reply

        async def handle_or_explain(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                if request.method == "POST" and "json" not in request.headers.get("content-type", ""):
                    return problem_reply(Problem(400, "Send JSON with the header Content-Type: application/json."))
                return problem_reply(problem_of(error))
            except (ChatGLMError, Problem, HTTPException) as error:
                return problem_reply(problem_of(error))
            except Exception as error:  # noqa: BLE001  told in the same form, and logged
                _log.exception("a request to the endpoint failed")
                return problem_reply(problem_of(error))

        return numbered


def _of_validation(errors: Sequence[Mapping[str, object]]) -> Problem:
    if not errors:
        return Problem(400, "The request is not valid.")
    first = errors[0]
    if first.get("type") == "json_invalid":
        return Problem(400, "The body is not valid JSON.")
    place = first.get("loc", ())
    words = map(str, place) if isinstance(place, (tuple, list)) else ()
    parts = [word for word in words if word != "body" and "[" not in word]
    context = first.get("ctx")
    reason = context["error"] if isinstance(context, dict) and "error" in context else first.get("msg", "")
    param = ".".join(parts) or None
    code = _CODES.get(str(first.get("type")), "invalid_value")
    if code == "unknown_parameter":
        reason = "this field is not known here; leave it out"
    return Problem(400, f"{param or 'The body'}: {reason}.".replace("..", "."), code, param)
