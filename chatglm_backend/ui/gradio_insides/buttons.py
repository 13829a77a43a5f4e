"""Updates of buttons. Their words go along: an update that reaches a page while it is built would empty them."""

from __future__ import annotations

from typing import Any

import gradio as gr


def start_and_stop(start: str, stop: str, *, running: bool, sent: bool = False) -> tuple[Any, Any]:
    """The button that begins something and the one that stops it, with their words.

    ``sent``: this page has them like this already. For every update of a button Gradio makes a new component.
    """
    if sent:
        return gr.skip(), gr.skip()
    return gr.Button(start, interactive=not running), gr.Button(stop, interactive=running)
