"""One prompt, two settings, two answers side by side. Forms in, views out; knows no components."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from chatglm_backend.errors import InvalidRequest
from chatglm_backend.sampling import sampling_fields
from chatglm_backend.sentences import Texts
from chatglm_backend.ui.answers import Caller, Page
from chatglm_backend.ui.html import alert, paragraph
from chatglm_backend.ui.presenter import Presenter, PromptForm, PromptView

_PACE_S = 0.2
_ALWAYS = ("temperature", "max_new_tokens")
_PAGES: tuple[Page, Page] = ("compare a", "compare b")


@dataclass(frozen=True, slots=True)
class CompareView:
    """The page at a moment."""

    running: bool
    left: PromptView
    right: PromptView


def settings_line(texts: Texts, form: PromptForm) -> str:
    """How a side is set, as a line: what is usual goes without saying."""
    try:
        params = form.params()
    except InvalidRequest as error:
        return alert(texts.say(error))
    values = [(name, field, getattr(params, name)) for name, field in sampling_fields().items()]
    parts = [
        f"{texts(field.label)} {value:g}"
        for name, field, value in values
        if value is not None and (name in _ALWAYS or value != field.default)
    ]
    parts.append(texts(f"prompt.format.{form.prompt_format}"))
    parts += [name for name in (form.kernel, form.adapter) if name]
    return paragraph(" · ".join(parts), "cg-note")


def compare(
    presenter: Presenter, caller: Caller, left: PromptForm, right: PromptForm
) -> AsyncGenerator[CompareView, None]:
    """Views of both answers until both have ended."""
    sides = zip((left, right), _PAGES, strict=True)
    return _together(presenter, [presenter.generate(caller, form, page) for form, page in sides])


async def again(presenter: Presenter, caller: Caller, names: Sequence[str]) -> AsyncGenerator[CompareView, None]:
    """Both answers of these names once more, on a page that was loaded anew; nothing where none is known."""
    if not any(presenter.answers.known(page, caller, name) for page, name in zip(_PAGES, names, strict=True)):
        return
    sides = [presenter.resume(caller, name, page) for page, name in zip(_PAGES, names, strict=True)]
    async with aclosing(_together(presenter, sides)) as views:
        async for view in views:
            yield view


async def _together(
    presenter: Presenter, answers: Sequence[AsyncGenerator[PromptView, None]]
) -> AsyncGenerator[CompareView, None]:
    sides = [presenter.blank(), presenter.blank()]
    changed = asyncio.Event()

    async def follow(side: int) -> None:
        try:
            async with aclosing(answers[side]) as views:
                async for sides[side] in views:
                    changed.set()
        finally:
            # Once the task counts as done, so that the last view is really the last.
            asyncio.get_running_loop().call_soon(changed.set)

    tasks = [asyncio.create_task(follow(side)) for side in range(2)]
    ended = False
    try:
        while not ended:
            await changed.wait()
            changed.clear()
            ended = all(task.done() for task in tasks)
            yield CompareView(not ended, *sides)
            await asyncio.wait(tasks, timeout=_PACE_S, return_when=asyncio.ALL_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
