"""The Model page: what is loaded, and loading another. Layout only; the header's wiring keeps it up to date."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from chatglm_backend.ui.presenter import Presenter

__all__ = ["ModelPage", "build_model_page"]


@dataclass(frozen=True, slots=True)
class ModelPage:
    """The components that follow the model's life."""

    facts: gr.HTML
    source: gr.Textbox
    load: gr.Button
    cancel: gr.Button


def build_model_page(presenter: Presenter) -> ModelPage:
    """Lay the page out in the current Blocks."""
    t = presenter.texts
    with gr.Row(equal_height=False):
        with gr.Column(scale=6, min_width=300):
            facts = gr.HTML(presenter.header().facts, elem_id="cg-model-facts")
        with gr.Column(scale=5, min_width=300):
            source = gr.Textbox(
                label=t("model.source"), info=t("model.source_info"), placeholder="THUDM/chatglm-6b", lines=1,
                max_lines=1, elem_id="cg-model-source",
            )  # fmt: skip
            with gr.Row(elem_classes="cg-actions"):
                load = gr.Button(t("model.load"), variant="primary", elem_id="cg-model-load", scale=2)
                cancel = gr.Button(t("model.cancel"), elem_id="cg-model-cancel", interactive=False, scale=1)
    return ModelPage(facts, source, load, cancel)
