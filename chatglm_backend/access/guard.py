"""Stands before the whole application, Gradio's own routes included, and lets in what the policy allows.

In this order: size of the head, name asked for, page it comes from, routes that are closed to all, sign-in,
size of the body. Knows neither pages nor models; it must wrap everything, so that nothing is forgotten.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Mapping
from math import ceil
from urllib.parse import parse_qsl, urlencode

from chatglm_backend.access.asgi import (
    ASGIApp,
    Headers,
    Receive,
    Scope,
    Send,
    error_reply,
    headers_of,
    inner_path,
    reply,
)
from chatglm_backend.access.bodies import BodyTooLarge, BodyTooSlow, ClientGone, has_body, read_body, replay
from chatglm_backend.access.headers import GuardedSend
from chatglm_backend.access.hosts import host_allowed, origin_allowed
from chatglm_backend.access.policy import AccessPolicy
from chatglm_backend.access.signin import Credentials, sign_in_page
from chatglm_backend.access.throttle import AttemptThrottle

__all__ = ["Guard", "route_closed"]

_log = logging.getLogger(__name__)

_OPEN = frozenset({"/health", "/ready"})
_FORM_LIMIT = 4096
_LARGE_AT_ONCE = 4
# Gradio serves these whether a page uses them or not: files, other people's servers, its own code editor.
_CLOSED = re.compile(
    r"/gradio_api/+(?:upload|upload_progress|component_server|process_recording|stream|custom_component|dev|runs|"
    r"run-history|profiling|mcp|deep_link|(?:undo-)?vibe-[a-z-]*)(?:/|$)"
    r"|/gradio_api/+(?:file|proxy)(?:[=/]|$)"
    r"|/(?:monitoring|pwa_icon)(?:/|$)"
    r"|/svelte/"
)


def route_closed(path: str) -> bool:
    """Whether nobody may use this route of Gradio's."""
    return _CLOSED.search(path) is not None


