"""Mounts the pages, one application for each language, behind one address."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import gradio as gr
from gradio.route_utils import FnIndexInferError
from gradio.routes import App
from starlette.responses import JSONResponse

from chatglm_backend.sentences import load_texts
from chatglm_backend.ui.gradio_insides.languages import LanguageRoot
from chatglm_backend.ui.gradio_insides.sessions import Sessions
from chatglm_backend.ui.theme import page_script, page_styles, page_theme

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.requests import Request
    from starlette.types import ASGIApp

    from chatglm_backend.sentences import Language

_LOOK_S = 0.01
"""How often the queue looks for something to do. Gradio's own thousand times a second are felt by the model."""


@contextmanager
def no_spare_apps() -> Iterator[None]:
    """Build a page without an application of Gradio's: it makes all routes at three times before the page is mounted.

    Those take longer than the page itself, and only the one that mounting makes is ever asked.
    """
    original = App.create_app
    App.create_app = staticmethod(lambda *_, **__: None)
    try:
        yield
    finally:
        App.create_app = staticmethod(original)


def mount_pages(app: FastAPI, pages: Mapping[Language, gr.Blocks]) -> None:
    """Serve each page in its language. Call it last: it answers whatever no other route of ``app`` does."""
    served: dict[Language, ASGIApp] = {}
    for language, page in pages.items():
        with no_spare_apps():
            page.queue(default_concurrency_limit=None, api_open=False)
        page._queue.sleep_when_free = _LOOK_S
        # Statistics of the last ten thousand events, made anew after each of them, for a route that is not served.
        page._queue.ANALYTICS_MAX_EVENTS, page._queue.ANAYLTICS_CACHE_FREQUENCY = 1, sys.maxsize
        gr.mount_gradio_app(
            app, page, path=f"/{language}", theme=page_theme(), css=page_styles(), footer_links=[], run_history=False,
            show_error=False, max_file_size="1mb", ssr_mode=False, pwa=False, enable_monitoring=False,
        )  # fmt: skip
        # Requests reach it through the root below only, which rewrites its HTML.
        served[language] = page.app = mounted = app.router.routes.pop().app  # type: ignore[attr-defined]
        for error in (KeyError, FnIndexInferError):  # a function or a session that is not there
            mounted.add_exception_handler(error, partial(_not_there, load_texts(language)("page.not_there")))
        mounted.state_holder = Sessions()
        mounted.state_holder.set_blocks(page)
    app.mount("/", LanguageRoot(served, page_script(), {language: page.title for language, page in pages.items()}))


def _not_there(said: str, _: Request, __: Exception) -> JSONResponse:
    return JSONResponse({"detail": said}, 404)
