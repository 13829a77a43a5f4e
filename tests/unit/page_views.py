"""What a page shows, from a presenter's stream to a list."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

V = TypeVar("V")


def shown(stream: Callable[[], AsyncIterator[V]], act: Callable[[V], object] = lambda _: None) -> list[V]:
    """All views of a stream, read to its end in a loop of its own; ``act`` sees each as it comes."""

    async def collect() -> list[V]:
        views = []
        async for view in stream():
            views.append(view)
            act(view)
        return views

    return asyncio.run(asyncio.wait_for(collect(), 60))
