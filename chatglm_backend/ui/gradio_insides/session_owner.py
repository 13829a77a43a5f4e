"""A session of Gradio's answers only the visitor who began it.

Gradio streams a session's results to whoever knows its number, and an event's to whoever knows the event's. This
layer remembers whose each number is. It knows Gradio's routes and the visitor's name, and no components.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chatglm_backend.access.bodies import replay

_ROUTE = re.compile(r"/gradio_api/+(?P<route>[^/]+)(?:/+(?P<rest>.*?))?/*$")
_KEPT = 16_384


class SessionOwner:
    """ASGI middleware inside of the one that limits bodies. ``visitor`` names who asks, by cookies and address."""

    def __init__(
        self, app: ASGIApp, visitor: Callable[[Mapping[str, str], str | None], str], *, kept: int = _KEPT
    ) -> None:
        self._app = app
        self._visitor = visitor
        self._kept = kept
        self._owners: OrderedDict[str, str] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or say that there is nothing."""
        found = _ROUTE.search(str(scope["path"])) if scope["type"] == "http" else None
        if found is None:
            await self._app(scope, receive, send)
            return
        request, body = Request(scope, receive), b""
        visitor = self._visitor(request.cookies, request.client.host if request.client else None)
        if request.method == "POST":
            body = await request.body()
            receive = replay(body, receive)
        sessions, events = _numbers(scope, found, body)
        # One text for all that is remembered of a session, and none for who brings no number.
        visitor = next((name for name in map(self._owners.get, sessions) if name == visitor), None) or visitor
        if not all(self._owns(visitor, one) for one in events) or not all(
            self._takes(visitor, one) for one in sessions
        ):
            await Response(status_code=404)(scope, receive, send)
            return
        begins = scope["method"] == "POST" and found["route"] in ("queue", "call")
        await self._app(scope, receive, self._noting(visitor, send) if begins else send)

    def _owns(self, visitor: str, number: str) -> bool:
        return self._owners.get(number) == visitor

    def _takes(self, visitor: str, number: str) -> bool:
        """Whether it is the visitor's, or nobody's, and then the visitor's from now on."""
        if self._owners.setdefault(number, visitor) != visitor:
            return False
        self._owners.move_to_end(number)
        while len(self._owners) > self._kept:
            self._owners.popitem(last=False)
        return True

    def _noting(self, visitor: str, send: Send) -> Send:
        """Remember whose the event is that the reply names."""
        body = b""

        async def noting(message: Message) -> None:
            nonlocal body
            if message["type"] == "http.response.body":
                body += message.get("body", b"")
                if not message.get("more_body"):
                    for number in _texts(_parsed(body), "event_id"):
                        self._takes(visitor, number)
            await send(message)

        return noting


def _numbers(scope: Scope, found: re.Match[str], body: bytes) -> tuple[list[str], list[str]]:
    """The sessions and the events that a request names."""
    query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
    sent, route, rest = _parsed(body), found["route"], found["rest"] or ""
    sessions = [*query.get("session_hash", ()), *_texts(sent, "session_hash")]
    events = [*query.get("event_id", ()), *_texts(sent, "event_id")]
    if route == "heartbeat" and rest:
        sessions.append(rest)
    if route == "call" and scope["method"] != "POST":
        events.append(rest.rpartition("/")[2])
    return sessions, events


def _parsed(body: bytes) -> Any:  # noqa: ANN401 - whatever somebody sends
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _texts(sent: Any, name: str) -> list[str]:  # noqa: ANN401
    value = sent.get(name) if isinstance(sent, Mapping) else None
    return [value] if isinstance(value, str) else []
