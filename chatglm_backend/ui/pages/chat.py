"""The Chat page: a conversation, its settings, its figures. Layout first, wiring after."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from html import escape
from typing import Any

import gradio as gr

from chatglm_backend.errors import HistoryError
from chatglm_backend.settings import Settings
from chatglm_backend.store.records import Place
from chatglm_backend.ui.chat import ChatForm, ChatPresenter, ChatView
from chatglm_backend.ui.conversation import Turns, shown
from chatglm_backend.ui.history import History, Kept, Moved
from chatglm_backend.ui.history_list import conversation_list, read_command
from chatglm_backend.ui.i18n import Texts
from chatglm_backend.ui.markdown import as_typed
from chatglm_backend.ui.pages.buttons import start_and_stop
from chatglm_backend.ui.pages.history import build_history

__all__ = ["build_chat_page"]

_COUNT = 11  # what an update sets
_Update = tuple[Any, ...]
_PRESETS = ("translate", "summarise", "explain", "email")
_LATEX = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "$", "right": "$", "display": False},
    {"left": "\\(", "right": "\\)", "display": False},
    {"left": "\\[", "right": "\\]", "display": True},
]


def build_chat_page(page: gr.Blocks, presenter: ChatPresenter, history: History, settings: Settings) -> gr.Textbox:
    """Lay the page out in the current Blocks; returns the system prompt's box, shown to families that read one."""
    t, blank = presenter.texts, presenter.blank()
    turns, place = gr.State(()), gr.State(None)
    with gr.Row(equal_height=False):
        with gr.Column(scale=7, min_width=300):
            chat = gr.Chatbot(
                label=t("tab.chat"), show_label=False, height=480, elem_id="cg-chat", buttons=["copy"],
                editable="user", latex_delimiters=_LATEX, autoscroll=False, allow_tags=False,
                placeholder=escape(t("chat.placeholder")), feedback_options=None, layout="bubble",
            )  # fmt: skip
            context = gr.HTML(blank.context, elem_id="cg-context")
            status = gr.HTML(blank.status, elem_id="cg-chat-status")
            more = gr.Button(t("chat.go_on"), visible=False, elem_id="cg-chat-go-on", size="sm")
            gr.HTML(_presets(t))
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
            system = gr.Textbox(
                label=t("chat.system"), info=t("chat.system_info"), lines=2, max_lines=6, visible=False,
                elem_id="cg-chat-system",
            )  # fmt: skip
            tokens = gr.Slider(
                1, 2048, value=max(settings.max_new_tokens, 512), step=1, label=t("prompt.max_new_tokens"),
                elem_id="cg-chat-max-new-tokens",
            )  # fmt: skip
            with gr.Accordion(t("prompt.sampling"), open=False, elem_id="cg-chat-sampling"):
                temperature = gr.Slider(0, 2, value=settings.temperature, step=0.05, label=t("prompt.temperature"))
                top_p = gr.Slider(0, 1, value=settings.top_p, step=0.01, label=t("prompt.top_p"))
            timing = gr.HTML(blank.timing, elem_id="cg-chat-timing")

    inputs = [turns, place, kept.search, system, tokens, temperature, top_p]
    outputs = [turns, chat, box, status, context, timing, send, stop, more, place, kept.listing]
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    at_once = {**quiet, "queue": False}
    handlers = _Handlers(presenter, history)
    send.click(handlers.send(), [box, *inputs], outputs, **quiet)
    more.click(handlers.go_on(), inputs, outputs, **quiet)
    chat.retry(handlers.regenerate(), inputs, outputs, **quiet)
    chat.edit(handlers.edit(), inputs, outputs, **quiet)
    chat.undo(handlers.undo(), [turns, place, kept.search], outputs, **at_once)
    stop.click(handlers.stop(), **at_once)
    clear.click(handlers.clear(), kept.search, outputs, **at_once)
    if history.enabled:
        kept.search.change(handlers.search(), [kept.search, place], kept.listing, trigger_mode="always_last", **at_once)
        kept.command.change(
            handlers.command(), [kept.command, kept.search, place], outputs, trigger_mode="multiple", **quiet
        )
        page.load(handlers.restore(), None, outputs, **quiet)
    return system


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
        self._live = presenter.live

    def send(self) -> Any:  # noqa: ANN401  a handler, in Gradio's eyes any function
        async def send(
            text: str, turns: Turns, place: Place | None, search: str, system: str, tokens: float,
            temperature: float, top_p: float, request: gr.Request,
        ) -> AsyncGenerator[_Update, None]:  # fmt: skip
            form = ChatForm(system or "", tokens, temperature, top_p)

            def views(session: str, run: str) -> AsyncGenerator[ChatView, None]:
                return self._presenter.send(session, turns, text or "", form, run)

            async with aclosing(self._answer(request, place, search, views)) as updates:
                async for update in updates:
                    yield update

        return send

    def go_on(self) -> Any:  # noqa: ANN401
        async def go_on(
            turns: Turns, place: Place | None, search: str, system: str, tokens: float, temperature: float,
            top_p: float, request: gr.Request,
        ) -> AsyncGenerator[_Update, None]:  # fmt: skip
            form = ChatForm(system or "", tokens, temperature, top_p)

            def views(session: str, run: str) -> AsyncGenerator[ChatView, None]:
                return self._presenter.go_on(session, turns, form, run)

            async with aclosing(self._answer(request, place, search, views)) as updates:
                async for update in updates:
                    yield update

        return go_on

    def regenerate(self) -> Any:  # noqa: ANN401
        async def regenerate(
            turns: Turns, place: Place | None, search: str, system: str, tokens: float, temperature: float,
            top_p: float, request: gr.Request, data: gr.RetryData,
        ) -> AsyncGenerator[_Update, None]:  # fmt: skip
            form = ChatForm(system or "", tokens, temperature, top_p)

            def views(session: str, run: str) -> AsyncGenerator[ChatView, None]:
                return self._presenter.regenerate(session, turns, _index(data.index), form, run)

            async with aclosing(self._answer(request, place, search, views)) as updates:
                async for update in updates:
                    yield update

        return regenerate

    def edit(self) -> Any:  # noqa: ANN401
        async def edit(
            turns: Turns, place: Place | None, search: str, system: str, tokens: float, temperature: float,
            top_p: float, request: gr.Request, data: gr.EditData,
        ) -> AsyncGenerator[_Update, None]:  # fmt: skip
            form = ChatForm(system or "", tokens, temperature, top_p)
            text = as_typed(data.value) if isinstance(data.value, str) else ""

            def views(session: str, run: str) -> AsyncGenerator[ChatView, None]:
                return self._presenter.edit(session, turns, _index(data.index), text, form, run)

            async with aclosing(self._answer(request, place, search, views)) as updates:
                async for update in updates:
                    yield update

        return edit

    def undo(self) -> Any:  # noqa: ANN401
        def undo(turns: Turns, place: Place | None, search: str, request: gr.Request, data: gr.UndoData) -> _Update:
            view = self._presenter.undo(turns, _index(data.index))
            visitor, problem = self._visitor(request), None
            if visitor is not None and place is not None:
                place, problem = self._history.cut(visitor, place, len(view.turns))
            return self._turned(request, Kept(view, place, changed=True, problem=problem), search)

        return undo

    def stop(self) -> Any:  # noqa: ANN401
        def stop(request: gr.Request) -> None:
            self._live.stop(request.session_hash or "")

        return stop

    def clear(self) -> Any:  # noqa: ANN401
        def clear(search: str, request: gr.Request) -> _Update:
            problem = self._history.leave(self._visitor(request))
            return self._turned(request, Kept(self._presenter.show(()), None, changed=True, problem=problem), search)

        return clear

    def search(self) -> Any:  # noqa: ANN401
        def search(text: str, place: Place | None, request: gr.Request) -> str:
            return self._list(self._visitor(request), text, place)

        return search

    def command(self) -> Any:  # noqa: ANN401
        async def command(
            source: str, search: str, place: Place | None, request: gr.Request
        ) -> AsyncGenerator[_Update, None]:
            visitor, asked = self._visitor(request), read_command(source)
            if visitor is None or not asked.action:
                yield (gr.skip(),) * _COUNT
                return
            moved, problem = await asyncio.to_thread(
                self._history.carry_out, visitor, asked.action, asked.id, asked.text, place
            )
            if moved is None:
                yield *((gr.skip(),) * (_COUNT - 1)), self._list(visitor, search, place, problem)
                return
            async with aclosing(self._show(request, moved, search, problem)) as updates:
                async for update in updates:
                    yield update

        return command

    def restore(self) -> Any:  # noqa: ANN401
        async def restore(request: gr.Request) -> AsyncGenerator[_Update, None]:
            visitor = self._visitor(request)
            moved, problem = await asyncio.to_thread(self._history.last_open, visitor)
            if moved is None:
                yield *((gr.skip(),) * (_COUNT - 1)), self._list(visitor, "", None, problem)
                return
            async with aclosing(self._show(request, moved, "", problem, keep_box=True)) as updates:
                async for update in updates:
                    yield update

        return restore

    async def _answer(
        self,
        request: gr.Request,
        place: Place | None,
        search: str,
        views: Callable[[str, str], AsyncGenerator[ChatView, None]],
    ) -> AsyncGenerator[_Update, None]:
        """Begin an answer and show it; it goes on for a while without this page."""
        session, run, visitor = request.session_hash or "", secrets.token_hex(4), self._visitor(request)
        kept = self._history.keep(visitor, place, views(session, run))
        watched = self._live.begin(session, visitor, kept, lambda: self._presenter.stop(session, run))
        running = False
        async with aclosing(watched):
            async for one in watched:
                yield self._update(one, visitor, search, sent=running and one.view.running)
                running = one.view.running

    async def _show(
        self, request: gr.Request, moved: Moved, search: str, problem: HistoryError | None, *, keep_box: bool = False
    ) -> AsyncGenerator[_Update, None]:
        """Show a conversation, and the answer that is being written in it, if there is one."""
        visitor, name = self._visitor(request), "" if moved.place is None else moved.place.conversation_id

        def same(kept: Kept) -> bool:
            return kept.place is not None and kept.place.conversation_id == name

        first, running = True, False
        view = await asyncio.to_thread(self._presenter.show, moved.turns)
        view = replace(view, box=None) if keep_box else view
        still = Kept(view, moved.place, changed=True, problem=problem)
        session = request.session_hash or ""
        self._live.detach(session, still)
        async with aclosing(self._live.resume(session, visitor, same)) as watched:
            async for kept in watched:
                view = self._presenter.again(kept.view)
                one = replace(kept, view=view, changed=first or kept.changed)
                yield self._update(one, visitor, search, sent=running and view.running)
                first, running = False, view.running
        if first:
            yield self._update(still, visitor, search)

    def _turned(self, request: gr.Request, kept: Kept, search: str) -> _Update:
        """Show something else than the answer that is being written."""
        self._live.detach(request.session_hash or "", kept)
        return self._update(kept, self._visitor(request), search)

    def _visitor(self, request: gr.Request) -> str | None:
        return self._history.visitor(dict(request.cookies))

    def _update(self, kept: Kept, visitor: str | None, search: str, *, sent: bool = False) -> _Update:
        """``sent``: an answer is being written, and the page's buttons are as they should be then already."""
        t, view, mark = (
            self._presenter.texts,
            kept.view,
            f'\n\n<span class="cg-cut">{escape(self._presenter.texts("chat.cut"))}</span>',
        )
        values = (
            view.turns,
            shown(view.turns, mark),
            gr.skip() if view.box is None else view.box,
            view.status,
            view.context,
            view.timing,
            *start_and_stop(t("chat.send"), t("prompt.stop"), running=view.running, sent=sent),
            gr.skip() if sent else gr.Button(t("chat.go_on"), visible=view.resumable),
        )
        if not kept.changed:
            return *values, gr.skip(), gr.skip()
        return *values, kept.place, self._list(visitor, search, kept.place, kept.problem)

    def _list(self, visitor: str | None, search: str, place: Place | None, problem: HistoryError | None = None) -> str:
        return conversation_list(self._presenter.texts, self._history, visitor, search or "", place, problem)


def _index(index: int | tuple[int, int] | list[int]) -> int:
    return index if isinstance(index, int) else index[0]
