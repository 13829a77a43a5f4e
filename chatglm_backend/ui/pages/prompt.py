"""The Prompt page: one prompt, one answer, its timing. Layout first, wiring after."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import gradio as gr

from chatglm_backend.core import PromptFormat
from chatglm_backend.settings import Settings
from chatglm_backend.ui.history import History
from chatglm_backend.ui.i18n import Texts
from chatglm_backend.ui.options import slider_start
from chatglm_backend.ui.pages.buttons import start_and_stop
from chatglm_backend.ui.presenter import Presenter, PromptForm, PromptView

__all__ = ["build_prompt_page"]

_Update = Any  # what Gradio takes as an output: a value, a component with new properties, or skip()


def build_prompt_page(page: gr.Blocks, presenter: Presenter, history: History, settings: Settings) -> gr.HTML:
    """Lay the page out in the current Blocks; returns the examples, which follow the model."""
    t = presenter.texts
    blank = presenter.blank()
    with gr.Row(equal_height=False, elem_id="cg-prompt-layout"):
        with gr.Column(elem_id="cg-prompt-ask"):
            prompt = gr.Textbox(
                label=t("prompt.label"), placeholder=t("prompt.placeholder"), lines=5, max_lines=14,
                elem_id="cg-prompt", autofocus=True,
            )  # fmt: skip
            with gr.Row(elem_classes="cg-actions"):
                generate = gr.Button(t("prompt.generate"), variant="primary", elem_id="cg-generate", scale=2)
                stop = gr.Button(t("prompt.stop"), elem_id="cg-stop", interactive=False, scale=1)
                clear = gr.Button(t("prompt.clear"), elem_id="cg-clear", scale=1)
            gr.HTML(f'<p class="cg-keys">{t("prompt.keys")}</p>')
            examples = gr.HTML(presenter.header().examples, elem_id="cg-examples")
        with gr.Column(elem_id="cg-prompt-answer"):
            output = gr.Textbox(
                label=t("prompt.output"), placeholder=t("prompt.output_placeholder"), lines=9, max_lines=22,
                interactive=False, buttons=["copy"], elem_id="cg-output",
            )  # fmt: skip
            status = gr.HTML(blank.status, elem_id="cg-answer-status")
            timing = gr.HTML(blank.timing, elem_id="cg-timing")
            sent = gr.Textbox(
                label=t("prompt.sent"), lines=2, max_lines=12, interactive=False, buttons=["copy"], elem_id="cg-sent"
            )
        with gr.Column(elem_id="cg-prompt-settings"):
            tokens = gr.Slider(
                1, 2048, value=slider_start(settings), step=1, label=t("prompt.max_new_tokens"),
                info=t("prompt.max_new_tokens_info"), elem_id="cg-max-new-tokens",
            )  # fmt: skip
            with gr.Accordion(t("prompt.sampling"), open=False, elem_id="cg-sampling"):
                prompt_format = gr.Radio(
                    [(t(f"prompt.format.{name}"), name) for name in ("recipe", "chat", "raw")],
                    value="recipe", label=t("prompt.format"), elem_id="cg-format",
                )  # fmt: skip
                temperature = gr.Slider(
                    0,
                    2,
                    value=settings.temperature,
                    step=0.05,
                    label=t("prompt.temperature"),
                    info=t("prompt.temperature_info"),
                )
                top_p = gr.Slider(0, 1, value=settings.top_p, step=0.01, label=t("prompt.top_p"))
                top_k = gr.Slider(0, 200, value=settings.top_k, step=1, label=t("prompt.top_k"))
                penalty = gr.Slider(
                    1, 2, value=settings.repetition_penalty, step=0.01, label=t("prompt.repetition_penalty")
                )
                seed = gr.Number(value=settings.seed, precision=0, minimum=0, label=t("prompt.seed"))

    outputs = [generate, stop, status, output, timing, sent]
    choices = [tokens, prompt_format, temperature, top_p, top_k, penalty, seed]
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    generate.click(
        _generate(presenter, history), [prompt, *choices], outputs, show_progress="hidden", api_name="generate"
    )
    stop.click(_stop(presenter), queue=False, **quiet)
    clear.click(_clear(presenter), outputs=[prompt, *outputs], queue=False, **quiet)
    if history.enabled:
        page.load(_resume(presenter, history), None, outputs, **quiet)
    return examples


def _generate(presenter: Presenter, history: History) -> Any:  # noqa: ANN401  a handler, in Gradio's eyes any function
    async def generate(
        prompt: str,
        max_new_tokens: float,
        prompt_format: PromptFormat,
        temperature: float,
        top_p: float,
        top_k: float,
        repetition_penalty: float,
        seed: float | None,
        request: gr.Request,
    ) -> AsyncGenerator[tuple[_Update, ...], None]:
        form = PromptForm(
            prompt or "", max_new_tokens, prompt_format, temperature, top_p, top_k, repetition_penalty, seed
        )
        session, run, visitor = request.session_hash or "", secrets.token_hex(4), history.visitor(dict(request.cookies))
        views = presenter.generate(session, form, run)
        watched = presenter.live.begin(session, visitor, views, lambda: presenter.stop(session, run))
        running = False
        async with aclosing(watched):
            async for view in watched:
                yield _updates(presenter.texts, view, sent=running and view.running)
                running = view.running

    return generate


def _resume(presenter: Presenter, history: History) -> Any:  # noqa: ANN401
    async def resume(request: gr.Request) -> AsyncGenerator[tuple[_Update, ...], None]:
        """Go on with the answer that this visitor's page lost a moment ago."""
        visitor, first, running = history.visitor(dict(request.cookies)), True, False
        watched = presenter.live.resume(request.session_hash or "", visitor, _has_answer, only_left=True)
        async with aclosing(watched):
            async for view in watched:
                shown = await presenter.again(view) if first else presenter.follow(view)
                yield _updates(presenter.texts, shown, sent=running and view.running)
                first, running = False, view.running

    return resume


def _has_answer(view: PromptView) -> bool:
    return view.request is not None


def _stop(presenter: Presenter) -> Any:  # noqa: ANN401
    def stop(request: gr.Request) -> None:
        presenter.live.stop(request.session_hash or "")

    return stop


def _clear(presenter: Presenter) -> Any:  # noqa: ANN401
    def clear(request: gr.Request) -> tuple[_Update, ...]:
        blank = presenter.blank()
        presenter.live.detach(request.session_hash or "", blank)
        return ("", *_updates(presenter.texts, blank))

    return clear


def _updates(t: Texts, view: PromptView, *, sent: bool = False) -> tuple[_Update, ...]:
    """``sent``: the page's buttons are as the view wants them already."""
    return (
        *start_and_stop(t("prompt.generate"), t("prompt.stop"), running=view.running, sent=sent),
        view.status,
        view.output,
        view.timing,
        gr.skip() if view.sent is None else view.sent,
    )
