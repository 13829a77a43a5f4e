"""The Speed page: run, stop, table, plots, download. Layout first, wiring after."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import gradio as gr

from chatglm_backend.ui.gradio_insides.buttons import start_and_stop
from chatglm_backend.ui.pages.outputs import AT_ONCE, QUIET
from chatglm_backend.ui.speed import SpeedPresenter


def build_speed_page(presenter: SpeedPresenter) -> None:
    """Lay the page out in the current Blocks."""
    t = presenter.texts
    gr.HTML(f'<p class="cg-facts">{t("speed.about")}</p>')
    with gr.Row(elem_classes="cg-actions", elem_id="cg-speed-actions"):
        start = gr.Button(t("speed.start"), variant="primary", elem_id="cg-speed-start", scale=2)
        stop = gr.Button(t("prompt.stop"), elem_id="cg-speed-stop", interactive=False, scale=1)
    status = gr.HTML(presenter.blank().status, elem_id="cg-speed-status")
    plots = gr.HTML("", elem_id="cg-speed-plots")
    table = gr.HTML("", elem_id="cg-speed-table")
    download = gr.HTML("", elem_id="cg-speed-download")

    async def run(request: gr.Request) -> AsyncGenerator[tuple[Any, ...], None]:
        async with aclosing(presenter.run(request.session_hash or "")) as views:
            async for view in views:
                buttons = start_and_stop(t("speed.start"), t("prompt.stop"), running=view.running)
                yield *buttons, view.status, view.table, view.plots, view.download

    def end(request: gr.Request) -> None:
        presenter.stop(request.session_hash or "")

    start.click(run, None, [start, stop, status, table, plots, download], **QUIET)
    stop.click(end, **AT_ONCE)
