"""Security headers for every reply, and a content policy that names each inline script of a page by its hash.

Scripts are allowed from this server and, inline, only as they stand in the page as it was served; styles may be
inline, and code may be compiled from text, because Gradio's components do both. Knows no page.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable

from starlette.types import Message, Send

_MAX_HTML = 4_000_000
_SCRIPT = re.compile(rb"<script\b([^>]*)>(.*?)</script\s*>", re.DOTALL | re.IGNORECASE)
_HAS_SOURCE = re.compile(rb"\bsrc\s*=", re.IGNORECASE)
_FIXED = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),  # no-referrer would hide the origin of our own forms
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=(), payment=(), usb=()"),
)
# Permissions for other sites, and a page's own content policy, which knows no hashes and so is the weaker one.
_DROPPED = (b"access-control-", b"content-security-policy")


def inline_script_hashes(html: bytes) -> list[str]:
    """The content policy's names for the inline scripts of a page."""
    found = []
    for attributes, code in _SCRIPT.findall(html):
        if not _HAS_SOURCE.search(attributes):
            # A browser hashes what it has parsed, and there all line ends are single.
            plain = code.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            found.append(f"'sha256-{base64.b64encode(hashlib.sha256(plain).digest()).decode()}'")
    return list(dict.fromkeys(found))


def content_policy(hashes: Iterable[str] = ()) -> bytes:
    """The Content-Security-Policy header's value."""
    scripts = " ".join(["'self'", "'unsafe-eval'", *hashes])
    rules = (
        "default-src 'self'",
        f"script-src {scripts}",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "media-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "connect-src 'self'",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
    return "; ".join(rules).encode()


class GuardedSend:
    """Passes a reply on with the headers added; a page is held back until its scripts are known."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._page: Message | None = None
        self._body = b""

    async def __call__(self, message: Message) -> None:
        """Take one message of the application."""
        if message["type"] == "http.response.start":
            if _is_page(message):
                self._page = message
            else:
                await self._send(_with_headers(message, content_policy()))
        elif message["type"] == "http.response.body" and self._page is not None:
            self._body += message.get("body", b"")
            if not message.get("more_body") or len(self._body) > _MAX_HTML:
                await self._release(more=bool(message.get("more_body")))
        else:
            await self._send(message)

    async def _release(self, *, more: bool) -> None:
        page, self._page = self._page, None
        if page is not None:
            await self._send(_with_headers(page, content_policy(inline_script_hashes(self._body))))
        await self._send({"type": "http.response.body", "body": self._body, "more_body": more})
        self._body = b""


def _is_page(start: Message) -> bool:
    headers = {name.lower(): value for name, value in start.get("headers", ())}
    return b"content-encoding" not in headers and headers.get(b"content-type", b"").startswith(b"text/html")


def _with_headers(start: Message, policy: bytes) -> Message:
    given = [(name.lower(), value) for name, value in start.get("headers", ())]
    kept = [(name, value) for name, value in given if not name.startswith(_DROPPED)]
    names = {name for name, _ in kept}
    added = [pair for pair in (*_FIXED, (b"content-security-policy", policy)) if pair[0] not in names]
    kind = dict(kept).get(b"content-type", b"")
    if b"cache-control" not in names and kind.startswith((b"text/html", b"application/json")):
        added.append((b"cache-control", b"no-store"))
    return {**start, "headers": [*kept, *added]}
