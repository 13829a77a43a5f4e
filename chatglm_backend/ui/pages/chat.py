"""The Chat page: a conversation, its settings, its figures. Layout first, wiring after."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from html import escape
from typing import Any

import gradio as gr

from chatglm_backend.settings import Settings
from chatglm_backend.ui.chat import ChatForm, ChatPresenter, ChatView
from chatglm_backend.ui.conversation import Turns, as_typed, shown
from chatglm_backend.ui.i18n import Texts

__all__ = ["build_chat_page"]

_PRESETS = ("translate", "summarise", "explain", "email")
_LATEX = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "$", "right": "$", "display": False},
    {"left": "\\(", "right": "\\)", "display": False},
    {"left": "\\[", "right": "\\]", "display": True},
]


def build_chat_page(presenter: ChatPresenter, settings: Settings) -> None:
    """Lay the page out in the current Blocks."""
    t, blank = presenter.texts, presenter.blank()
    turns = gr.State(())
    with gr.Row(equal_height=False):
        with gr.Column(scale=7, min_width=300):
            chat = gr.Chatbot(
                label=t("tab.chat"), show_label=False, height=480, elem_id="cg-chat", buttons=["copy"],
                editable="user", latex_delimiters=_LATEX, allow_tags=False, placeholder=escape(t("chat.placeholder")),
                feedback_options=None, layout="bubble",
            )  # fmt: skip
            context = gr.HTML(blank.context, elem_id="cg-context")
            status = gr.HTML(blank.status, elem_id="cg-chat-status")
            box = gr.Textbox(
                label=t("chat.box"), placeholder=t("chat.box_placeholder"), lines=2, max_lines=10,
                elem_id="cg-chat-box",
            )  # fmt: skip
            with gr.Row(elem_classes="cg-actions"):
                send = gr.Button(t("chat.send"), variant="primary", elem_id="cg-chat-send", scale=2)
                stop = gr.Button(t("prompt.stop"), elem_id="cg-chat-stop", interactive=False, scale=1)
                clear = gr.Button(t("chat.new"), elem_id="cg-chat-clear", scale=1)
            gr.HTML(f'<p class="cg-keys">{escape(t("chat.keys"))}</p>')
        with gr.Column(scale=4, min_width=300):
            gr.HTML(_presets(t))
            tokens = gr.Slider(
                1, 2048, value=max(settings.max_new_tokens, 512), step=1, label=t("prompt.max_new_tokens"),
                elem_id="cg-chat-max-new-tokens",
            )  # fmt: skip
            with gr.Accordion(t("prompt.sampling"), open=False, elem_id="cg-chat-sampling"):
                system = gr.Textbox(label=t("chat.system"), info=t("chat.system_info"), lines=2, max_lines=6)
                temperature = gr.Slider(0, 2, value=settings.temperature, step=0.05, label=t("prompt.temperature"))
                top_p = gr.Slider(0, 1, value=settings.top_p, step=0.01, label=t("prompt.top_p"))
            timing = gr.HTML(blank.timing, elem_id="cg-chat-timing")

    inputs = [turns, system, tokens, temperature, top_p]
    outputs = [turns, chat, box, status, context, timing, send, stop]
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    send.click(_send(presenter), [box, *inputs], outputs, **quiet)
    chat.retry(_regenerate(presenter), inputs, outputs, **quiet)
    chat.edit(_edit(presenter), inputs, outputs, **quiet)
    chat.undo(_undo(presenter), [turns], outputs, queue=False, **quiet)
    stop.click(_stop(presenter), queue=False, **quiet)
    for event in (clear.click, chat.clear):
        event(_clear(presenter), None, outputs, queue=False, **quiet)


def _presets(t: Texts) -> str:
    chips = "".join(
        f'<button type="button" class="cg-chip" data-into="cg-chat-box" '
        f'data-fill="{escape(t(f"chat.preset.{name}.text"), quote=True)}">{escape(t(f"chat.preset.{name}"))}</button>'
        for name in _PRESETS
    )
    return f'<div class="cg-chips" role="group" aria-label="{escape(t("chat.presets"))}">{chips}</div>'


def _send(presenter: ChatPresenter) -> Any:  # noqa: ANN401  a handler, in Gradio's eyes any function
    async def send(
        text: str, turns: Turns, system: str, tokens: float, temperature: float, top_p: float, request: gr.Request
    ) -> AsyncGenerator[tuple[Any, ...], None]:
        form = ChatForm(system or "", tokens, temperature, top_p)
        async with aclosing(presenter.send(request.session_hash or "", turns, text or "", form)) as views:
            async for view in views:
                yield _updates(view)

    return send


def _regenerate(presenter: ChatPresenter) -> Any:  # noqa: ANN401
    async def regenerate(
        turns: Turns, system: str, tokens: float, temperature: float, top_p: float, request: gr.Request,
        data: gr.RetryData,
    ) -> AsyncGenerator[tuple[Any, ...], None]:  # fmt: skip
        form = ChatForm(system or "", tokens, temperature, top_p)
        views = presenter.regenerate(request.session_hash or "", turns, _index(data.index), form)
        async with aclosing(views):
            async for view in views:
                yield _updates(view)

    return regenerate


def _edit(presenter: ChatPresenter) -> Any:  # noqa: ANN401
    async def edit(
        turns: Turns, system: str, tokens: float, temperature: float, top_p: float, request: gr.Request,
        data: gr.EditData,
    ) -> AsyncGenerator[tuple[Any, ...], None]:  # fmt: skip
        form = ChatForm(system or "", tokens, temperature, top_p)
        text = as_typed(data.value) if isinstance(data.value, str) else ""
        views = presenter.edit(request.session_hash or "", turns, _index(data.index), text, form)
        async with aclosing(views):
            async for view in views:
                yield _updates(view)

    return edit


def _undo(presenter: ChatPresenter) -> Any:  # noqa: ANN401
    def undo(turns: Turns, request: gr.Request, data: gr.UndoData) -> tuple[Any, ...]:
        return _updates(presenter.undo(request.session_hash or "", turns, _index(data.index)))

    return undo


def _stop(presenter: ChatPresenter) -> Any:  # noqa: ANN401
    def stop(request: gr.Request) -> None:
        presenter.stop(request.session_hash or "")

    return stop


def _clear(presenter: ChatPresenter) -> Any:  # noqa: ANN401
    def clear(request: gr.Request) -> tuple[Any, ...]:
        return _updates(presenter.clear(request.session_hash or ""))

    return clear


def _index(index: int | tuple[int, int] | list[int]) -> int:
    return index if isinstance(index, int) else index[0]


def _updates(view: ChatView) -> tuple[Any, ...]:
    return (
        view.turns,
        shown(view.turns),
        gr.skip() if view.box is None else view.box,
        view.status,
        view.context,
        view.timing,
        gr.Button(interactive=not view.running),
        gr.Button(interactive=view.running),
    )
