"""Who a visitor is: a random name in a signed cookie, set with the page. Knows no conversations.

The cookie's own name comes from the key, so that servers with other data folders on the same host
do not take each other's visitors away.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_YEAR_S = 31_536_000
_NAME = re.compile(r"[0-9a-f]{32}")


class VisitorSigner:
    """Makes and checks the cookie's value: a name, a dot, its signature."""

    def __init__(self, key: bytes, *, lasting: bool = True) -> None:
        """``lasting``: the key is kept, so that the cookie may be, too."""
        self.lasting = lasting
        self._key = key
        self.cookie_name = f"chatglm_visitor_{hmac.new(key, b'cookie', hashlib.sha256).hexdigest()[:12]}"

    def issue(self) -> str:
        """The value for a new visitor."""
        name = secrets.token_hex(16)
        return f"{name}.{self._signature(name)}"

    def read(self, cookies: Mapping[str, str]) -> str | None:
        """The visitor's name; ``None`` without a cookie of ours."""
        name, _, signature = cookies.get(self.cookie_name, "").partition(".")
        if _NAME.fullmatch(name) is None or not signature.isascii():
            return None
        return name if hmac.compare_digest(signature, self._signature(name)) else None

    def _signature(self, name: str) -> str:
        return hmac.new(self._key, b"visitor:" + name.encode(), hashlib.sha256).hexdigest()


class VisitorLayer:
    """ASGI middleware: gives whoever opens a page without a valid cookie a new one."""

    def __init__(self, app: ASGIApp, signer: Callable[[], VisitorSigner]) -> None:
        self._app = app
        self._signer = signer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        signer = self._signer() if _opens_a_page(scope) else None
        if signer is None or signer.read(HTTPConnection(scope).cookies) is not None:
            await self._app(scope, receive, send)
            return
        secure = "; Secure" if scope.get("scheme") == "https" else ""
        age = f"; Max-Age={_YEAR_S}" if signer.lasting else ""
        path = str(scope.get("root_path", "")) or "/"
        line = f"{signer.cookie_name}={signer.issue()}; Path={path}; HttpOnly; SameSite=Lax{age}{secure}"

        async def send_with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 200:
                headers = MutableHeaders(scope=message)
                if headers.get("content-type", "").startswith("text/html"):
                    headers.append("set-cookie", line)
            await send(message)

        await self._app(scope, receive, send_with_cookie)


def _opens_a_page(scope: Scope) -> bool:
    return (
        scope["type"] == "http" and scope["method"] == "GET" and "text/html" in Headers(scope=scope).get("accept", "")
    )
