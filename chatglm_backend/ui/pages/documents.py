"""The row above the message box: documents that go with the next question, and what was said of others."""

from __future__ import annotations

import json
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from chatglm_backend.documents.reading import Document
from chatglm_backend.sentences import Texts
from chatglm_backend.ui.attached import waiting_cards
from chatglm_backend.ui.documents import DocumentDesk
from chatglm_backend.ui.history import History
from chatglm_backend.ui.pages.outputs import AT_ONCE, caller_of

KINDS = (
    ".txt,.md,.csv,.pdf,.docx,.json,.py,.js,.ts,.java,.c,.cpp,.h,.go,.rs,.sh,.html,.css,.xml,.yaml,.toml,.log,text/*"
)

_CLIP = (
    '<svg viewBox="0 0 24 24" fill="none" stroke-width="2" stroke-linecap="round" aria-hidden="true">'
    '<path d="M8 12.5 14 6.5a3 3 0 0 1 4.3 4.3l-7.6 7.6a5 5 0 0 1-7-7L11 4"/></svg>'
)


@dataclass(frozen=True, slots=True)
class DocumentsRow:
    """Its parts: ``documents`` is a state, and ``cards`` show it."""

    documents: gr.State
    cards: gr.HTML


def build_documents(desk: DocumentDesk, history: History, t: Texts) -> DocumentsRow:
    """Lay the row out in the current Blocks. The page's script reads files, and lists the ids that are to stay."""
    documents = gr.State(())
    cards = gr.HTML("", elem_id="cg-chat-cards")
    words = {name: escape(t(f"document.{name}")) for name in ("reading", "failed", "cancel", "attach", "wait", "gone")}
    large = escape(t("document.large_named", name="{name}", limit=desk.max_bytes >> 20))
    gr.HTML(
        f'<ul class="cg-docs" id="cg-chat-reading"></ul><p class="cg-note" id="cg-chat-refused" role="alert"></p>'
        f'<label class="cg-tool cg-attach" title="{words["attach"]}"><input type="file" multiple '
        f'id="cg-chat-attach" accept="{KINDS}" aria-label="{words["attach"]}" data-language="{t.language}" '
        f'data-most="{desk.max_bytes}" data-large="{large}" data-reading="{words["reading"]}" '
        f'data-cancel="{words["cancel"]}" data-failed="{words["failed"]}" data-wait="{words["wait"]}" '
        f'data-gone="{words["gone"]}">{_CLIP}</label>',
        elem_id="cg-chat-files",
    )
    with gr.Column(elem_classes="cg-unseen"):  # apart, or the message box would be hidden with it
        wanted = gr.Textbox(label=t("document.attached"), elem_id="cg-chat-wanted")

    def choose(request: gr.Request, text: str, before: tuple[Document, ...]) -> tuple[Any, ...]:
        caller = caller_of(request, history)
        here = {one.id: one for one in before}
        ids = _ids(text)
        here |= {one.id: one for one in desk.held(caller.visitor, ids, caller.tab)}
        now = tuple(here[key] for key in ids if key in here)
        desk.keep_only(caller.visitor, now, before)
        return now, waiting_cards(t, now, desk.room())

    wanted.change(choose, [wanted, documents], [documents, cards], trigger_mode="multiple", **AT_ONCE)
    return DocumentsRow(documents, cards)


def _ids(text: str) -> list[str]:
    """The ids as the page's script lists them; anything else is none."""
    try:
        return list(dict.fromkeys(str(one) for one in json.loads(text)["ids"]))
    except (ValueError, TypeError, KeyError, RecursionError):
        return []
