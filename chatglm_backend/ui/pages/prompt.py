"""The Prompt page: one prompt, one answer, its timing. Layout first, wiring after."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from chatglm_backend.core import ANY_OBJECT, PromptFormat
from chatglm_backend.settings import PROMPT_TOKENS, Settings
from chatglm_backend.tokenizers.code import LANGUAGES
from chatglm_backend.ui.gradio_insides.buttons import start_and_stop
from chatglm_backend.ui.history import History
from chatglm_backend.ui.html import typing_line
from chatglm_backend.ui.pages.adapters import build_adapter_choice
from chatglm_backend.ui.pages.outputs import AT_ONCE, KEPT, QUIET, Outputs, caller_of, shown, shown_before
from chatglm_backend.ui.presenter import Presenter, PromptForm, PromptView
from chatglm_backend.ui.sampling import SamplingControls


@dataclass(frozen=True, slots=True)
class _Outputs(Outputs):
    """``id`` is a state: the request that the page shows."""

    generate: Any = KEPT
    stop: Any = KEPT
    status: Any = KEPT
    output: Any = KEPT
    timing: Any = KEPT
    sent: Any = KEPT
    id: Any = KEPT
    more: Any = KEPT


def build_prompt_page(
    page: gr.Blocks, presenter: Presenter, history: History, settings: Settings
) -> tuple[gr.HTML, gr.Radio, gr.Dropdown, gr.Dropdown]:
    """Lay the page out in the current Blocks; returns what follows the model.

    These are examples, prompt form, the language of code, and fine-tunes.
    """
    t = presenter.texts
    blank = presenter.blank()
    with gr.Row(equal_height=False, elem_id="cg-prompt-layout"):
        with gr.Column(elem_id="cg-prompt-ask"):
            language = gr.Dropdown(
                [(t("prompt.language_none"), ""), *((name, name) for name in LANGUAGES)], value="Python", visible=False,
                label=t("prompt.language"), info=t("prompt.language_info"), elem_id="cg-language", filterable=False,
            )  # fmt: skip
            prompt = gr.Textbox(
                label=t("prompt.label"), placeholder=t("prompt.placeholder"), lines=5, max_lines=14,
                elem_id="cg-prompt", autofocus=True,
            )  # fmt: skip
            with gr.Row(elem_classes="cg-actions"):
                generate = gr.Button(t("prompt.generate"), variant="primary", elem_id="cg-generate", scale=2)
                stop = gr.Button(t("prompt.stop"), elem_id="cg-stop", interactive=False, scale=1)
                clear = gr.Button(t("prompt.clear"), elem_id="cg-clear", scale=1)
            gr.HTML(typing_line(t("prompt.keys"), "cg-prompt"))
            examples = gr.HTML(presenter.header().examples, elem_id="cg-examples")
        with gr.Column(elem_id="cg-prompt-answer"):
            output = gr.Textbox(
                label=t("prompt.output"), placeholder=t("prompt.output_placeholder"), lines=9, max_lines=22,
                interactive=False, buttons=["copy"], elem_id="cg-output",
            )  # fmt: skip
            status = gr.HTML(blank.status, elem_id="cg-answer-status")
            more = gr.Button(t("chat.go_on"), visible=False, elem_id="cg-go-on", size="sm")
            with gr.Accordion(t("chat.figures"), open=False, elem_id="cg-figures"):
                timing = gr.HTML(blank.timing, elem_id="cg-timing")
            sent = gr.Textbox(
                label=t("prompt.sent"), lines=2, max_lines=12, interactive=False, buttons=["copy"], elem_id="cg-sent"
            )
        with gr.Column(elem_id="cg-prompt-settings"):
            adapter = build_adapter_choice(t, "cg-adapter")
            sampling = SamplingControls(t, settings, "cg-{}", {"max_new_tokens": settings.answer_tokens(PROMPT_TOKENS)})
            sampling.add("max_new_tokens")
            with gr.Accordion(t("prompt.sampling"), open=False, elem_id="cg-sampling"):
                prompt_format = gr.Radio(
                    [(t(f"prompt.format.{name}"), name) for name in ("recipe", "chat", "raw")],
                    value="recipe", label=t("prompt.format"), elem_id="cg-format",
                )  # fmt: skip
                sampling.add()
            with gr.Accordion(t("prompt.json"), open=False, elem_id="cg-json"):
                as_json = gr.Checkbox(label=t("prompt.json_switch"), elem_id="cg-as-json")
                schema = gr.Textbox(
                    label=t("prompt.json_schema"), info=t("prompt.json_schema_info"), lines=6, max_lines=14,
                    placeholder='{"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}',
                    elem_id="cg-schema",
                )  # fmt: skip

    async def ask(
        request: gr.Request,
        prompt: str,
        max_new_tokens: float,
        prompt_format: PromptFormat,
        *values: Any,  # noqa: ANN401
    ) -> AsyncGenerator[tuple[Any, ...], None]:
        *numbers, chosen, spoken, is_json, wanted = values
        params = partial(sampling.params, (max_new_tokens, *numbers))
        form = PromptForm(
            prompt or "", params, prompt_format, adapter=presenter.answers.adapter(chosen),
            language=presenter.language(spoken),
            json_schema=((wanted or "").strip() or ANY_OBJECT) if is_json else None,
        )  # fmt: skip
        async with aclosing(shown(presenter.generate(caller_of(request, history), form), show)) as updates:
            async for update in updates:
                yield update

    async def resume(request: gr.Request, left: str) -> AsyncGenerator[tuple[Any, ...], None]:
        async with aclosing(shown(presenter.resume(caller_of(request, history), left or ""), show)) as updates:
            async for update in updates:
                yield update

    async def go_on(request: gr.Request, name: str, *numbers: float | None) -> AsyncGenerator[tuple[Any, ...], None]:
        views = presenter.go_on(caller_of(request, history), name, partial(sampling.params, numbers))
        async with aclosing(shown(views, show)) as updates:
            async for update in updates:
                yield update

    def end(request: gr.Request, name: str) -> None:
        presenter.answers.stop(caller_of(request, history).visitor, name)

    def empty(request: gr.Request) -> list[Any]:
        return ["", *show(presenter.clear(caller_of(request, history))).all()]

    def show(view: PromptView, sent: bool = False) -> _Outputs:  # noqa: FBT001, FBT002
        """``sent``: the page's buttons are as the view wants them already."""
        buttons = start_and_stop(t("prompt.generate"), t("prompt.stop"), running=view.running, sent=sent)
        exact: dict[str, Any] = {} if view.sent is None else {"sent": view.sent}
        if not sent:
            exact["more"] = gr.Button(t("chat.go_on"), visible=view.unfinished)
        return _Outputs(*buttons, status=view.status, output=view.output, timing=view.timing, id=view.id, **exact)

    name = gr.State("")
    outputs = _Outputs(generate, stop, status, output, timing, sent, name, more).all()
    sampling.remember(page)
    tokens, *others = sampling.components
    inputs = [prompt, tokens, prompt_format, *others, adapter, language, as_json, schema]
    generate.click(ask, inputs, outputs, show_progress="hidden", api_name="generate")
    stop.click(end, name, **AT_ONCE)
    clear.click(empty, None, [prompt, *outputs], **AT_ONCE)
    more.click(go_on, [name, *sampling.components], outputs, **QUIET)
    page.load(resume, outputs=outputs, **shown_before("cg-answer-status"), **QUIET)
    return examples, prompt_format, language, adapter
