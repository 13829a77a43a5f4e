"""What handlers set on a page, by name: the same fields hold the components when wired, and the updates when sent."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, fields
from typing import Any, Protocol, TypeVar

import gradio as gr

from chatglm_backend.ui.answers import Caller
from chatglm_backend.ui.history import History
from chatglm_backend.ui.permission import may_manage

QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
AT_ONCE: dict[str, Any] = {**QUIET, "queue": False}


KEPT: Any = object()
"""What is not named stays as it is."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """Base of a page's outputs: a field for each component, or its update."""

    def all(self) -> list[Any]:
        """The fields' values in their order, as Gradio takes them."""
        values = [getattr(self, one.name) for one in fields(self)]
        return [gr.skip() if value is KEPT else value for value in values]


class _View(Protocol):
    @property
    def running(self) -> bool: ...


V = TypeVar("V", bound=_View)
_AGAIN = 8


async def shown(
    views: AsyncGenerator[V, None], show: Callable[[V, bool], Outputs | Awaitable[Outputs]]
) -> AsyncGenerator[tuple[Any, ...], None]:
    """Updates of a page; ``show`` is told whether its buttons are as they should be while something runs already.

    They are told twice and then again from time to time: an update may reach a page while it is built, and be lost.
    """
    since = 0
    async with aclosing(views):
        async for view in views:
            since = since + 1 if view.running else 0
            found = show(view, since > 2 and since % _AGAIN > 0)
            yield tuple((found if isinstance(found, Outputs) else await found).all())


def shown_before(*statuses: str) -> dict[str, Any]:
    """For a load event: inputs that say which answers these status lines named before this tab was loaded anew."""
    names = ", ".join(f"globalThis.chatglm.left('{status}')" for status in statuses)
    return {"inputs": [gr.Textbox(visible=False) for _ in statuses], "js": f"() => [{names}]"}


def caller_of(request: gr.Request, history: History) -> Caller:
    """Who called a handler, and from which tab."""
    cookies, client = dict(request.cookies), request.client
    name = history.name_of(cookies, client.host if client else None)
    return Caller(name, request.session_hash or "", history.visitor(cookies))


def may_change(request: gr.Request, *, shared: bool) -> bool:
    """Whether the visitor may load and delete models, and see what belongs to this machine."""
    client = request.client
    return may_manage(client.host if client else None, request.headers, shared=shared)
