"""One prompt, two settings, two answers side by side. Forms in, views out; knows no components."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace

from chatglm_backend.core import GenerationRequest, ModelInfo
from chatglm_backend.errors import ChatGLMError
from chatglm_backend.ui.i18n import Texts
from chatglm_backend.ui.ports import PageService
from chatglm_backend.ui.presenter import PromptForm
from chatglm_backend.ui.progress import Answer
from chatglm_backend.ui.render import answer_status, empty_prompt, timing_panel, used_memory
from chatglm_backend.ui.runner import AnswerRunner

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
    """The page at a moment."""

    running: bool
    left: SideView
    right: SideView


class ComparePresenter:
    """The Compare page's logic in one language."""

    def __init__(self, service: PageService, runner: AnswerRunner, texts: Texts) -> None:
        self.texts = texts
        self._service = service
        self._runner = runner

    def blank(self) -> CompareView:
        """The page before an answer."""
        return self._view(None, None)

    async def generate(self, session: str, left: PromptForm, right: PromptForm) -> AsyncGenerator[CompareView, None]:
        """Views of both answers until both have ended. Leaving early stops both."""
        if not left.prompt.strip():
            empty = SideView(empty_prompt(self.texts), "", self._timing(None))
            yield CompareView(running=False, left=empty, right=empty)
            return
        answers = [Answer(), Answer()]
        kernels = (left.kernel, right.kernel)
        changed = asyncio.Event()
        tasks = [
            asyncio.create_task(self._follow(session, form, answers, side, changed))
            for side, form in enumerate((left, right))
        ]
        try:
            while True:
                await changed.wait()
                changed.clear()
                ended = all(task.done() for task in tasks)
                yield self._view(*answers, running=not ended, kernels=kernels)
                if ended:
                    return
                await _pace(tasks)
        finally:
            self.stop(session)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def stop(self, session: str) -> None:
        """Stop both answers; their texts stay."""
        self._runner.stop(_key(session))

    async def _follow(
        self, session: str, form: PromptForm, answers: list[Answer], side: int, changed: asyncio.Event
    ) -> None:
        try:
            request: GenerationRequest = form.request(session)
            async with aclosing(self._runner.run(_key(session), request)) as stream:
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


def _key(session: str) -> str:
    return f"{session}/compare"
