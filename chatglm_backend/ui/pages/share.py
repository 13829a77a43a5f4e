"""How to let others in: the addresses and the QR code, shown to whoever sits at the computer that runs the page.

Knows no policy: the addresses, with the token in them, and the picture come from outside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

import gradio as gr

from chatglm_backend.sentences import Texts
from chatglm_backend.ui.pages.outputs import AT_ONCE, may_change

ShareLinks = Callable[[], Sequence[tuple[str, str]]]
"""Each address that other machines can open, with its QR code as an SVG element; the likeliest first."""


def build_share(page: gr.Blocks, texts: Texts, links: ShareLinks) -> None:
    """Lay the element out in the current Blocks; it stays empty for every visitor from another machine."""
    element = gr.HTML("", elem_id="cg-share")

    def show(request: gr.Request) -> str:
        return share_html(texts, links()) if may_change(request, shared=True) else ""

    page.load(show, None, element, **AT_ONCE)


def share_html(texts: Texts, links: Sequence[tuple[str, str]]) -> str:
    """The element's content; empty where there is nothing to share."""
    if not links:
        return ""
    picture = f'<div class="cg-qr" role="img" aria-label="{escape(texts("share.picture"))}">{links[0][1]}</div>'
    rows = "".join(f"<li><code>{escape(url)}</code></li>" for url, _ in links)
    return (
        f'<details class="cg-share"><summary>{escape(texts("share.title"))}</summary>'
        f"<p>{escape(texts('share.hint'))}</p>{picture}<ul>{rows}</ul></details>"
    )
