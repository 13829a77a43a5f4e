"""Stands before the whole application, Gradio's own routes included, and lets in what the policy allows.

In this order: size of the head, name asked for, page it comes from, routes that are closed to all, sign-in,
size of the body. Knows neither pages nor models; it must wrap everything, so that nothing is forgotten.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from math import ceil
from urllib.parse import parse_qsl, urlencode

from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from chatglm_backend.access.asgi import Headers, admit, client_address, error_reply, headers_of, inner_path
from chatglm_backend.access.bodies import BodyRefused, UnreadBody, has_body, read_body, replay
from chatglm_backend.access.headers import GuardedSend
from chatglm_backend.access.hosts import host_allowed, origin_allowed
from chatglm_backend.access.policy import AccessPolicy
from chatglm_backend.access.signin import Credentials, sign_in_page
from chatglm_backend.access.throttle import AttemptThrottle
from chatglm_backend.access.tokens import is_loopback, visitor_network

_log = logging.getLogger(__name__)

_OPEN = frozenset({"/health", "/ready"})
_FORM_LIMIT = 4096
_FORM_SECONDS = 10.0
_LARGE_AT_ONCE = 4
# Gradio serves these whether a page uses them or not: files, other people's servers, its own code editor.
_CLOSED = re.compile(
    r"/gradio_api/+(?:upload|upload_progress|component_server|process_recording|stream|custom_component|dev|runs|"
    r"run-history|profiling|mcp|deep_link|(?:undo-)?vibe-[a-z-]*)(?:/|$)"
    r"|/gradio_api/+(?:file|proxy)(?:[=/]|$)"
    r"|/(?:monitoring|pwa_icon)(?:/|$)"
    r"|/svelte/"
)


_TOO_MANY = error_reply(
    503, "too_many_requests", "There are too many requests from your address.", {"retry-after": "5"}
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
        self._inside: Counter[str] = Counter()
        self._told_of_proxy = False
        self._cors = CORSMiddleware(
            self._serve,
            allow_origins=policy.origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "retry-after"],
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        if scope["type"] == "http":
            if has_body(headers_of(scope)):
                body = UnreadBody(receive, send)
                receive, send = body.receive, body.send
            with self._share_of(scope) as within:
                serve = self._cors if self._from_web_app(scope) else self._serve
                await (serve if within else _TOO_MANY)(scope, receive, send)
        elif scope["type"] == "websocket":  # the page uses none
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._app(scope, receive, send)

    @contextlib.contextmanager
    def _share_of(self, scope: Scope) -> Iterator[bool]:
        """Whether the address has not more requests here than it may; this machine's own programs may."""
        address = client_address(scope)
        key = visitor_network(address)
        self._inside[key] += 1
        try:
            yield self._inside[key] <= self._policy.max_of_one or is_loopback(address)
        finally:
            self._inside[key] -= 1
            if not self._inside[key]:
                del self._inside[key]

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = await self._own_answer(scope, receive) or self._pass_on
        await answer(scope, receive, GuardedSend(send))

    def _from_web_app(self, scope: Scope) -> bool:
        """Whether a web app of another origin, that is allowed to, asks the endpoint."""
        headers = headers_of(scope)
        return (
            headers.get("origin", "").lower() in self._policy.origins
            and inner_path(scope).startswith("/v1/")
            and host_allowed(self._policy, headers.get("host", ""))
        )

    async def _own_answer(self, scope: Scope, receive: Receive) -> Response | None:
        """A refusal, or what belongs to signing in; ``None`` for what the application answers."""
        headers, path = headers_of(scope), inner_path(scope)
        if "x-forwarded-for" in headers and not (self._policy.proxies or self._told_of_proxy):
            self._told_of_proxy = True
            _log.warning("X-Forwarded-For is not believed: name the proxy in --trusted-proxies", extra=_client(scope))
        if self._from_web_app(scope):
            headers.pop("cookie", None)  # what its user may do on the page is not for the app
        answer = self._problem(scope, headers)
        if answer is None and path == "/":
            answer = await self._sign_in(scope, headers, receive)
        if answer is None and path in _OPEN and self._cookie_enough(headers):
            admit(scope)
        elif answer is None and path not in _OPEN:
            answer = self._keep_out(scope, headers)
        return answer

    def _problem(self, scope: Scope, headers: Headers) -> Response | None:
        """What nobody may do, signed in or not."""
        policy = self._policy
        head = sum(len(name) + len(value) + 4 for name, value in scope.get("headers", ()))
        target = len(scope.get("raw_path") or b"") + len(scope.get("query_string", b""))
        if target > policy.max_head // 2:
            return error_reply(414, "address_too_long", "The address is too long.")
        if head > policy.max_head:
            return error_reply(431, "headers_too_large", "The request's headers are too large.")
        host = headers.get("host", "")
        if not host_allowed(policy, host):
            message = "This server does not answer to that name; see --allowed-hosts."
            return error_reply(421, "host_not_allowed", message)
        if not self._from_web_app(scope) and not origin_allowed(policy, headers, host):
            return error_reply(403, "origin_not_allowed", "Requests from other sites are refused.")
        if route_closed(inner_path(scope)):
            return error_reply(403, "route_closed", "This route is closed.")
        return None

    async def _sign_in(self, scope: Scope, headers: Headers, receive: Receive) -> Response | None:
        """Answer ``/`` where it is about signing in: a link with a token, the form, or a visitor without a cookie."""
        query = parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
        tokens = [value for name, value in query if name == "token"]
        clean = urlencode([(name, value) for name, value in query if name != "token"])
        method, signed_in = scope["method"], self._cookie_enough(headers)
        if tokens and method in ("GET", "HEAD"):
            right = signed_in or self._attempt(scope, lambda: self._credentials.secret_right(tokens[0]))
            return self._after_attempt(scope, headers, clean, right=right)
        if signed_in or "authorization" in headers or method not in ("GET", "HEAD", "POST"):
            return None
        if method != "POST":
            return self._form(headers, status=200)
        try:
            timeout_s = min(_FORM_SECONDS, self._policy.body_timeout_s)
            body = await read_body(scope, receive, headers, limit=_FORM_LIMIT, timeout_s=timeout_s)
        except (BodyRefused, ClientDisconnect):
            return error_reply(413, "body_too_large", "The form is too large or came too slowly.")
        right = self._attempt(scope, lambda: self._credentials.form_right(body))
        return self._after_attempt(scope, headers, clean, right=right)

    def _after_attempt(self, scope: Scope, headers: Headers, query: str, *, right: bool | None) -> Response:
        """The cookie and the clean address, the form again, or a pause."""
        if right is None:
            return self._not_now(scope)
        if not right:
            return self._form(headers, status=401, wrong=True)
        root = str(scope.get("root_path", "")) or self._policy.root_path
        lines = {"location": f"{root}/" + (f"?{query}" if query else ""), "cache-control": "no-store"}
        if self._policy.required:
            https = scope.get("scheme") == "https" or self._policy.https
            lines["set-cookie"] = self._credentials.set_cookie(root, https=https)
        return Response(status_code=303, headers=lines)

    def _keep_out(self, scope: Scope, headers: Headers) -> Response | None:
        """What whoever has neither cookie nor key is told; ``None`` for the others."""
        right: bool | None = self._cookie_enough(headers)
        if not right and "authorization" in headers:
            right = self._attempt(scope, lambda: self._credentials.header_right(headers["authorization"]))
        if right:
            admit(scope)
            return None
        if right is None:
            return self._not_now(scope)
        # A browser would ask with a window of its own, in the middle of the page.
        basic = self._policy.login is not None and "sec-fetch-mode" not in headers
        challenge = 'Basic realm="ChatGLM", charset="UTF-8"' if basic else 'Bearer realm="ChatGLM"'
        message = "Sign in at / or send the access token as a Bearer key."
        return error_reply(401, "invalid_api_key", message, {"www-authenticate": challenge})

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body, then let the application answer."""
        headers, path = headers_of(scope), inner_path(scope)
        if "text/html" in headers.get("accept", ""):
            scope = _without_compression(scope)  # the scripts of a page must be readable to be named
        if not has_body(headers):
            await self._app(scope, receive, send)
            return
        usual, timeout_s = self._policy.max_body, self._policy.body_timeout_s
        limit = (
            0
            if path in _OPEN
            else max([usual, *(size for end, size in self._body_limits.items() if path.endswith(end))])
        )
        few = limit > usual and not _declares_at_most(usual, headers)
        async with self._large if few else contextlib.nullcontext():
            try:
                body = await read_body(scope, receive, headers, limit=limit, timeout_s=timeout_s)
            except BodyRefused as refused:
                await error_reply(*refused.args)(scope, receive, send)
            except ClientDisconnect:
                return
            else:
                await self._app(scope, replay(body, receive), send)

    def _cookie_enough(self, headers: Headers) -> bool:
        return not self._policy.required or self._credentials.cookie_right(headers)

    def _attempt(self, scope: Scope, check: Callable[[], bool]) -> bool | None:
        """Whether a secret is right; ``None`` for a wrong one where there were too many from that address.

        Others behind the same address may have the right one, so that one is looked for even then, unless the secret
        is short enough to be found by trying.
        """
        address = client_address(scope)
        too_many = self._throttle.wait_s(address) > 0
        if too_many and not self._policy.unguessable:
            return None
        right = check()
        if right or too_many:
            return right or None
        self._throttle.failed(address)
        _log.warning("wrong token", extra=_client(scope))
        return False

    def _not_now(self, scope: Scope) -> Response:
        seconds = ceil(self._throttle.wait_s(client_address(scope))) or 1
        message = f"Too many wrong tokens from your address. Try again in {seconds} seconds."
        return error_reply(429, "too_many_attempts", message, {"retry-after": str(seconds)})

    def _form(self, headers: Headers, *, status: int, wrong: bool = False) -> Response:
        page = sign_in_page(self._policy, headers.get("accept-language", ""), wrong=wrong)
        return HTMLResponse(page, status, {"vary": "accept-language"})


def _client(scope: Scope) -> dict[str, dict[str, str]]:
    return {"facts": {"client": client_address(scope)}}


def _without_compression(scope: Scope) -> Scope:
    headers = [(name, value) for name, value in scope["headers"] if name.lower() != b"accept-encoding"]
    return {**scope, "headers": headers}


def _declares_at_most(size: int, headers: Headers) -> bool:
    """Whether a body says of itself that it is no larger; it is held to that."""
    declared = headers.get("content-length", "")
    if "transfer-encoding" in headers:  # which is what counts where there are both
        return False
    return declared.isascii() and declared.isdigit() and len(declared) <= 12 and int(declared) <= size
