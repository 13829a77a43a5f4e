"""The Chat page: a conversation, its settings, its figures. Layout first, wiring after."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, fields, replace
from functools import partial
from html import escape
from typing import Any

import gradio as gr

from chatglm_backend.core import Message
from chatglm_backend.documents.reading import Document
from chatglm_backend.errors import ConversationChanged, HistoryError
from chatglm_backend.settings import CHAT_TOKENS, Settings
from chatglm_backend.store.records import Place
from chatglm_backend.ui import writing
from chatglm_backend.ui.adapters import as_choice
from chatglm_backend.ui.answers import Caller
from chatglm_backend.ui.attached import attached_to, document_cards, waiting_cards
from chatglm_backend.ui.chat import ChatForm, ChatPresenter, ChatView
from chatglm_backend.ui.conversation import Turns
from chatglm_backend.ui.conversation import shown as shown_turns
from chatglm_backend.ui.documents import DocumentDesk
from chatglm_backend.ui.gradio_insides.buttons import start_and_stop
from chatglm_backend.ui.gradio_insides.handlers import event_about
from chatglm_backend.ui.history import History, Moved, once_repaired
from chatglm_backend.ui.history_list import conversation_list, read_command
from chatglm_backend.ui.html import chips, typing_line
from chatglm_backend.ui.markdown import as_typed
from chatglm_backend.ui.pages.adapters import build_adapter_choice, choice_update
from chatglm_backend.ui.pages.documents import build_documents
from chatglm_backend.ui.pages.history import build_history
from chatglm_backend.ui.pages.outputs import AT_ONCE, KEPT, QUIET, Outputs, caller_of, shown, shown_before
from chatglm_backend.ui.render import newer_state
from chatglm_backend.ui.sampling import SamplingControls
from chatglm_backend.ui.tools import cards

_PRESETS = ("translate", "summarise", "explain", "email")
_LATEX = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "$", "right": "$", "display": False},
    {"left": "\\(", "right": "\\)", "display": False},
    {"left": "\\[", "right": "\\]", "display": True},
]


@dataclass(frozen=True, slots=True)
class _Inputs:
    """What every handler is given; then come the values of the sampling controls."""

    turns: Turns
    place: Place | None
    id: str
    search: str
    system: str
    tools: str
    box: str
    command: str
    edited: str
    adapter: str | None
    documents: tuple[Document, ...]


@dataclass(frozen=True, slots=True)
class _Outputs(Outputs):
    """What every handler may set. ``turns``, ``place``, ``documents`` and ``id``, of the request shown, are states."""

    turns: Any = KEPT
    chat: Any = KEPT
    boxed: Any = KEPT
    status: Any = KEPT
    context: Any = KEPT
    timing: Any = KEPT
    send: Any = KEPT
    stop: Any = KEPT
    more: Any = KEPT
    place: Any = KEPT
    listing: Any = KEPT
    id: Any = KEPT
    adapter: Any = KEPT
    documents: Any = KEPT
    cards: Any = KEPT
    rows: Any = KEPT


def build_chat_page(
    page: gr.Blocks, presenter: ChatPresenter, history: History, desk: DocumentDesk, settings: Settings
) -> tuple[gr.Textbox, gr.Textbox, gr.Dropdown]:
    """Lay the page out in the current Blocks.

    Returns the boxes of the system prompt and of tools, shown with models that read them, and the fine-tunes; all
    follow the model.
    """
    t, blank = presenter.texts, presenter.blank()
    turns, place, name = gr.State(()), gr.State(None), gr.State("")
    with gr.Row(elem_id="cg-chat-layout", equal_height=False):
        with gr.Column(elem_id="cg-chat-side", min_width=240):
            clear = gr.Button(t("chat.new"), elem_id="cg-chat-clear")
            panel = build_history(history, t)
        with gr.Column(elem_id="cg-chat-main", min_width=300):
            gr.HTML(
                f'<button type="button" class="cg-tool" data-action="drawer" aria-expanded="false" '
                f'aria-controls="cg-chat-side" aria-label="{escape(t("history.title"))}">'
                f"☰ {escape(t('history.title'))}</button>",
                elem_id="cg-chat-drawer",
            )
            chat = gr.Chatbot(
                label=t("tab.chat"), show_label=False, height=480, elem_id="cg-chat", buttons=["copy"],
                editable="user", latex_delimiters=_LATEX, autoscroll=False, allow_tags=False,
                placeholder=escape(t("chat.placeholder")), feedback_options=None, layout="bubble",
            )  # fmt: skip
            rows = gr.HTML(writing.rows(t, (), ()), elem_id="cg-chat-rows")
            edited = gr.Textbox(label=t("chat.version.edit"), elem_id="cg-chat-edited", elem_classes="cg-unseen")
            boxed = gr.HTML("", elem_id="cg-chat-boxed", elem_classes="cg-unseen")
            with gr.Row(elem_id="cg-chat-below"):
                status = gr.HTML(blank.status, elem_id="cg-chat-status")
                context = gr.HTML(blank.context, elem_id="cg-context")
            more = gr.Button(t("chat.go_on"), visible=False, elem_id="cg-chat-go-on", size="sm")
            presets = [(t(f"chat.preset.{name}"), t(f"chat.preset.{name}.text")) for name in _PRESETS]
            gr.HTML(chips(t("chat.presets"), presets, "cg-chat-box"), elem_id="cg-chat-presets")
            with gr.Column(elem_id="cg-chat-composer"):
                files = build_documents(desk, history, t)
                box = gr.Textbox(
                    label=t("chat.box"), placeholder=t("chat.box_placeholder"), lines=1, max_lines=10,
                    show_label=False, elem_id="cg-chat-box",
                )  # fmt: skip
                with gr.Row(elem_classes="cg-actions"):
                    send = gr.Button(t("chat.send"), variant="primary", elem_id="cg-chat-send", scale=2)
                    stop = gr.Button(t("prompt.stop"), elem_id="cg-chat-stop", interactive=False, scale=1)
            gr.HTML(typing_line(t("chat.keys"), "cg-chat-box"))
            adapter = build_adapter_choice(t, "cg-chat-adapter")
            with gr.Accordion(t("chat.settings"), open=False, elem_id="cg-chat-settings"):
                system = gr.Textbox(
                    label=t("chat.system"), info=t("chat.system_info"), lines=2, max_lines=6, visible=False,
                    elem_id="cg-chat-system",
                )  # fmt: skip
                tools = gr.Textbox(
                    label=t("chat.tools"), info=t("chat.tools_info"), lines=2, max_lines=8, visible=False,
                    elem_id="cg-chat-tools",
                )  # fmt: skip
                sampling = SamplingControls(
                    t, settings, "cg-chat-{}", {"max_new_tokens": settings.answer_tokens(CHAT_TOKENS)}
                )
                sampling.add("max_new_tokens")
                with gr.Accordion(t("prompt.sampling"), open=False, elem_id="cg-chat-sampling"):
                    sampling.add()
            with gr.Accordion(t("chat.figures"), open=False, elem_id="cg-chat-figures"):
                timing = gr.HTML(blank.timing, elem_id="cg-chat-timing")

    components = _Inputs(
        turns, place, name, panel.search, system, tools, box, panel.command, edited, adapter, files.documents
    )
    inputs = [*(getattr(components, one.name) for one in fields(components)), *sampling.components]
    outputs = _Outputs(
        turns, chat, boxed, status, context, timing, send, stop, more, place, panel.listing, name, adapter,
        files.documents, files.cards, rows,
    ).all()  # fmt: skip
    sampling.remember(page)
    handlers = _Handlers(presenter, history, desk, sampling)
    answered = {"send": send.click, "go_on": more.click, "regenerate": chat.retry, "edit": chat.edit}
    for action, event in answered.items():
        event(handlers.answering(action), inputs, outputs, **QUIET)
    edited.change(handlers.answering("edit_answer"), inputs, outputs, trigger_mode="multiple", **QUIET)
    chat.undo(handlers.turning("undo"), inputs, outputs, **QUIET)
    clear.click(handlers.turning("clear"), inputs, outputs, **QUIET)
    stop.click(handlers.stop, name, **AT_ONCE)
    if history.enabled:
        searched = [panel.search, place]
        panel.search.change(handlers.search, searched, panel.listing, trigger_mode="always_last", **AT_ONCE)
        panel.command.change(handlers.turning("command"), inputs, outputs, trigger_mode="multiple", **QUIET)
        page.load(handlers.turning("restore"), inputs, outputs, **QUIET)
    else:
        page.load(handlers.again, outputs=outputs, **shown_before("cg-chat-status"), **QUIET)
    return system, tools, adapter


class _Handlers:
    """What Gradio calls: one handler for all that is answered, one for all that shows other turns."""

    def __init__(
        self, presenter: ChatPresenter, history: History, desk: DocumentDesk, sampling: SamplingControls
    ) -> None:
        self._presenter = presenter
        self._history = history
        self._desk = desk
        self._sampling = sampling

    def answering(self, action: str) -> Any:  # noqa: ANN401  a handler, in Gradio's eyes any function
        """``send``, ``go_on``, ``regenerate``, ``edit`` and ``edit_answer``."""

        async def answer(
            request: gr.Request,
            event: gr.EventData,
            *values: Any,  # noqa: ANN401
        ) -> AsyncGenerator[tuple[Any, ...], None]:
            given, numbers = self._given(values)
            index, typed = event_about(event)
            text = as_typed(typed) if action == "edit" else given.box or ""
            if action == "edit_answer":
                index, text = writing.read_edit(given.edited)
            adapter = self._presenter.answers.adapter(given.adapter, lasting=True)
            caller = self._caller(request)
            asked = self._presenter.asked(action, given.turns, index, text, given.documents)
            # A tool's result takes none along, and what is asked again has its own.
            sent = given.documents if action == "send" and attached_to(asked[-1:]) else ()
            form = ChatForm(
                partial(self._sampling.params, numbers), given.system or "", given.tools or "", adapter,
                attached=() if sent else None, shown=given.id,
                accepted=partial(self._desk.keep_only, caller.visitor, (), sent),
            )  # fmt: skip
            views = self._presenter.answer(caller, given.place, given.turns, asked, form)
            async with aclosing(shown(views, partial(self._show, caller, given.search))) as updates:
                async for update in updates:
                    yield update

        return answer

    def turning(self, action: str) -> Any:  # noqa: ANN401
        """``undo``, ``clear``, ``command`` of the list, and ``restore`` of a page that was just opened."""

        async def turn(
            request: gr.Request,
            event: gr.EventData,
            *values: Any,  # noqa: ANN401
        ) -> AsyncGenerator[tuple[Any, ...], None]:
            given, caller = self._given(values)[0], self._caller(request)
            moved, problem = await asyncio.to_thread(self._moved, action, caller, given, event_about(event)[0])
            if moved is None:
                found = _Outputs()
                if isinstance(problem, ConversationChanged) and given.place is not None:
                    found = _Outputs(status=newer_state(self._presenter.texts, problem, given.place))
                elif action in ("command", "restore"):
                    listing = await asyncio.to_thread(self._list, caller, given.search, given.place, problem)
                    found = _Outputs(listing=listing)
                if action == "restore":
                    found = replace(found, adapter=choice_update(self._presenter.choice(None)))
                yield tuple(found.all())
                return
            views = self._presenter.show(caller, moved, problem, fresh=action == "restore")
            async with aclosing(shown(views, partial(self._show, caller, given.search))) as updates:
                async for update in updates:
                    yield update

        return turn

    async def again(self, request: gr.Request, left: str) -> AsyncGenerator[tuple[Any, ...], None]:
        """What stood on the page before it was loaded anew, where nothing is kept."""
        caller = self._caller(request)
        views = self._presenter.again(caller, left or "")
        async with aclosing(shown(views, partial(self._show, caller, ""))) as updates:
            async for update in updates:
                yield update

    def stop(self, request: gr.Request, name: str) -> None:
        """End the answer; its text stays."""
        self._presenter.answers.stop(self._caller(request).visitor, name)

    def search(self, request: gr.Request, text: str, place: Place | None) -> str:
        """The list of those that hold the text."""
        return self._list(self._caller(request), text, place)

    def _moved(
        self, action: str, caller: Caller, given: _Inputs, index: int
    ) -> tuple[Moved | None, HistoryError | None]:
        """What to show instead of what is there."""
        moved = Moved() if action == "clear" else None
        if action == "undo":
            moved = self._presenter.undo(given.turns, index)
        try:
            keeper = caller.keeper
            return (moved if keeper is None else once_repaired(lambda: self._kept(action, keeper, given, moved))), None
        except ConversationChanged as error:
            return None, error
        except HistoryError as error:
            return moved, error

    def _kept(self, action: str, keeper: str, given: _Inputs, moved: Moved | None) -> Moved | None:
        """The same with what is kept. Raises HistoryError."""
        if action == "clear":
            self._history.leave(keeper)
        elif action == "restore":
            return self._history.last_open(keeper)
        elif moved is not None and given.place is not None:
            kept = self._history.cut(keeper, given.place, len(moved.turns))
            return replace(kept, put=moved.put, attached=moved.attached)
        elif action == "command":
            return self._history.carry_out(keeper, read_command(given.command), given.place)
        return moved

    def _given(self, values: Sequence[Any]) -> tuple[_Inputs, Sequence[Any]]:
        count = len(fields(_Inputs))
        return _Inputs(*values[:count]), values[count:]

    def _caller(self, request: gr.Request) -> Caller:
        return caller_of(request, self._history)

    async def _show(self, caller: Caller, search: str, view: ChatView, sent: bool) -> _Outputs:  # noqa: FBT001
        """``sent``: an answer is being written, and the page's buttons are as they should be then already."""
        t = self._presenter.texts
        start, stop = start_and_stop(t("chat.send"), t("prompt.stop"), running=view.running, sent=sent)
        found = _Outputs(
            turns=view.turns,
            chat=shown_turns(view.turns, f'\n\n<span class="cg-cut">{escape(t("chat.cut"))}</span>', self._cards),
            status=view.status,
            context=view.context,
            timing=view.timing,
            send=start,
            stop=stop,
            more=gr.skip() if sent else gr.Button(t("chat.go_on"), visible=view.resumable),
            id=view.id,
            rows=KEPT if sent or view.versions is None else writing.rows(t, view.turns, view.versions),
        )
        if view.taken or view.put:
            found = replace(found, boxed=writing.boxed(view.taken, view.put))
        if view.attached is not None:
            found = replace(found, documents=view.attached, cards=waiting_cards(t, view.attached, self._desk.room()))
        if view.adapter is not None:
            found = replace(found, adapter=choice_update(self._presenter.choice(as_choice(view.adapter))))
        if view.changed:
            listing = await asyncio.to_thread(self._list, caller, search, view.place, view.problem)
            found = replace(found, place=view.place, listing=listing)
        return found

    def _cards(self, turn: Message, last: bool) -> list[str]:  # noqa: FBT001
        return [*cards(self._presenter.texts, turn, last), *document_cards(self._presenter.texts, turn)]

    def _list(self, caller: Caller, search: str, place: Place | None, problem: HistoryError | None = None) -> str:
        return conversation_list(self._presenter.texts, self._history, caller.keeper, search or "", place, problem)
