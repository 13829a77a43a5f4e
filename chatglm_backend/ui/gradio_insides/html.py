"""Rewrites the HTML that Gradio serves: its language, its title, our script first, nothing from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import escape

from starlette.types import Message, Send

# Whatever an answer contains, a picture's address included, the browser asks no other host for it.
_POLICY = (
    b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    b"img-src 'self' data: blob:; font-src 'self' data:; media-src 'self' data: blob:; worker-src 'self' blob:; "
    b"connect-src 'self' data: blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
_HEADERS = [
    (b"cache-control", b"no-store"),
    (b"vary", b"accept-language, cookie"),
    (b"content-security-policy", _POLICY),
]
_PREVIEW = re.compile(r'<meta\s+(?:property|name)="(?:og|twitter):[^>]*>')


def polish_html(html: str, tag: str, title: str, script: str) -> str:
    """Set the document's language ``tag`` and title, run ``script`` first, drop the pictures for link previews.

    Gradio shows its own words in ``navigator.language``, and sets the document's language to it.
    """
    early = (
        f"<title>{escape(title)}</title>"
        f'<script>Object.defineProperty(navigator,"language",{{get:()=>"{tag}"}});\n{script}</script>'
    )
    html = _PREVIEW.sub("", html).replace('lang="en"', f'lang="{tag}"', 1)
    return html.replace("<head>", f"<head>\n{early}", 1)


class HtmlReply:
    """An ASGI ``send`` that collects an HTML reply, polishes it and sends it on; anything else passes through."""

    def __init__(self, send: Send, polish: Callable[[str], str], cookie: bytes | None) -> None:
        self._send, self._polish, self._cookie = send, polish, cookie
        self._start: Message | None = None
        self._body = b""

    async def __call__(self, message: Message) -> None:
        """Take the next message of the reply."""
        if message["type"] == "http.response.start" and _is_html(message):
            self._start = message
            return
        if self._start is None:
            await self._send(message)
            return
        self._body += message.get("body", b"")
        if message.get("more_body"):
            return
        body = self._polish(self._body.decode("utf-8")).encode("utf-8")
        headers = [(name, value) for name, value in self._start["headers"] if name.lower() != b"content-length"]
        headers += [(b"content-length", str(len(body)).encode()), *_HEADERS]
        if self._cookie is not None:
            headers.append((b"set-cookie", self._cookie))
        await self._send({**self._start, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})


def _is_html(start: Message) -> bool:
    headers = dict(start["headers"])
    plain = b"content-encoding" not in headers
    return plain and start["status"] == 200 and headers.get(b"content-type", b"").startswith(b"text/html")
