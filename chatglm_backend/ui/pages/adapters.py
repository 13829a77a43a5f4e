"""Fine-tunes on the page: the choice beside a prompt, and the Model page's list. Layout first, wiring after."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from chatglm_backend.sentences import Texts
from chatglm_backend.ui.adapters import BASE, AdapterChoice, AdaptersPresenter
from chatglm_backend.ui.html import ListView
from chatglm_backend.ui.pages.outputs import QUIET


def build_adapter_choice(t: Texts, element: str, *, prefix: str = "", base: bool = False) -> gr.Dropdown:
    """Hidden until the model has fine-tunes. With ``base`` the model itself is chosen at first."""
    return gr.Dropdown(
        [(t("adapter.base"), BASE)], value=BASE if base else None, label=f"{prefix}{t('adapter.label')}",
        elem_id=element, visible=False, allow_custom_value=True,
    )  # fmt: skip


def choice_update(found: AdapterChoice, *, value: bool = True) -> gr.Dropdown:
    """Show what can be chosen; without ``value`` what is chosen stays."""
    chosen: dict[str, Any] = {"value": found.value} if value else {}
    return gr.Dropdown(choices=list(found.choices), visible=found.visible, **chosen)


def build_adapters(
    page: gr.Blocks, presenter: AdaptersPresenter, facts: gr.HTML, allowed: Callable[[gr.Request], bool]
) -> gr.HTML:
    """The list, a box to add one, a way to remove one; returns the list, which changes with what is loaded."""
    t = presenter.texts
    table = gr.HTML("", elem_id="cg-adapters")
    source = gr.Textbox(
        label=t("adapter.source"), info=t("adapter.source_info"), placeholder="./output/checkpoint-3000",
        lines=1, max_lines=1, elem_id="cg-adapter-source",
    )  # fmt: skip
    add = gr.Button(t("adapter.add"), elem_id="cg-adapter-add")
    with gr.Row(elem_classes="cg-actions", visible=False) as removal:
        name = gr.Dropdown([], label=t("adapter.choose"), elem_id="cg-adapter-name", scale=2, filterable=False)
        remove = gr.Button(t("adapter.remove"), elem_id="cg-adapter-remove", scale=1)
    said = gr.HTML("", elem_id="cg-adapter-said")

    def show(view: ListView, may: bool) -> tuple[Any, ...]:  # noqa: FBT001
        names = list(view.names)
        chosen = gr.Dropdown(choices=names, value=names[0] if names else None, interactive=may)
        buttons = gr.Button(t("adapter.add"), interactive=may), gr.Button(t("adapter.remove"), interactive=may)
        return view.table, chosen, gr.Row(visible=bool(names)), *buttons, view.said

    def refresh(request: gr.Request) -> tuple[Any, ...]:
        # What was just said stays.
        return (*show(presenter.view(), allowed(request))[:-1], gr.skip())

    def take(text: str | None, request: gr.Request) -> Iterator[tuple[Any, ...]]:
        may = allowed(request)
        for view in presenter.add(text or "", allowed=may):
            yield show(view, may)

    def drop(chosen: str | None, request: gr.Request) -> tuple[Any, ...]:
        may = allowed(request)
        return show(presenter.remove(chosen or "", allowed=may), may)

    parts = [table, name, removal, add, remove, said]
    gr.on([page.load, facts.change], refresh, None, parts, **QUIET)
    gr.on([add.click, source.submit], take, source, parts, **QUIET)
    remove.click(drop, name, parts, **QUIET)
    return table
