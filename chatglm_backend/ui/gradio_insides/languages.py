"""One address, several languages: sends a visitor to the page in theirs.

The pages stand under ``/zh`` and ``/en``; this plain ASGI application answers ``/`` with the one that the address
(``?lang=``), the visitor's cookie or the browser's own setting asks for, and has its HTML rewritten. It knows no
components.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from urllib.parse import parse_qs

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from chatglm_backend.sentences import LANGUAGES, Language, choose_language, load_texts
from chatglm_backend.ui.gradio_insides.html import HtmlReply, polish_html

_COOKIE = "chatglm_language"


class LanguageRoot:
    """Passes each request on to one of ``pages``, as if it had been sent under that page's own path."""

    def __init__(self, pages: Mapping[Language, ASGIApp], script: str, titles: Mapping[Language, str]) -> None:
        self._pages = pages
        self._script = script
        self._titles = titles

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000})
            return
        root, path = str(scope.get("root_path", "")), str(scope["path"])
        inner = path[len(root) :] if path.startswith(root) else path
        language, asked = _language(scope, inner)
        if asked and inner.strip("/") in LANGUAGES:
            inner = "/"  # the link on /zh/ that leads to the English page
        scope = {**scope, "root_path": f"{root}/{language}"}
        if not _under(inner, language):
            scope["path"] = f"{root}/{language}{inner}"
            scope["raw_path"] = scope["path"].encode()
        if inner.strip("/") in ("", language):
            tag, title = load_texts(language)("app.language_tag"), self._titles[language]
            polish = partial(polish_html, tag=tag, title=title, script=self._script)
            send = HtmlReply(send, polish, _cookie(language, root) if asked else None)
        await self._pages[language](scope, receive, send)


def _language(scope: Scope, inner: str) -> tuple[Language, bool]:
    """The language, and whether it was asked for by a link that changes it."""
    asked = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("lang", [""])[0]
    for language in LANGUAGES:
        if _under(inner, language) and asked not in LANGUAGES:
            return language, False
    connection = HTTPConnection(scope)
    accepted = connection.headers.get("accept-language", "")
    return choose_language(asked or connection.cookies.get(_COOKIE), accepted), asked in LANGUAGES


def _under(path: str, language: Language) -> bool:
    return path == f"/{language}" or path.startswith(f"/{language}/")


def _cookie(language: Language, root: str) -> bytes:
    return f"{_COOKIE}={language}; Path={root or '/'}; Max-Age=31536000; SameSite=Lax".encode()
