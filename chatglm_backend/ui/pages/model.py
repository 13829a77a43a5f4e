"""The Model page: what is loaded, loading another, what is kept, this machine. Layout first, wiring after."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import gradio as gr

from chatglm_backend.ui.adapters import AdaptersPresenter
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
    notice = gr.HTML("", elem_id="cg-model-notice")
    cancel = gr.Button(t("model.cancel"), elem_id="cg-model-cancel", interactive=False)
    offers = gr.HTML("", elem_id="cg-models")
    wanted = gr.Textbox(label=t("known.get"), elem_id="cg-model-wanted", elem_classes="cg-unseen")
    facts = gr.HTML(presenter.header().facts, elem_id="cg-model-facts", render=False)
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=300):
            source = gr.Textbox(
                label=t("model.source"), info=t("model.source_info"), placeholder="THUDM/chatglm-6b", lines=1,
                max_lines=1, elem_id="cg-model-source",
            )  # fmt: skip
            needs = gr.HTML("", elem_id="cg-model-needs")
            load = gr.Button(t("model.load"), variant="primary", elem_id="cg-model-load")
            _build_kept(page, models, facts)
            adapters = AdaptersPresenter(presenter.service, t)
            listed = build_adapters(page, adapters, facts, partial(may_change, shared=models.shared))
        with gr.Column(scale=6, min_width=300):
            facts.render()
            check = gr.Button(t("doctor.run"), elem_id="cg-doctor-run")
            report = gr.HTML("", elem_id="cg-doctor")

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


def _build_kept(page: gr.Blocks, models: ModelsPresenter, facts: gr.HTML) -> None:
    """What is kept on the disk; the page's script asks before a deletion, and names what is to go."""
    kept = gr.HTML("", elem_id="cg-kept")
    said = gr.HTML("", elem_id="cg-kept-said")
    name = gr.Textbox(label=models.texts("kept.delete"), elem_id="cg-kept-name", elem_classes="cg-unseen")

    def refresh(request: gr.Request) -> str:
        return models.kept(allowed=may_change(request, shared=models.shared))

    def remove(command: str, request: gr.Request) -> tuple[str, str]:
        allowed = may_change(request, shared=models.shared)
        said = models.delete(command.rpartition(" ")[0], allowed=allowed)
        return models.kept(allowed=allowed), said

    gr.on([page.load, facts.change], refresh, None, kept, **QUIET)
    name.change(remove, name, [kept, said], **QUIET)
