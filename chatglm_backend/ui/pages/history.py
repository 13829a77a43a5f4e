"""The panel with the kept conversations: search, list, and the box through which the list's buttons speak."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from chatglm_backend.sentences import Texts
from chatglm_backend.ui.history import History
from chatglm_backend.ui.history_list import conversation_list


@dataclass(frozen=True, slots=True)
class HistoryPanel:
    """The panel's components; ``command`` is written by the page's script only."""

    search: gr.Textbox
    listing: gr.HTML
    command: gr.Textbox


def build_history(history: History, t: Texts) -> HistoryPanel:
    """Lay the panel out in the current Blocks."""
    with gr.Accordion(t("history.title"), open=True, elem_id="cg-history-panel"):
        search = gr.Textbox(
            label=t("history.search"), placeholder=t("history.search_placeholder"), show_label=False,
            elem_id="cg-history-search", visible=history.enabled, max_lines=1,
        )  # fmt: skip
        listing = gr.HTML(conversation_list(t, history, None, "", None), elem_id="cg-history")
        command = gr.Textbox(
            label=t("history.command"), elem_id="cg-history-command", elem_classes="cg-unseen", visible=history.enabled
        )
    return HistoryPanel(search, listing, command)
