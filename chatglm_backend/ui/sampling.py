"""The page's controls for sampling, made from the specification, and what they say as generation parameters."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from chatglm_backend.sampling import GenerationParams, SamplingField, sampling_fields
from chatglm_backend.sentences import Texts
from chatglm_backend.settings import Settings


class SamplingControls:
    """One group of controls: a slider for each number of sampling, a box for the seed.

    Each is laid out where it is added; ``components`` go into an event's inputs, and the values that
    its handler gets for them into :meth:`params`::

        controls = SamplingControls(t, settings, "cg-{}", {"max_new_tokens": settings.answer_tokens(128)})
        controls.add("max_new_tokens")
        with gr.Accordion(t("prompt.sampling"), open=False):
            controls.add()  # all that are left
        button.click(generate, [prompt, *controls.components], ...)

        async def generate(request: gr.Request, prompt: str, *values: float | None) -> ...:
            params = controls.params(values)  # raises InvalidRequest

    Gradio finds ``request`` (and event data) only before ``*values``. Values are the components' own and
    know no language: controls of one page may read those of another language's. ``starts`` are where
    controls stand at first, if not as set; a control that is not added leaves its number as set.
    """

    def __init__(
        self,
        texts: Texts,
        settings: Settings,
        elem_id: str,
        starts: Mapping[str, float] | None = None,
        *,
        prefix: str = "",
    ) -> None:
        self._texts = texts
        self._settings = settings
        self._elem_id = elem_id
        self._starts = starts or {}
        self._prefix = prefix
        self._added: dict[str, Any] = {}

    @property
    def components(self) -> list[Any]:
        """Those added so far, in their order."""
        return list(self._added.values())

    def add(self, *names: str) -> None:
        """Lay these out in the current Blocks; without names, all that are left."""
        for name in names or [name for name in sampling_fields() if name not in self._added]:
            self._added[name] = self._component(sampling_fields()[name])

    def remember(self, page: gr.Blocks) -> None:
        """Let the browser keep what is set here, and set it again when it opens the page."""
        known = [
            [one.elem_id, one.value, getattr(one, "minimum", None), getattr(one, "maximum", None)]
            for one in self.components
        ]
        script = f"() => globalThis.chatglm.settings({json.dumps(known)})"
        page.load(None, None, self.components, js=script, show_progress="hidden", api_visibility="private")

    def params(self, values: Sequence[float | None]) -> GenerationParams:
        """What the components' values say; an empty seed means a new one each time.

        Raises :class:`InvalidRequest` where a number is out of bounds.
        """
        known, given = sampling_fields(), dict(zip(self._added, values, strict=True))
        return self._settings.sampling(
            **{
                name: int(value) if isinstance(value, float) and value.is_integer() else value
                for name, value in given.items()
                if value is not None or known[name].default is None
            }
        )

    def _component(self, found: SamplingField) -> Any:  # noqa: ANN401 - a component is whatever Gradio makes
        value = self._starts.get(found.name, getattr(self._settings, found.name))
        known = self._texts.codes
        texts: dict[str, Any] = {
            "label": self._prefix + self._texts(found.label),
            "info": self._texts(f"{found.label}_info") if f"{found.label}_info" in known else None,
            "elem_id": self._elem_id.format(found.name.replace("_", "-")),
        }
        if found.slider is None:
            return gr.Number(value, precision=0, **texts)
        low, high, step = found.slider
        # What was set beyond the usual range is on the slider, too.
        return gr.Slider(min(low, value), max(high, value), value, step=step, **texts)
