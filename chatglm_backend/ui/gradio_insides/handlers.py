"""No handler ends without a value: Gradio empties every output of a generator that yields nothing."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import gradio as gr

_Handler = Callable[..., AsyncGenerator[Any, None]]


def keep_outputs(page: gr.Blocks) -> None:
    """Let every generator of the page that yields nothing leave its outputs as they are."""
    for event in page.fns.values():
        if inspect.isasyncgenfunction(event.fn):
            event.fn = _or_nothing_new(event.fn, len(event.outputs))


def _or_nothing_new(handler: _Handler, outputs: int) -> _Handler:
    @functools.wraps(handler)
    async def run(*values: Any) -> AsyncGenerator[Any, None]:  # noqa: ANN401  what the components hold
        empty = True
        async with aclosing(handler(*values)) as updates:
            async for update in updates:
                empty = False
                yield update
        if empty:
            yield tuple(gr.skip() for _ in range(outputs)) if outputs > 1 else gr.skip()

    return run


def event_about(event: gr.EventData) -> tuple[int, str]:
    """Which message of a conversation an event is about, and what was typed there; 0 and nothing for a click."""
    data = event._data if isinstance(event._data, dict) else {}
    index, value = data.get("index", 0), data.get("value")
    return (index if isinstance(index, int) else index[0]), value if isinstance(value, str) else ""
