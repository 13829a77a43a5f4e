"""One prompt, two settings, two answers side by side. Forms in, views out; knows no components."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace

from chatglm_backend.core import ModelInfo
from chatglm_backend.errors import ChatGLMError
from chatglm_backend.sentences import Texts
from chatglm_backend.ui.answers import Caller, PageAnswers, Watch
from chatglm_backend.ui.ports import PageService
from chatglm_backend.ui.presenter import PromptForm
from chatglm_backend.ui.progress import Answer
from chatglm_backend.ui.render import answer_status, empty_prompt, timing_panel, used_memory

__all__ = ["ComparePresenter", "CompareView", "SideView"]

_PACE_S = 0.2


@dataclass(frozen=True, slots=True)
class SideView:
    """One of the two answers at a moment."""

    status: str
    output: str
    timing: str


@dataclass(frozen=True, slots=True)
class CompareView:
    """The page at a moment. ``ids`` name both answers."""

    running: bool
    left: SideView
    right: SideView
    ids: tuple[str, ...] = ()


class ComparePresenter:
    """The Compare page's logic in one language."""

    def __init__(self, service: PageService, answers: PageAnswers, texts: Texts) -> None:
        self.texts = texts
        self.answers = answers
        self._service = service

    def blank(self) -> CompareView:
        """The page before an answer."""
        return self._view(None, None)

    async def generate(self, caller: Caller, left: PromptForm, right: PromptForm) -> AsyncGenerator[CompareView, None]:
        """Views of both answers until both have ended."""
        if not left.prompt.strip():
            empty = SideView(empty_prompt(self.texts), "", self._timing(None))
            yield CompareView(running=False, left=empty, right=empty)
            return
        answers = [Answer(), Answer()]
        kernels = (left.kernel, right.kernel)
        watches = (self.answers.open("compare a", caller), self.answers.open("compare b", caller))
        ids = tuple(watch.answer.id for watch in watches)
        changed = asyncio.Event()
        tasks = [
            asyncio.create_task(self._follow(watch, form, answers, side, changed))
            for side, (watch, form) in enumerate(zip(watches, (left, right), strict=True))
        ]
        try:
            changed.set()
            while True:
                await changed.wait()
                changed.clear()
                ended = all(task.done() for task in tasks)
                yield replace(self._view(*answers, running=not ended, kernels=kernels), ids=ids)
                if ended:
                    return
                await _pace(tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(
        self, watch: Watch, form: PromptForm, answers: list[Answer], side: int, changed: asyncio.Event
    ) -> None:
        try:
            await self.answers.submit(watch.answer, form.request(watch.answer), kernel=form.kernel)
            async with aclosing(self.answers.follow(watch)) as stream:
                async for answers[side] in stream:
                    changed.set()
        except (ChatGLMError, ValueError, OverflowError) as error:
            answers[side].fail(error)
        finally:
            # Once the task counts as done, so that the last view is really the last.
            asyncio.get_running_loop().call_soon(changed.set)

    def _view(
        self,
        left: Answer | None,
        right: Answer | None,
        *,
        running: bool = False,
        kernels: tuple[str, str] = ("", ""),
    ) -> CompareView:
        return CompareView(running=running, left=self._side(left, kernels[0]), right=self._side(right, kernels[1]))

    def _side(self, answer: Answer | None, kernel: str) -> SideView:
        status = answer_status(self.texts, answer, self._service.status())
        return SideView(status, "" if answer is None else answer.text, self._timing(answer, kernel))

    def _timing(self, answer: Answer | None, kernel: str = "") -> str:
        info: ModelInfo | None = self._service.status().info
        if info is not None and kernel:
            info = replace(info, kernel=kernel)
        return timing_panel(self.texts, answer, info, used_memory())


async def _pace(tasks: list[asyncio.Task[None]]) -> None:
    """Ten views a second at most; the end is shown at once."""
    began = time.monotonic()
    await asyncio.wait(tasks, timeout=_PACE_S, return_when=asyncio.ALL_COMPLETED)
    left = 0.01 - (time.monotonic() - began)
    if left > 0:
        await asyncio.sleep(left)
