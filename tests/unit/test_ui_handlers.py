"""Handlers always have a value for their outputs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

gr = pytest.importorskip("gradio")


def test_a_generator_that_yields_nothing_leaves_its_outputs_as_they_are() -> None:
    """Gradio would empty them; one that yields is untouched, and both still say which request they were for."""
    from chatglm_backend.ui.gradio_insides.handlers import keep_outputs

    async def says(text: str, request: gr.Request) -> AsyncGenerator[str, None]:
        for word in text.split():
            yield f"{request}:{word}"

    async def says_nothing() -> AsyncGenerator[tuple[str, str], None]:
        for _ in ():
            yield "a", "b"

    async def run() -> list[list[Any]]:
        with gr.Blocks() as page:
            box, other = gr.Textbox(), gr.Textbox()
            box.change(says, box, other)
            page.load(says_nothing, None, [box, other])
        keep_outputs(page)
        said, nothing = (event.fn for event in page.fns.values())
        spoken, silent = [v async for v in said("x y", "r")], [v async for v in said("", "r")]
        return [spoken, silent, [v async for v in nothing()]]

    assert asyncio.run(run()) == [["r:x", "r:y"], [gr.skip()], [(gr.skip(), gr.skip())]]
