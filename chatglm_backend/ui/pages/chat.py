"""The Chat page: a conversation, its settings, its figures. Layout first, wiring after."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from html import escape
from typing import Any

import gradio as gr

from chatglm_backend.errors import HistoryError
from chatglm_backend.settings import Settings
from chatglm_backend.store.records import Place
from chatglm_backend.ui.chat import ChatForm, ChatPresenter, ChatView
from chatglm_backend.ui.conversation import Turns, as_typed, shown
from chatglm_backend.ui.history import History
from chatglm_backend.ui.history_list import conversation_list, read_command
from chatglm_backend.ui.i18n import Texts
from chatglm_backend.ui.pages.history import build_history

__all__ = ["build_chat_page"]

_COUNT = 8  # what a view sets, before place and list
_PRESETS = ("translate", "summarise", "explain", "email")
_LATEX = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "$", "right": "$", "display": False},
    {"left": "\\(", "right": "\\)", "display": False},
    {"left": "\\[", "right": "\\]", "display": True},
]


def build_chat_page(page: gr.Blocks, presenter: ChatPresenter, history: History, settings: Settings) -> None:
    """Lay the page out in the current Blocks."""
    t, blank = presenter.texts, presenter.blank()
    turns, place = gr.State(()), gr.State(None)
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
            kept = build_history(history, t)
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

    inputs = [turns, place, kept.search, system, tokens, temperature, top_p]
    outputs = [turns, chat, box, status, context, timing, send, stop, place, kept.listing]
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    at_once = {**quiet, "queue": False}
    handlers = _Handlers(presenter, history)
    send.click(handlers.send(), [box, *inputs], outputs, **quiet)
    chat.retry(handlers.regenerate(), inputs, outputs, **quiet)
    chat.edit(handlers.edit(), inputs, outputs, **quiet)
    chat.undo(handlers.undo(), [turns, place, kept.search], outputs, **at_once)
    stop.click(handlers.stop(), **at_once)
    for event in (clear.click, chat.clear):
        event(handlers.clear(), kept.search, outputs, **at_once)
    if history.enabled:
        kept.search.change(handlers.search(), [kept.search, place], kept.listing, trigger_mode="always_last", **at_once)
        kept.command.change(handlers.command(), [kept.command, kept.search, place], outputs, **at_once)
        page.load(handlers.restore(), None, outputs, **at_once)


def _presets(t: Texts) -> str:
    chips = "".join(
        f'<button type="button" class="cg-chip" data-into="cg-chat-box" '
        f'data-fill="{escape(t(f"chat.preset.{name}.text"), quote=True)}">{escape(t(f"chat.preset.{name}"))}</button>'
        for name in _PRESETS
    )
    return f'<div class="cg-chips" role="group" aria-label="{escape(t("chat.presets"))}">{chips}</div>'


class _Handlers:
    """What Gradio calls, one method for each event: the visitor from the cookie, the logic from the presenter."""

    def __init__(self, presenter: ChatPresenter, history: History) -> None:
        self._presenter = presenter
        self._history = history

    def send(self) -> Any:  # noqa: ANN401  a handler, in Gradio's eyes any function
        async def send(
            text: str, turns: Turns, place: Place | None, search: str, system: str, tokens: float,
            temperature: float, top_p: float, request: gr.Request,
        ) -> AsyncGenerator[tuple[Any, ...], None]:  # fmt: skip
            form = ChatForm(system or "", tokens, temperature, top_p)
            views = self._presenter.send(request.session_hash or "", turns, text or "", form)
            async with aclosing(self._kept(request, place, search, views)) as updates:
                async for update in updates:
                    yield update

        return send

    def regenerate(self) -> Any:  # noqa: ANN401
        async def regenerate(
            turns: Turns, place: Place | None, search: str, system: str, tokens: float, temperature: float,
            top_p: float, request: gr.Request, data: gr.RetryData,
        ) -> AsyncGenerator[tuple[Any, ...], None]:  # fmt: skip
            form = ChatForm(system or "", tokens, temperature, top_p)
            views = self._presenter.regenerate(request.session_hash or "", turns, _index(data.index), form)
            async with aclosing(self._kept(request, place, search, views)) as updates:
                async for update in updates:
                    yield update

        return regenerate

    def edit(self) -> Any:  # noqa: ANN401
        async def edit(
            turns: Turns, place: Place | None, search: str, system: str, tokens: float, temperature: float,
            top_p: float, request: gr.Request, data: gr.EditData,
        ) -> AsyncGenerator[tuple[Any, ...], None]:  # fmt: skip
            form = ChatForm(system or "", tokens, temperature, top_p)
            text = as_typed(data.value) if isinstance(data.value, str) else ""
            views = self._presenter.edit(request.session_hash or "", turns, _index(data.index), text, form)
            async with aclosing(self._kept(request, place, search, views)) as updates:
                async for update in updates:
                    yield update

        return edit

    def undo(self) -> Any:  # noqa: ANN401
        def undo(
            turns: Turns, place: Place | None, search: str, request: gr.Request, data: gr.UndoData
        ) -> tuple[Any, ...]:
            view = self._presenter.undo(request.session_hash or "", turns, _index(data.index))
            visitor, problem = self._visitor(request), None
            if visitor is not None and place is not None:
                place, problem = self._history.cut(visitor, place, len(view.turns))
            return *_updates(view), place, self._list(visitor, search, place, problem)

        return undo

    def stop(self) -> Any:  # noqa: ANN401
        def stop(request: gr.Request) -> None:
            self._presenter.stop(request.session_hash or "")

        return stop

    def clear(self) -> Any:  # noqa: ANN401
        def clear(search: str, request: gr.Request) -> tuple[Any, ...]:
            visitor = self._visitor(request)
            view = self._presenter.clear(request.session_hash or "")
            problem = self._history.leave(visitor)
            return *_updates(view), None, self._list(visitor, search, None, problem)

        return clear

    def search(self) -> Any:  # noqa: ANN401
        def search(text: str, place: Place | None, request: gr.Request) -> str:
            return self._list(self._visitor(request), text, place)

        return search

    def command(self) -> Any:  # noqa: ANN401
        def command(source: str, search: str, place: Place | None, request: gr.Request) -> tuple[Any, ...]:
            visitor, asked = self._visitor(request), read_command(source)
            if visitor is None or not asked.action:
                return (gr.skip(),) * (_COUNT + 2)
            moved, problem = self._history.carry_out(visitor, asked.action, asked.id, asked.text, place)
            if moved is None:
                return *((gr.skip(),) * (_COUNT + 1)), self._list(visitor, search, place, problem)
            view = self._presenter.show(request.session_hash or "", moved.turns)
            return *_updates(view), moved.place, self._list(visitor, search, moved.place, problem)

        return command

    def restore(self) -> Any:  # noqa: ANN401
        def restore(request: gr.Request) -> tuple[Any, ...]:
            visitor = self._visitor(request)
            moved, problem = self._history.last_open(visitor)
            if moved is None:
                return *((gr.skip(),) * (_COUNT + 1)), self._list(visitor, "", None, problem)
            view = self._presenter.show(request.session_hash or "", moved.turns)
            return *_updates(view), moved.place, self._list(visitor, "", moved.place, problem)

        return restore

    async def _kept(
        self, request: gr.Request, place: Place | None, search: str, views: AsyncGenerator[ChatView, None]
    ) -> AsyncGenerator[tuple[Any, ...], None]:
        visitor = self._visitor(request)
        async with aclosing(self._history.keep(visitor, place, views)) as stream:
            async for kept in stream:
                if kept.changed:
                    listing = self._list(visitor, search, kept.place, kept.problem)
                    yield *_updates(kept.view), kept.place, listing
                else:
                    yield *_updates(kept.view), gr.skip(), gr.skip()

    def _visitor(self, request: gr.Request) -> str | None:
        return self._history.visitor(dict(request.cookies))

    def _list(self, visitor: str | None, search: str, place: Place | None, problem: HistoryError | None = None) -> str:
        return conversation_list(self._presenter.texts, self._history, visitor, search or "", place, problem)


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
