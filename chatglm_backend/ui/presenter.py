"""What happens when people use the Prompt page: forms in, views out.

Pure Python: views hold text and small HTML, and the page module turns them into components.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files

from chatglm_backend.core import FinishReason, GenerationParams, GenerationRequest, Message, ModelState, PromptFormat
from chatglm_backend.errors import ChatGLMError
from chatglm_backend.sentences import Texts
from chatglm_backend.service import Service
from chatglm_backend.tokenizers.code import code_prompt
from chatglm_backend.ui.adapters import AdapterChoice, adapter_choice
from chatglm_backend.ui.answers import Caller, Page, PageAnswer, PageAnswers, Watch
from chatglm_backend.ui.conversation import SYSTEM_FAMILIES
from chatglm_backend.ui.html import named, paragraph
from chatglm_backend.ui.progress import Answer
from chatglm_backend.ui.render import (
    answer_status,
    empty_prompt,
    example_chips,
    machine_table,
    model_card,
    model_facts,
    timing_panel,
    used_memory,
)


@dataclass(frozen=True, slots=True)
class PromptForm:
    """What the visitor set. ``params`` raises InvalidRequest for bad numbers; ``adapter`` names a fine-tune.

    ``language`` is that of the code, for a model that completes code.
    ``json_schema`` is what the answer must fit; ``None``: it is text.
    """

    prompt: str
    params: Callable[[], GenerationParams] = GenerationParams
    prompt_format: PromptFormat = "recipe"
    kernel: str = ""
    adapter: str = ""
    language: str = ""
    json_schema: str | None = None

    def request(self, answer: PageAnswer) -> GenerationRequest:
        """The request for an answer. Raises InvalidRequest if a value is out of range."""
        return GenerationRequest(
            answer.id,
            answer.visitor,
            prompt=code_prompt(self.language, self.prompt),
            prompt_format=self.prompt_format,
            params=self.params(),
            adapter=self.adapter,
            json_schema=self.json_schema,
        )


@dataclass(frozen=True, slots=True)
class PromptView:
    """The Prompt page at a moment. ``sent`` is ``None`` while the exact prompt has not changed.

    ``id`` names the answer that it shows, empty where it shows none; one that is ``unfinished`` can be gone on with.
    """

    running: bool
    status: str
    output: str
    timing: str
    sent: str | None = None
    id: str = ""
    unfinished: bool = False


@dataclass(frozen=True, slots=True)
class HeaderView:
    """The model's card and what suits it. ``settled`` says that nothing will change by itself.

    ``system`` says how the model is given a system prompt, empty where it cannot be; ``prompt_format`` is the one to
    begin with. A model that ``completes_code`` does not chat, and is told a language.
    """

    card: str
    examples: str
    facts: str
    settled: bool
    system: str = ""
    prompt_format: PromptFormat = "recipe"
    completes_code: bool = False
    takes_tools: bool = False


class Presenter:
    """The page's logic in one language."""

    def __init__(self, service: Service, answers: PageAnswers, texts: Texts) -> None:
        self.texts = texts
        self.answers = answers
        self.service = service

    def header(self) -> HeaderView:
        """The top of the page as it is now."""
        status = self.service.status()
        demo = status.info is not None and status.info.is_demo
        prompts = _demo_examples(self.texts.language) if demo else ()
        code = status.info is not None and status.info.completes_code
        completes = status.info is not None and status.info.completes
        if code:
            prompts = (self.texts("examples.code.1"), self.texts("examples.code.2"))
        prompts = prompts or (self.texts("examples.1"), self.texts("examples.2"), self.texts("examples.3"))
        return HeaderView(
            card=model_card(self.texts, status),
            examples=example_chips(self.texts, prompts),
            facts=model_facts(self.texts, status.info) + machine_table(self.texts, self.service.machines()),
            settled=status.state is not ModelState.LOADING,
            system="" if code or status.info is None else self._system(status.info.family),
            prompt_format="raw" if completes else "recipe",
            completes_code=code,
            takes_tools=status.info is not None and status.info.tools,
        )

    def _system(self, family: str) -> str:
        role = "role" if family in SYSTEM_FAMILIES else "front"
        return f"{self.texts('chat.system_info')} {self.texts(f'chat.system_{role}')}"

    def language(self, chosen: str | None) -> str:
        """The language that a prompt is to begin with: none where the model does not complete code."""
        return (chosen or "") if self.header().completes_code else ""

    def completion_note(self) -> str:
        """What the Chat page says of a model that only completes code or texts; empty for any other."""
        info = self.service.status().info
        if info is None or not info.completes:
            return ""
        return paragraph(self.texts("chat.code_only" if info.completes_code else "chat.text_only"), "cg-demo", "note")

    def choice(self, chosen: str | None, *, lasting: bool = False) -> AdapterChoice:
        """Which fine-tunes a page offers now."""
        return adapter_choice(self.texts, self.service.status().info, chosen, lasting=lasting)

    def blank(self) -> PromptView:
        """The Prompt page before an answer."""
        return self._view(None, "")

    async def generate(
        self, caller: Caller, form: PromptForm, page: Page = "prompt"
    ) -> AsyncGenerator[PromptView, None]:
        """Views of one answer, from the click to its end."""
        if not form.prompt.strip():
            yield replace(self.blank(), status=empty_prompt(self.texts))
            return
        watch = self.answers.open(page, caller)
        yield self._view(Answer(), "", watch.answer, form.kernel)
        answers = self.answers.follow(watch, partial(form.request, watch.answer), kernel=form.kernel)
        async with aclosing(self._views(watch, answers, form.kernel)) as views:
            async for view in views:
                yield view

    async def go_on(
        self, caller: Caller, name: str, params: Callable[[], GenerationParams]
    ) -> AsyncGenerator[PromptView, None]:
        """Views of the answer of this name as it goes on where it ended; nothing if it is not known any more."""
        before = self.answers.known("prompt", caller, name)
        if before is None or before.ticket is None:
            return
        watch, text = self.answers.open("prompt", caller), before.ticket.text
        watch.answer.begun = before.begun + text
        yield self._view(Answer(), None, watch.answer)
        asked, name = before.ticket.request, watch.answer.id
        request = lambda: replace(self._continued(asked, text), request_id=name, params=params())  # noqa: E731
        answers = self.answers.follow(watch, request)
        async with aclosing(self._views(watch, answers)) as views:
            async for view in views:
                yield view

    def _continued(self, asked: GenerationRequest, text: str) -> GenerationRequest:
        """What was asked, and ``text``, which was answered, as the beginning of the answer."""
        if asked.prompt is None:
            last = Message("assistant", asked.messages[-1].content + text)
            return replace(asked, messages=(*asked.messages[:-1], last))
        if asked.prompt_format == "chat":
            return replace(asked, prompt=None, messages=(Message("user", asked.prompt), Message("assistant", text)))
        return replace(asked, begun=asked.begun + text)

    async def resume(self, caller: Caller, name: str = "", page: Page = "prompt") -> AsyncGenerator[PromptView, None]:
        """The answer of this name once more, or the one that this visitor's page lost a moment ago, if there is one."""
        watch = self.answers.again(page, caller, name) or self.answers.resume(page, caller, left=True)
        if watch is not None:
            kernel = "" if watch.answer.ticket is None else watch.answer.ticket.kernel
            async with aclosing(self._views(watch, self.answers.follow(watch), kernel)) as views:
                async for view in views:
                    yield view

    def clear(self, caller: Caller) -> PromptView:
        """An empty page; an answer that nobody else watches is stopped."""
        blank = self.blank()
        self.answers.turn("prompt", caller, blank)
        return blank

    async def _views(
        self, watch: Watch, answers: AsyncGenerator[Answer, None], kernel: str = ""
    ) -> AsyncGenerator[PromptView, None]:
        exact = ""
        async with aclosing(answers):
            async for answer in answers:
                sent = None
                if not exact and watch.answer.ticket and self.service.status().state is ModelState.READY:
                    sent = exact = await self._exact_prompt(watch.answer.ticket.request)
                yield self._view(answer, sent, watch.answer, kernel)
        if watch.instead is not None:
            yield watch.instead

    async def _exact_prompt(self, request: GenerationRequest) -> str:
        try:
            return (await asyncio.to_thread(self.service.preview_prompt, request)).text
        except ChatGLMError:
            return ""  # the answer itself says what is wrong

    def _view(
        self, answer: Answer | None, sent: str | None, shown: PageAnswer | None = None, kernel: str = ""
    ) -> PromptView:
        status = self.service.status()
        info = replace(status.info, kernel=kernel) if status.info is not None and kernel else status.info
        text = "" if answer is None else answer.text
        ended = answer is not None and not answer.running and answer.finish_reason is not FinishReason.STOP
        return PromptView(
            running=answer is not None and answer.running,
            status=named(answer_status(self.texts, answer, status), "" if shown is None else shown.id),
            output=text if shown is None else shown.begun + text,
            timing=timing_panel(self.texts, answer, info, used_memory()),
            sent=sent,
            id="" if shown is None else shown.id,
            unfinished=ended and bool(text) and shown is not None and _goes_on(shown),
        )


def _goes_on(answer: PageAnswer) -> bool:
    """JSON is made whole or not at all."""
    return answer.ticket is not None and answer.ticket.request.json_schema is None


def _demo_examples(language: str) -> tuple[str, ...]:
    source = files("chatglm_backend") / "demo_model" / "examples.json"
    try:
        known = json.loads(source.read_text(encoding="utf-8-sig"))
        prompts = known.get(language) or known["en"]
    except (OSError, ValueError, KeyError):
        return ()
    return tuple(str(prompt) for prompt in prompts)[:6]
