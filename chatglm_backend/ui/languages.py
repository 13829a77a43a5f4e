"""One address, several languages: sends a visitor to the page in theirs.

The pages are mounted under ``/zh`` and ``/en``; this plain ASGI application answers ``/`` with the
one that the address (``?lang=``), the visitor's cookie or the browser's own setting asks for. It
also gives the served HTML its language, its early script and its title. It knows no components.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from html import escape
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

from chatglm_backend.ui.i18n import LANGUAGES, Language, choose_language

__all__ = ["ASGIApp", "LanguageRoot", "polish_html"]

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]
ASGIApp = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

# Whatever an answer contains, a picture's address included, the browser asks no other host for it.
_POLICY = (
    b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    b"img-src 'self' data: blob:; font-src 'self' data:; media-src 'self' data: blob:; worker-src 'self' blob:; "
    b"connect-src 'self' data: blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)

_COOKIE = "chatglm_language"


class LanguageRoot:
    """Passes each request on to one of ``pages``, as if it had been sent under that page's own path."""

    def __init__(self, pages: Mapping[Language, ASGIApp], script: str, titles: Mapping[Language, str]) -> None:
        self._pages = pages
        self._script = script
        self._titles = titles

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000})
            return
        root, path = str(scope.get("root_path", "")), str(scope["path"])
        inner = path[len(root) :] if path.startswith(root) else path
        language, asked = self._language(scope, inner)
        if asked and inner.strip("/") in LANGUAGES:
            inner = "/"  # the link on /zh/ that leads to the English page
        if not _under(inner, language):
            scope = {**scope, "path": f"{root}/{language}{inner}", "root_path": f"{root}/{language}"}
            scope["raw_path"] = scope["path"].encode()
        else:
            scope = {**scope, "root_path": f"{root}/{language}"}
        html = inner.strip("/") in ("", language)
        reply = _HtmlReply(send, self._polish(language), _cookie(language, root) if asked else None) if html else None
        await self._pages[language](scope, receive, send if reply is None else reply)

    def _language(self, scope: Mapping[str, Any], inner: str) -> tuple[Language, bool]:
        headers = {name: value.decode("latin-1") for name, value in scope.get("headers", ())}
        asked = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("lang", [""])[0]
        for language in LANGUAGES:
            if _under(inner, language) and asked not in LANGUAGES:
                return language, False
        wanted = asked or _read_cookie(headers.get(b"cookie", ""))
        return choose_language(wanted, headers.get(b"accept-language")), asked in LANGUAGES

    def _polish(self, language: Language) -> Callable[[str], str]:
        return lambda html: polish_html(html, language, self._titles[language], self._script)


def polish_html(html: str, language: Language, title: str, script: str) -> str:
    """Set the document's language and title, put our script before all others, drop foreign preview pictures."""
    tag = "zh-CN" if language == "zh" else "en"
    lines = [line for line in _joined_metas(html) if not _foreign(line)]
    html = "\n".join(lines).replace('lang="en"', f'lang="{tag}"', 1)
    early = (
        f"<title>{escape(title)}</title>"
        f'<script>Object.defineProperty(navigator,"language",{{get:()=>"{tag}"}});\n{script}</script>'
    )
    return html.replace("<head>", f"<head>\n{early}", 1)


class _HtmlReply:
    """Collects an HTML reply, polishes it, sends it on; passes anything else through."""

    def __init__(self, send: Send, polish: Callable[[str], str], cookie: bytes | None) -> None:
        self._send, self._polish, self._cookie = send, polish, cookie
        self._start: Message | None = None
        self._body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            if not self._is_html(message):
                await self._send(message)
            return
        if self._start is None or not self._is_html(self._start):
            await self._send(message)
            return
        self._body += message.get("body", b"")
        if message.get("more_body"):
            return
        body = self._polish(self._body.decode("utf-8")).encode("utf-8")
        headers = [(name, value) for name, value in self._start["headers"] if name.lower() != b"content-length"]
        headers.append((b"content-length", str(len(body)).encode()))
        headers += [(b"cache-control", b"no-store"), (b"vary", b"accept-language, cookie")]
        headers.append((b"content-security-policy", _POLICY))
        if self._cookie is not None:
            headers.append((b"set-cookie", self._cookie))
        await self._send({**self._start, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    @staticmethod
    def _is_html(start: Message) -> bool:
        headers = dict(start["headers"])
        plain = b"content-encoding" not in headers
        return plain and start["status"] == 200 and headers.get(b"content-type", b"").startswith(b"text/html")


def _under(path: str, language: Language) -> bool:
    return path == f"/{language}" or path.startswith(f"/{language}/")


def _read_cookie(header: str) -> str | None:
    try:
        morsel = SimpleCookie(header).get(_COOKIE)
    except CookieError:
        return None
    return None if morsel is None else morsel.value


def _cookie(language: Language, root: str) -> bytes:
    return f"{_COOKIE}={language}; Path={root or '/'}; Max-Age=31536000; SameSite=Lax".encode()


def _joined_metas(html: str) -> list[str]:
    """Lines, with a ``<meta`` that spans several put on one."""
    lines: list[str] = []
    for line in html.split("\n"):
        if lines and lines[-1].lstrip().startswith("<meta") and ">" not in lines[-1]:
            lines[-1] += " " + line.strip()
        else:
            lines.append(line)
    return lines


def _foreign(line: str) -> bool:
    return line.lstrip().startswith("<meta") and ('"og:' in line or '"twitter:' in line)
