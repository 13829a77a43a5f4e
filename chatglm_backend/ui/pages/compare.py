"""The Compare page: one prompt, two settings, two answers. Layout first, wiring after."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from chatglm_backend.settings import PROMPT_TOKENS, Settings
from chatglm_backend.ui.compare import CompareView, again, compare, settings_line
from chatglm_backend.ui.gradio_insides.buttons import start_and_stop
from chatglm_backend.ui.history import History
from chatglm_backend.ui.pages.adapters import build_adapter_choice
from chatglm_backend.ui.pages.outputs import AT_ONCE, KEPT, QUIET, Outputs, caller_of, shown, shown_before
from chatglm_backend.ui.presenter import Presenter, PromptForm, PromptView
from chatglm_backend.ui.sampling import SamplingControls

_SIDES = ("a", "b")


@dataclass(frozen=True, slots=True)
class _Outputs(Outputs):
    """``ids`` is a state: the two requests that the page shows."""

    generate: Any = KEPT
    stop: Any = KEPT
    status_a: Any = KEPT
    output_a: Any = KEPT
    timing_a: Any = KEPT
    status_b: Any = KEPT
    output_b: Any = KEPT
    timing_b: Any = KEPT
    ids: Any = KEPT


def build_compare_page(
    page: gr.Blocks, presenter: Presenter, history: History, settings: Settings
) -> list[gr.Dropdown]:
    """Lay the page out in the current Blocks; returns both sides' fine-tunes, which follow the model."""
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
    choices, parts, sampling, adapters = [], [], [], []
    lines: list[gr.HTML] = []
    with gr.Row(equal_height=False):
        for side in _SIDES:
            with gr.Column(scale=1, min_width=290, elem_id=f"cg-compare-{side}"):
                lines.append(gr.HTML("", elem_id=f"cg-compare-set-{side}"))
                parts += _answer(presenter, blank, side)
                controls, others = _choices(presenter, settings, side)
                controls.remember(page)
                sampling.append(controls)
                adapters.append(others[-1])
                choices += [*others, *controls.components]

    def form(prompt: str, side: int, values: Sequence[Any]) -> PromptForm:
        adapter = presenter.answers.adapter(values[2])
        return PromptForm(prompt, partial(sampling[side].params, values[3:]), values[0], values[1] or "", adapter)

    async def ask(request: gr.Request, prompt: str, *values: Any) -> AsyncGenerator[tuple[Any, ...], None]:  # noqa: ANN401
        half = len(values) // 2
        left, right = form(prompt or "", 0, values[:half]), form(prompt or "", 1, values[half:])
        async with aclosing(shown(compare(presenter, caller_of(request, history), left, right), show)) as updates:
            async for update in updates:
                yield update

    async def resume(request: gr.Request, *names: str) -> AsyncGenerator[tuple[Any, ...], None]:
        async with aclosing(shown(again(presenter, caller_of(request, history), names), show)) as updates:
            async for update in updates:
                yield update

    def end(request: gr.Request, names: tuple[str, ...]) -> None:
        presenter.answers.stop(caller_of(request, history).visitor, *names)

    def show(view: CompareView, sent: bool) -> _Outputs:  # noqa: FBT001
        buttons = start_and_stop(t("compare.generate"), t("compare.stop"), running=view.running, sent=sent)
        sides = [part for side in (view.left, view.right) for part in (side.status, side.output, side.timing)]
        return _Outputs(*[*buttons, *sides, (view.left.id, view.right.id)])

    def tell(*values: Any) -> tuple[str, ...]:  # noqa: ANN401
        half = len(values) // 2
        return tuple(settings_line(t, form("", side, values[side * half :][:half])) for side in range(2))

    page.load(tell, choices, lines, **AT_ONCE)
    gr.on([one.change for one in choices], tell, choices, lines, trigger_mode="always_last", **AT_ONCE)
    ids = gr.State(())
    outputs = _Outputs(*[generate, stop, *parts, ids]).all()
    generate.click(ask, [prompt, *choices], outputs, **QUIET)
    left = shown_before("cg-compare-status-a", "cg-compare-status-b")
    page.load(resume, outputs=outputs, **left, **QUIET)
    stop.click(end, ids, **AT_ONCE)
    return adapters


def _choices(
    presenter: Presenter, settings: Settings, side: str
) -> tuple[SamplingControls, tuple[gr.Radio, gr.Radio, gr.Dropdown]]:
    t = presenter.texts
    name = side.upper()
    starts = {
        "temperature": settings.temperature if side == "a" else 0.8,
        "max_new_tokens": settings.answer_tokens(PROMPT_TOKENS),
    }
    sampling = SamplingControls(t, settings, f"cg-compare-{{}}-{side}", starts, prefix=f"{name}: ")
    with gr.Accordion(f"{name}: {t('chat.settings')}", open=False, elem_id=f"cg-compare-settings-{side}"):
        adapter = build_adapter_choice(t, f"cg-compare-adapter-{side}", prefix=f"{name}: ", base=side == "a")
        sampling.add("temperature", "max_new_tokens")
        form = gr.Radio(
            [(t(f"prompt.format.{kind}"), kind) for kind in ("recipe", "chat", "raw")], value="recipe",
            label=f"{name}: {t('prompt.format')}", elem_id=f"cg-compare-format-{side}",
        )  # fmt: skip
        kernel = gr.Radio(
            [(t("compare.kernel.own"), ""), (t("compare.kernel.bigdl"), "bigdl")], value="",
            label=f"{name}: {t('timing.kernel')}", elem_id=f"cg-compare-kernel-{side}",
        )  # fmt: skip
        with gr.Accordion(f"{name}: {t('prompt.sampling')}", open=False):
            sampling.add()
    return sampling, (form, kernel, adapter)


def _answer(presenter: Presenter, view: PromptView, side: str) -> list[Any]:
    t = presenter.texts
    output = gr.Textbox(
        label=f"{side.upper()}: {t('prompt.output')}", placeholder=t("prompt.output_placeholder"), lines=6,
        max_lines=20, interactive=False, buttons=["copy"], elem_id=f"cg-compare-output-{side}",
    )  # fmt: skip
    status = gr.HTML(view.status, elem_id=f"cg-compare-status-{side}")
    with gr.Accordion(f"{side.upper()}: {t('chat.figures')}", open=False, elem_id=f"cg-compare-figures-{side}"):
        timing = gr.HTML(view.timing, elem_id=f"cg-compare-timing-{side}")
    return [status, output, timing]
