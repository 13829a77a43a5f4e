"""The Batch page: a file, a template, its answers. Layout first, wiring after."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from html import escape
from typing import Any

import gradio as gr

from chatglm_backend.ui.batch import BatchPresenter, BatchView
from chatglm_backend.ui.gradio_insides.buttons import start_and_stop
from chatglm_backend.ui.history import History
from chatglm_backend.ui.html import status_line
from chatglm_backend.ui.pages.outputs import AT_ONCE, QUIET, caller_of


def build_batch_page(page: gr.Blocks, presenter: BatchPresenter, history: History) -> None:
    """Lay the page out in the current Blocks."""
    t = presenter.texts
    too_large, failed = escape(t("batch.too_large")), escape(t("batch.failed"))
    gr.HTML(
        f'<p class="cg-facts">{escape(t("batch.about"))}</p><label class="cg-tool cg-link cg-file">'
        '<input type="file" id="cg-batch-input" accept=".jsonl,.txt,.csv" '
        f'data-batch="./batch/input?language={t.language}" data-too-large="{too_large}" '
        f'data-failed="{failed}">{escape(t("batch.choose"))}</label>'
        '<p class="cg-note" id="cg-batch-said" role="status"></p>'
    )
    name = gr.HTML("", elem_id="cg-batch-name")
    template = gr.Textbox(
        label=t("batch.template"),
        info=t("batch.template_info", text="{text}"),
        lines=2,
        max_lines=6,
        elem_id="cg-batch-template",
    )
    preview = gr.HTML("", elem_id="cg-batch-preview")
    with gr.Row(elem_classes="cg-actions", elem_id="cg-batch-actions"):
        start = gr.Button(t("batch.start"), variant="primary", elem_id="cg-batch-start", scale=2)
        stop = gr.Button(t("prompt.stop"), elem_id="cg-batch-stop", interactive=False, scale=1)
    status = gr.HTML(status_line("idle", t("batch.idle"), spoken=True), elem_id="cg-batch-status")
    download = gr.HTML("", elem_id="cg-batch-download")
    sent = gr.Textbox(label=t("batch.choose"), elem_id="cg-batch-sent", elem_classes="cg-unseen")

    def show(view: BatchView) -> tuple[Any, ...]:
        buttons = start_and_stop(t("batch.start"), t("prompt.stop"), running=view.running)
        return *buttons, view.name, view.status, view.download

    async def begin(request: gr.Request, text: str) -> AsyncGenerator[tuple[Any, ...], None]:
        async with aclosing(presenter.start(caller_of(request, history).visitor, text or "")) as views:
            async for view in views:
                yield show(view)

    async def look(request: gr.Request) -> AsyncGenerator[tuple[Any, ...], None]:
        visitor = caller_of(request, history).visitor
        text = presenter.desk.about(visitor)["template"]
        first = text, presenter.preview(visitor, text)
        async with aclosing(presenter.follow(visitor)) as views:
            async for view in views:
                yield *show(view), *first
                first = gr.skip(), gr.skip()

    def fill(request: gr.Request, text: str) -> str:
        return presenter.preview(caller_of(request, history).visitor, text or "")

    def end(request: gr.Request) -> None:
        presenter.desk.stop(caller_of(request, history).visitor)

    shown = [start, stop, name, status, download]
    start.click(begin, template, shown, **QUIET)
    stop.click(end, **AT_ONCE)
    template.change(fill, template, preview, trigger_mode="always_last", **QUIET)
    gr.on([page.load, sent.change], look, None, [*shown, template, preview], **QUIET)
