"""The Compare page: one prompt, two settings, two answers. Layout first, wiring after."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import gradio as gr

from chatglm_backend.core import PromptFormat
from chatglm_backend.settings import Settings
from chatglm_backend.ui.compare import ComparePresenter, CompareView, SideView
from chatglm_backend.ui.i18n import Texts
from chatglm_backend.ui.options import slider_start
from chatglm_backend.ui.pages.buttons import start_and_stop
from chatglm_backend.ui.presenter import PromptForm

__all__ = ["build_compare_page"]

_SIDES = ("a", "b")


def build_compare_page(presenter: ComparePresenter, settings: Settings) -> None:
    """Lay the page out in the current Blocks."""
    t = presenter.texts
    prompt = gr.Textbox(
        label=t("prompt.label"), placeholder=t("compare.placeholder"), lines=3, max_lines=10,
        elem_id="cg-compare-prompt",
    )  # fmt: skip
    with gr.Row(elem_classes="cg-actions", elem_id="cg-compare-actions"):
        generate = gr.Button(t("compare.generate"), variant="primary", elem_id="cg-compare-generate", scale=2)
        stop = gr.Button(t("compare.stop"), elem_id="cg-compare-stop", interactive=False, scale=1)
    gr.HTML(f'<p class="cg-keys">{t("compare.note")}</p>')
    blank = presenter.blank()
    choices: list[Any] = []
    outputs: list[Any] = [generate, stop]
    with gr.Row(equal_height=False):
        for side, view in zip(_SIDES, (blank.left, blank.right), strict=True):
            with gr.Column(scale=1, min_width=290, elem_id=f"cg-compare-{side}"):
                choices += _choices(presenter, settings, side)
                outputs += _answer(presenter, view, side)
    generate.click(_generate(presenter), [prompt, *choices], outputs, show_progress="hidden", api_visibility="private")
    stop.click(_stop(presenter), queue=False, show_progress="hidden", api_visibility="private")


def _choices(presenter: ComparePresenter, settings: Settings, side: str) -> list[Any]:
    t = presenter.texts
    name = side.upper()
    temperature = gr.Slider(
        0, 2, value=settings.temperature if side == "a" else 0.8, step=0.05, label=f"{name}: {t('prompt.temperature')}",
        elem_id=f"cg-compare-temperature-{side}",
    )  # fmt: skip
    tokens = gr.Slider(
        1, 2048, value=slider_start(settings), step=1, label=f"{name}: {t('prompt.max_new_tokens')}",
        elem_id=f"cg-compare-tokens-{side}",
    )  # fmt: skip
    form = gr.Radio(
        [(t(f"prompt.format.{kind}"), kind) for kind in ("recipe", "chat", "raw")], value="recipe",
        label=f"{name}: {t('prompt.format')}", elem_id=f"cg-compare-format-{side}",
    )  # fmt: skip
    kernel = gr.Radio(
        [(t("compare.kernel.own"), ""), (t("compare.kernel.bigdl"), "bigdl")], value="",
        label=f"{name}: {t('timing.kernel')}", elem_id=f"cg-compare-kernel-{side}",
    )  # fmt: skip
    return [temperature, tokens, form, kernel]


def _answer(presenter: ComparePresenter, view: SideView, side: str) -> list[Any]:
    t = presenter.texts
    output = gr.Textbox(
        label=f"{side.upper()}: {t('prompt.output')}", placeholder=t("prompt.output_placeholder"), lines=6,
        max_lines=20, interactive=False, buttons=["copy"], elem_id=f"cg-compare-output-{side}",
    )  # fmt: skip
    status = gr.HTML(view.status, elem_id=f"cg-compare-status-{side}")
    timing = gr.HTML(view.timing, elem_id=f"cg-compare-timing-{side}")
    return [status, output, timing]


def _generate(presenter: ComparePresenter) -> Any:  # noqa: ANN401  a handler, in Gradio's eyes any function
    async def generate(
        prompt: str,
        temperature_a: float,
        tokens_a: float,
        format_a: PromptFormat,
        kernel_a: str,
        temperature_b: float,
        tokens_b: float,
        format_b: PromptFormat,
        kernel_b: str,
        request: gr.Request,
    ) -> AsyncGenerator[tuple[Any, ...], None]:
        left = PromptForm(prompt or "", tokens_a, format_a, temperature_a, kernel=kernel_a or "")
        right = PromptForm(prompt or "", tokens_b, format_b, temperature_b, kernel=kernel_b or "")
        async with aclosing(presenter.generate(request.session_hash or "", left, right)) as views:
            async for view in views:
                yield _updates(presenter.texts, view)

    return generate


def _stop(presenter: ComparePresenter) -> Any:  # noqa: ANN401
    def stop(request: gr.Request) -> None:
        presenter.stop(request.session_hash or "")

    return stop


def _updates(t: Texts, view: CompareView) -> tuple[Any, ...]:
    sides = [part for side in (view.left, view.right) for part in (side.status, side.output, side.timing)]
    return (*start_and_stop(t("compare.generate"), t("compare.stop"), running=view.running), *sides)
