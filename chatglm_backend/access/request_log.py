"""One log line for every request: method, path, status, duration, address. Never a query, a header, a body,
or the number of a page's session.

Knows no policy and no application.
"""

from __future__ import annotations

import logging
import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chatglm_backend.access.asgi import client_address
from chatglm_backend.core import monotonic_clock

_log = logging.getLogger(__name__)
_LONGEST_PATH = 200
_NUMBER = re.compile(r"(/gradio_api/+(?:heartbeat|call/+(?:v2/+)?[^/]+)/+)[^/]+")  # of a session or an event


class RequestLog:
    """ASGI middleware, around everything, the guard included. A line is written when the reply has ended."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or not _log.isEnabledFor(logging.INFO):
            await self._app(scope, receive, send)
            return
        began, status = monotonic_clock(), 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            facts = {
                "method": scope["method"],
                "path": _NUMBER.sub(r"\1-", str(scope["path"]))[:_LONGEST_PATH],
                "status": status,
                "seconds": round(monotonic_clock() - began, 4),
                "client": client_address(scope),
            }
            _log.info("request", extra={"facts": facts})
