"""The Model page: what is loaded, loading another, what is kept, this machine. Layout first, wiring after."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from chatglm_backend.ui.adapters import AdaptersPresenter
from chatglm_backend.ui.html import ListView
from chatglm_backend.ui.models import ModelsPresenter
from chatglm_backend.ui.pages.adapters import build_adapters
from chatglm_backend.ui.pages.outputs import QUIET, may_change
from chatglm_backend.ui.presenter import Presenter


@dataclass(frozen=True, slots=True)
class ModelPage:
    """The components that follow the model's life. ``adapters`` lists its fine-tunes.

    ``wanted`` takes the model whose button was pressed in the list, and a number behind it.
    """

    facts: gr.HTML
    source: gr.Textbox
    load: gr.Button
    cancel: gr.Button
    notice: gr.HTML
    adapters: gr.HTML
    wanted: gr.Textbox


def build_model_page(page: gr.Blocks, presenter: Presenter, models: ModelsPresenter) -> ModelPage:
    """Lay the page out in the current Blocks."""
    t = presenter.texts
    with gr.Row(equal_height=False):
        with gr.Column(scale=6, min_width=300):
            facts = gr.HTML(presenter.header().facts, elem_id="cg-model-facts")
            report = gr.HTML("", elem_id="cg-doctor")
            check = gr.Button(t("doctor.run"), elem_id="cg-doctor-run")
        with gr.Column(scale=5, min_width=300):
            notice = gr.HTML("", elem_id="cg-model-notice")
            source = gr.Textbox(
                label=t("model.source"), info=t("model.source_info"), placeholder="THUDM/chatglm-6b", lines=1,
                max_lines=1, elem_id="cg-model-source",
            )  # fmt: skip
            needs = gr.HTML("", elem_id="cg-model-needs")
            with gr.Row(elem_classes="cg-actions"):
                load = gr.Button(t("model.load"), variant="primary", elem_id="cg-model-load", scale=2)
                cancel = gr.Button(t("model.cancel"), elem_id="cg-model-cancel", interactive=False, scale=1)
            adapters = AdaptersPresenter(presenter.service, t)
            listed = build_adapters(page, adapters, facts, partial(may_change, shared=models.shared))
            _build_deletion(page, models, facts)
    wanted = gr.Textbox(label=t("known.get"), elem_id="cg-model-wanted", elem_classes="cg-unseen")
    offers = gr.HTML("", elem_id="cg-models")

    def tell_offers(request: gr.Request) -> str:
        return models.offers(allowed=may_change(request, shared=models.shared))

    def tell_needs(model: str, request: gr.Request) -> str:
        return models.needs(model or "", allowed=may_change(request, shared=models.shared))

    def tell_report(request: gr.Request) -> str:
        return models.report(allowed=may_change(request, shared=models.shared))

    gr.on([page.load, facts.change], tell_offers, None, offers, **QUIET)
    source.change(tell_needs, source, needs, trigger_mode="always_last", **QUIET)
    check.click(tell_report, None, report, show_progress="minimal", api_visibility="private")
    return ModelPage(facts, source, load, cancel, notice, listed, wanted)


def _build_deletion(page: gr.Blocks, models: ModelsPresenter, facts: gr.HTML) -> None:
    """What is kept on the disk, and its deletion, which is asked about first."""
    t = models.texts
    table = gr.HTML("", elem_id="cg-kept")
    with gr.Row(elem_classes="cg-actions", elem_id="cg-kept-actions", visible=False) as actions:
        name = gr.Dropdown([], label=t("kept.choose"), elem_id="cg-kept-name", scale=2, filterable=False)
        delete = gr.Button(t("kept.delete"), elem_id="cg-kept-delete", scale=1)
    question = gr.HTML("", elem_id="cg-kept-question")
    with gr.Row(elem_classes="cg-actions", visible=False) as confirm:
        yes = gr.Button(t("kept.yes"), variant="stop", elem_id="cg-kept-yes")
        no = gr.Button(t("kept.no"), elem_id="cg-kept-no")

    def show(view: ListView, allowed: bool) -> tuple[Any, ...]:  # noqa: FBT001
        return (
            view.table,
            gr.Dropdown(choices=list(view.names), value=None, interactive=allowed),
            gr.Button(t("kept.delete"), interactive=allowed and bool(view.names)),
            gr.Row(visible=bool(view.names)),
            view.said,
            gr.Row(visible=False),
        )

    def refresh(request: gr.Request) -> tuple[Any, ...]:
        return show(models.kept(), may_change(request, shared=models.shared))

    def ask(chosen: str | None) -> tuple[Any, ...]:
        text = models.ask(chosen)
        return text, gr.Row(visible=bool(text))

    def remove(chosen: str | None, request: gr.Request) -> tuple[Any, ...]:
        allowed = may_change(request, shared=models.shared)
        return show(models.delete(chosen or "", allowed=allowed), allowed)

    parts = [table, name, delete, actions, question, confirm]
    gr.on([page.load, facts.change], refresh, None, parts, **QUIET)
    delete.click(ask, name, [question, confirm], **QUIET)
    yes.click(remove, name, parts, **QUIET)
    no.click(lambda: ("", gr.Row(visible=False)), None, [question, confirm], **QUIET)
