"""Gradio's pages made as a server makes them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def in_loop(make: Callable[[], T]) -> T:
    """Make something while a loop runs: without one, Gradio makes some of its own and leaves them open."""

    async def made() -> T:
        return make()

    return asyncio.run(made())