class Guard:
    """ASGI middleware: ``app.add_middleware(Guard, policy=...)``, or around any application.

    ``body_limits``: how many bytes may be sent to paths with these ends, where that is more than the policy's limit;
    a few such bodies are read at a time, so that they never fill the memory.
    """

    def __init__(
        self,
        app: ASGIApp,
        policy: AccessPolicy,
        throttle: AttemptThrottle | None = None,
        *,
        body_limits: Mapping[str, int] | None = None,
    ) -> None:
        self._app = app
        self._body_limits = dict(body_limits or {})
        self._large = asyncio.Semaphore(_LARGE_AT_ONCE)
        self._policy = policy
        self._credentials = Credentials(policy)
        self._throttle = AttemptThrottle() if throttle is None else throttle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        if scope["type"] == "http":
            await self._http(scope, receive, GuardedSend(send))
        elif scope["type"] == "websocket":  # the page uses none
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: GuardedSend) -> None:
        headers, path = headers_of(scope), inner_path(scope)
        problem = self._problem(scope, headers, path)
        if problem is not None:
            await error_reply(send, *problem)
            return
        if path == "/" and await self._sign_in(scope, headers, receive, send):
            return
        if path not in _OPEN and not await self._let_in(scope, headers, send):
            return
        if "text/html" in headers.get("accept", ""):
            scope = _without_compression(scope)  # the scripts of a page must be readable to be named
        await self._pass_on(scope, headers, receive, send)

    def _problem(self, scope: Scope, headers: Headers, path: str) -> tuple[int, str, str] | None:
        """Status, code and sentence for what nobody may do, signed in or not."""
        policy = self._policy
        head = sum(len(name) + len(value) + 4 for name, value in scope.get("headers", ()))
        target = len(scope.get("raw_path") or b"") + len(scope.get("query_string", b""))
        if target > policy.max_head // 2:
            return 414, "address_too_long", "The address is too long."
        if head > policy.max_head:
            return 431, "headers_too_large", "The request's headers are too large."
        host = headers.get("host", "")
        if not host_allowed(policy, host):
            return 421, "host_not_allowed", "This server does not answer to that name; see --allowed-hosts."
        if not origin_allowed(policy, headers, host):
            return 403, "origin_not_allowed", "Requests from other sites are refused."
        if route_closed(path):
            return 403, "route_closed", "This route is closed."
        return None

    async def _sign_in(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> bool:
        """Answer ``/`` where it is about signing in: a link with a token, the form, or a visitor without a cookie."""
        query = parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
        tokens = [value for name, value in query if name == "token"]
        clean = urlencode([(name, value) for name, value in query if name != "token"])
        method, signed_in = scope["method"], self._cookie_enough(headers)
        if tokens and method in ("GET", "HEAD"):
            right = signed_in or self._attempt(scope, lambda: self._credentials.secret_right(tokens[0]))
            await self._answer(scope, headers, send, right=right, query=clean)
            return True
        if signed_in or "authorization" in headers or method not in ("GET", "HEAD", "POST"):
            return False
        if method != "POST":
            await self._show_form(headers, send, status=200)
            return True
        try:
            timeout_s = self._policy.body_timeout_s
            body = await read_body(receive, headers, limit=_FORM_LIMIT, timeout_s=timeout_s)
        except (BodyTooLarge, BodyTooSlow, ClientGone):
            await error_reply(send, 413, "body_too_large", "The form is too large or came too slowly.")
            return True
        right = self._attempt(scope, lambda: self._credentials.form_right(body))
        await self._answer(scope, headers, send, right=right, query=clean)
        return True

    async def _answer(self, scope: Scope, headers: Headers, send: Send, *, right: bool | None, query: str) -> None:
        """After an attempt: the cookie and the clean address, the form again, or a pause."""
        if right is None:
            await self._refuse_for_now(scope, send)
        elif not right:
            await self._show_form(headers, send, status=401, wrong=True)
        else:
            root = self._root(scope)
            lines = [("location", f"{root}/" + (f"?{query}" if query else ""))]
            if self._policy.required:
                https = scope.get("scheme") == "https" or self._policy.https
                lines.append(("set-cookie", self._credentials.set_cookie(root, https=https)))
            await reply(send, 303, headers=lines)

    async def _let_in(self, scope: Scope, headers: Headers, send: Send) -> bool:
        """Whether the request may go on; has answered it if not."""
        if self._cookie_enough(headers):
            return True
        right: bool | None = False
        if "authorization" in headers:
            right = self._attempt(scope, lambda: self._credentials.header_right(headers["authorization"]))
        if right:
            return True
        if right is None:
            await self._refuse_for_now(scope, send)
            return False
        # A browser would ask with a window of its own, in the middle of the page.
        basic = self._policy.login is not None and "sec-fetch-mode" not in headers
        challenge = 'Basic realm="ChatGLM", charset="UTF-8"' if basic else 'Bearer realm="ChatGLM"'
        message = "Sign in at / or send the access token as a Bearer key."
        await error_reply(send, 401, "invalid_api_key", message, [("www-authenticate", challenge)])
        return False

    async def _pass_on(self, scope: Scope, headers: Headers, receive: Receive, send: GuardedSend) -> None:
        """Read the body, then let the application answer."""
        if not has_body(headers):
            await self._app(scope, receive, send)
            return
        path = inner_path(scope)
        limit = max((size for end, size in self._body_limits.items() if path.endswith(end)), default=0)
        if limit <= self._policy.max_body:
            await self._with_body(scope, headers, receive, send, self._policy.max_body)
            return
        async with self._large:
            await self._with_body(scope, headers, receive, send, limit)

    async def _with_body(self, scope: Scope, headers: Headers, receive: Receive, send: Send, limit: int) -> None:
        timeout_s = self._policy.body_timeout_s
        try:
            body = await read_body(receive, headers, limit=limit, timeout_s=timeout_s)
        except BodyTooLarge:
            await error_reply(send, 413, "body_too_large", f"The request is larger than {limit} bytes.")
        except BodyTooSlow:
            message = f"The request did not arrive within {timeout_s:.0f} seconds."
            await error_reply(send, 408, "body_too_slow", message, [("connection", "close")])
        except ClientGone:
            return
        else:
            await self._app(scope, replay(body, receive), send)

    def _cookie_enough(self, headers: Headers) -> bool:
        return not self._policy.required or self._credentials.cookie_right(headers)

    def _attempt(self, scope: Scope, check: Callable[[], bool]) -> bool | None:
        """Whether a secret is right; ``None``, without looking, where there were too many wrong ones."""
        address = _address(scope)
        if self._throttle.wait_s(address) > 0:
            return None
        right = check()
        if right:
            self._throttle.succeeded(address)
        else:
            self._throttle.failed(address)
            _log.warning("wrong token", extra={"facts": {"client": address}})
        return right

    async def _refuse_for_now(self, scope: Scope, send: Send) -> None:
        seconds = ceil(self._throttle.wait_s(_address(scope))) or 1
        message = f"Too many wrong tokens from your address. Try again in {seconds} seconds."
        await error_reply(send, 429, "too_many_attempts", message, [("retry-after", str(seconds))])

    async def _show_form(self, headers: Headers, send: Send, *, status: int, wrong: bool = False) -> None:
        page = sign_in_page(self._policy, headers.get("accept-language", ""), wrong=wrong)
        await reply(send, status, page, "text/html; charset=utf-8", [("vary", "accept-language")])

    def _root(self, scope: Scope) -> str:
        return str(scope.get("root_path", "")) or self._policy.root_path


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else "local"


def _without_compression(scope: Scope) -> Scope:
    headers = [(name, value) for name, value in scope["headers"] if name.lower() != b"accept-encoding"]
    return {**scope, "headers": headers}
