"""What happens when people use the Prompt page: forms in, views out.

Pure Python: views hold text and small HTML, and the page module turns them into components.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from importlib.resources import files

from chatglm_backend.core import GenerationParams, GenerationRequest, ModelState, PromptFormat
from chatglm_backend.errors import ChatGLMError
from chatglm_backend.ui.conversation import SYSTEM_FAMILIES
from chatglm_backend.ui.i18n import Texts
from chatglm_backend.ui.live import LiveAnswers
from chatglm_backend.ui.ports import PageService
from chatglm_backend.ui.progress import Answer
from chatglm_backend.ui.render import (
    answer_status,
    empty_prompt,
    example_chips,
    model_card,
    model_facts,
    timing_panel,
    used_memory,
)
from chatglm_backend.ui.runner import AnswerRunner

__all__ = ["HeaderView", "Presenter", "PromptForm", "PromptView"]


@dataclass(frozen=True, slots=True)
class PromptForm:
    """What the visitor set. Numbers come as the components give them; ``seed`` ``None`` means a new one each time."""

    prompt: str
    max_new_tokens: float = 128
    prompt_format: PromptFormat = "recipe"
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: float = 0
    repetition_penalty: float = 1.0
    seed: float | None = None
    kernel: str = ""

    def request(self, session: str) -> GenerationRequest:
        """The request for the engine.

        Raises:
            InvalidRequest: if a value is out of range.
        """
        return GenerationRequest(
            request_id=secrets.token_hex(8),
            visitor=session,
            prompt=self.prompt,
            prompt_format=self.prompt_format,
            kernel=self.kernel,
            params=GenerationParams(
                max_new_tokens=int(self.max_new_tokens),
                temperature=float(self.temperature),
                top_p=float(self.top_p),
                top_k=int(self.top_k),
                repetition_penalty=float(self.repetition_penalty),
                seed=None if self.seed is None else int(self.seed),
            ),
        )


@dataclass(frozen=True, slots=True)
class PromptView:
    """The Prompt page at a moment. ``sent`` is ``None`` while the exact prompt has not changed.

    ``answer`` and ``request`` are what it shows, ``None`` where it shows no answer.
    """

    running: bool
    status: str
    output: str
    timing: str
    sent: str | None = None
    answer: Answer | None = None
    request: GenerationRequest | None = None


@dataclass(frozen=True, slots=True)
class HeaderView:
    """The model's card and what suits it. ``settled`` says that nothing will change by itself.

    ``takes_system`` says whether the family reads a system prompt.
    """

    card: str
    examples: str
    facts: str
    settled: bool
    takes_system: bool = False


class Presenter:
    """The page's logic in one language. ``live`` holds the running answers of all languages' pages.

    ``run`` names one answer among those of a page, for stopping it.
    """

    def __init__(
        self, service: PageService, runner: AnswerRunner, texts: Texts, live: LiveAnswers[PromptView] | None = None
    ) -> None:
        self.texts = texts
        self.live: LiveAnswers[PromptView] = LiveAnswers() if live is None else live
        self._service = service
        self._runner = runner

    def header(self) -> HeaderView:
        """The top of the page as it is now."""
        status = self._service.status()
        demo = status.info is not None and status.info.is_demo
        prompts = _demo_examples(self.texts.language) if demo else ()
        prompts = prompts or (self.texts("examples.1"), self.texts("examples.2"), self.texts("examples.3"))
        return HeaderView(
            card=model_card(self.texts, status),
            examples=example_chips(self.texts, prompts),
            facts=model_facts(self.texts, status.info),
            settled=status.state is not ModelState.LOADING,
            takes_system=status.info is not None and status.info.family in SYSTEM_FAMILIES,
        )

    def load(self, model: str) -> HeaderView:
        """Begin loading a folder or hub id; an empty one loads the default again."""
        self._service.load(model.strip() or None)
        return self.header()

    def cancel_load(self) -> HeaderView:
        """Stop loading."""
        self._service.cancel_load()
        return self.header()

    def blank(self) -> PromptView:
        """The Prompt page before an answer."""
        return self._view(None, sent="")

    async def generate(self, session: str, form: PromptForm, run: str = "") -> AsyncGenerator[PromptView, None]:
        """Views of one answer, from the click to its end."""
        if not form.prompt.strip():
            yield PromptView(
                running=False, status=empty_prompt(self.texts), output="", timing=self._timing(None), sent=""
            )
            return
        try:
            request = form.request(session)
        except (ChatGLMError, ValueError, OverflowError) as error:
            answer = Answer()
            answer.fail(error)
            yield self._view(answer)
            return
        sent: str | None = ""
        async with aclosing(self._runner.run(session + run, request)) as answers:
            async for answer in answers:
                if not sent and self._service.status().state is ModelState.READY:
                    sent = await self._exact_prompt(request)
                    yield self._view(answer, request, sent)
                else:
                    yield self._view(answer, request)

    def stop(self, session: str, run: str = "") -> None:
        """Stop an answer; its text stays."""
        self._runner.stop(session + run)

    async def again(self, view: PromptView) -> PromptView:
        """The same moment for a page that was just opened, in this presenter's language."""
        if view.request is None:
            return view
        return self._view(view.answer, view.request, await self._exact_prompt(view.request))

    def follow(self, view: PromptView) -> PromptView:
        """A later moment of what :meth:`again` showed."""
        return self._view(view.answer, view.request)

    async def _exact_prompt(self, request: GenerationRequest) -> str:
        try:
            return (await asyncio.to_thread(self._service.preview_prompt, request)).text
        except ChatGLMError:
            return ""  # the answer itself says what is wrong

    def _view(
        self, answer: Answer | None, request: GenerationRequest | None = None, sent: str | None = None
    ) -> PromptView:
        status = self._service.status()
        return PromptView(
            running=answer is not None and answer.running,
            status=answer_status(self.texts, answer, status),
            output="" if answer is None else answer.text,
            timing=self._timing(answer),
            sent=sent,
            answer=answer,
            request=request,
        )

    def _timing(self, answer: Answer | None) -> str:
        return timing_panel(self.texts, answer, self._service.status().info, used_memory())


def _demo_examples(language: str) -> tuple[str, ...]:
    source = files("chatglm_backend") / "demo_model" / "examples.json"
    try:
        prompts = json.loads(source.read_text(encoding="utf-8-sig"))[language]
    except (OSError, ValueError, KeyError):
        return ()
    return tuple(str(prompt) for prompt in prompts)[:6]
