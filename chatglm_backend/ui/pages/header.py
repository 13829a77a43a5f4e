"""The top of the page: title, language, colours, and the model's card, which follows the loading."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import gradio as gr

from chatglm_backend.sentences import LANGUAGES, load_texts
from chatglm_backend.ui.gradio_insides.labels import own_labels
from chatglm_backend.ui.models import ModelsPresenter
from chatglm_backend.ui.pages.adapters import choice_update
from chatglm_backend.ui.pages.model import ModelPage
from chatglm_backend.ui.pages.outputs import AT_ONCE, may_change
from chatglm_backend.ui.presenter import Presenter

_LOGO = (
    '<svg viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="2" stroke-linecap="round" '
    'aria-hidden="true"><path d="M5 6.5h14v9H11l-4 3.5v-3.5H5z"/><path d="M9 10.2h6M9 12.8h3.5"/></svg>'
)
_CONTRAST = (
    '<svg viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="2" aria-hidden="true">'
    '<circle cx="12" cy="12" r="8"/><path d="M12 4a8 8 0 0 1 0 16z" fill="currentColor"/></svg>'
)
_KEYS = (
    ("send", "Enter"), ("line", "Shift+Enter"), ("send_prompt", "Ctrl+Enter"), ("stop", "Esc"), ("tabs", "← →"),
    ("move", "Tab"), ("list", "?"),
)  # fmt: skip
_FAST_S, _SLOW_S = 1.0, 15.0


def build_header(presenter: Presenter) -> gr.HTML:
    """Lay the header out in the current Blocks; returns the model's card."""
    t = presenter.texts
    other = load_texts(LANGUAGES[(LANGUAGES.index(t.language) + 1) % len(LANGUAGES)])
    keys = {"lost": "page.lost", "no": "page.no", "save": "page.save", "delete": "page.delete"}
    keys |= {"close": "page.close", "keys-title": "keys.title"}
    listed = escape(json.dumps([(keys, t(f"keys.{name}")) for name, keys in _KEYS], ensure_ascii=False), quote=True)
    labels = escape(json.dumps(own_labels(t), ensure_ascii=False), quote=True)
    words = "".join(f' data-{name}="{escape(t(key), quote=True)}"' for name, key in keys.items())
    gr.HTML(
        f'<header class="cg-head" id="cg-words"{words} data-labels="{labels}" data-keys="{listed}">'
        f'<span class="cg-logo">{_LOGO}</span>'
        f'<div class="cg-titles"><h1>{escape(t("app.title"))}</h1><p>{escape(t("app.tagline"))}</p></div>'
        f'<nav class="cg-tools"><a class="cg-tool" href="./?lang={other.language}" data-action="language" '
        f'lang="{other("app.language_tag")}" title="{escape(other("app.language_hint"))}">'
        f"{escape(other('app.language'))}</a>"
        f'<button type="button" class="cg-tool" data-action="keys" title="{escape(t("keys.title"))}" '
        f'aria-label="{escape(t("keys.title"))}">?</button>'
        f'<button type="button" class="cg-tool" data-action="theme" title="{escape(t("app.theme_hint"))}" '
        f'aria-label="{escape(t("app.theme_hint"))}">{_CONTRAST}</button></nav></header>'
    )
    return gr.HTML(presenter.header().card, elem_id="cg-model-card")


def follow_model(
    page: gr.Blocks, presenter: Presenter, models: ModelsPresenter, card: gr.HTML, examples: gr.HTML,
    prompt_format: gr.Radio, language: gr.Dropdown, code_note: gr.HTML, system: gr.Textbox, tools: gr.Textbox,
    model: ModelPage, choices: Sequence[gr.Dropdown], chat_choice: gr.Dropdown, *, restored: bool,
) -> None:  # fmt: skip
    """Keep all that shows the model up to date: every second while it loads, seldom afterwards.

    ``choices`` offer its fine-tunes. ``restored``: what the Chat page has chosen comes with its conversation
    when the page is opened.
    """
    timer = gr.Timer(_FAST_S)
    shown = gr.State("")

    def updates(request: gr.Request, before: str, chat: str | None, *chosen: str | None) -> tuple[Any, ...]:
        view = presenter.header()
        pace = gr.Timer(value=_SLOW_S if view.settled else _FAST_S)
        now = "\n".join((view.prompt_format, view.card, view.examples, view.facts))
        if now == before:
            return *[gr.skip()] * (12 + len(chosen)), pace, gr.skip()
        t, allowed = presenter.texts, may_change(request, shared=models.shared)
        loading = (
            gr.Button(t("model.load"), interactive=allowed and view.settled),
            gr.Button(t("model.cancel"), interactive=allowed and not view.settled),
        )
        notice = "" if allowed else models.refusal()
        # A visitor's own choice stays for as long as the model does.
        form = gr.Radio(value=view.prompt_format)
        if (before or "recipe").startswith(view.prompt_format):
            form = gr.skip()
        boxes = (
            gr.Textbox(visible=bool(view.system), info=view.system or t("chat.system_info")),
            gr.Textbox(visible=view.takes_tools),
        )
        follow = choice_update(presenter.choice(chat, lasting=True), value=bool(before) or not restored)
        offered = (follow, *(choice_update(presenter.choice(one)) for one in chosen))
        code = gr.Dropdown(visible=view.completes_code), presenter.completion_note()
        return view.card, view.examples, form, *code, *boxes, view.facts, *loading, notice, *offered, pace, now

    def load(request: gr.Request, source: str, *chosen: str | None) -> tuple[Any, ...]:
        if may_change(request, shared=models.shared):
            presenter.service.load((source or "").strip() or None)  # an empty one loads the default again
        return updates(request, "-", *chosen)

    def get(request: gr.Request, wanted: str, *chosen: str | None) -> tuple[Any, ...]:
        return load(request, wanted.partition(" ")[0], *chosen)

    def cancel(request: gr.Request, *chosen: str | None) -> tuple[Any, ...]:
        if may_change(request, shared=models.shared):
            presenter.service.cancel_load()
        return updates(request, "-", *chosen)

    offers = [chat_choice, *choices]
    outputs = [
        card, examples, prompt_format, language, code_note, system, tools, model.facts, model.load, model.cancel,
        model.notice, *offers, timer, shown,
    ]  # fmt: skip
    for event in (page.load, timer.tick, model.adapters.change):
        event(updates, [shown, *offers], outputs, **AT_ONCE)
    for event in (model.load.click, model.source.submit):
        event(load, [model.source, *offers], outputs, **AT_ONCE)
    model.wanted.change(get, [model.wanted, *offers], outputs, **AT_ONCE)
    model.cancel.click(cancel, offers, outputs, **AT_ONCE)


def leave_when_closed(page: gr.Blocks, *leave: Callable[[str], object]) -> None:
    """Tell of every page that is closed or reloaded."""

    def left(request: gr.Request) -> None:
        for tell in leave:
            tell(request.session_hash or "")

    page.unload(left)
