"""From a checked request of OpenAI's kind to its answers, for whoever asks: the routes, and batches.

Any model name is accepted, because one model answers; replies name the real one. Knows no HTTP but its statuses.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any, Literal

from chatglm_backend.api.choices import Choices, Reader
from chatglm_backend.api.files import with_files
from chatglm_backend.api.problems import Problem, problem_of
from chatglm_backend.api.replies import Shape, finish_word
from chatglm_backend.api.schemas import ChatRequest, CompletionRequest
from chatglm_backend.api.tools import conversation, offered
from chatglm_backend.core import GenerationRequest, Message, Usage
from chatglm_backend.documents.reading import DocumentReader
from chatglm_backend.errors import ContextLimitExceeded, InvalidRequest, ModelNotReady
from chatglm_backend.sentences import Sentence
from chatglm_backend.service import Service
from chatglm_backend.serving.ticket import Ticket
from chatglm_backend.settings import Settings
from chatglm_backend.tokenizers.tools import ReplyReader

_READERS = 2
STOPPED = Problem(503, "The answer was stopped before its end. Try again.", "cancelled")


@dataclass(frozen=True, slots=True)
class Begun:
    """A request whose answers are being made. ``echoes`` stand before each; ``count`` answers belong to a prompt.

    Where ``prompt_chances`` are told, an echo comes with them.
    """

    choices: Choices
    shape: Shape
    echoes: Sequence[str]
    count: int
    reader: Reader | None
    prompt_chances: bool = False

    async def whole(self) -> dict[str, Any]:
        """The reply in one piece. Raises the first error of any answer, and a Problem for one that was stopped."""
        answers = await self.choices.collect(self.reader)
        made = []
        for index, (echo, answer) in enumerate(zip(self.echoes, answers, strict=True)):
            finish = finish_word(answer.end.finish_reason, answer.calls)
            if finish is None:
                raise STOPPED
            chances = [*answer.prompt_chances, *answer.chances]
            made.append(self.shape.choice(index, echo, answer.text, finish, chances, answer.calls))
        return self.shape.whole(made, self.usage([answer.end.usage for answer in answers]))

    def usage(self, usages: Sequence[Usage]) -> Usage:
        """Of all answers; a prompt counts once, however many answers it has."""
        firsts = usages[:: self.count]
        return Usage(
            sum(one.prompt_tokens for one in firsts),
            sum(one.completion_tokens for one in usages),
            cached_tokens=sum(one.cached_tokens for one in firsts),
        )


class Answering:
    """Asks a service; limits are those of ``settings``."""

    def __init__(self, service: Service, settings: Settings, documents: DocumentReader | None = None) -> None:
        self.service = service
        self._settings = settings
        self._documents = documents or DocumentReader(settings.document_mb << 20)
        # Of their own: files that take long must not hold the threads that everybody's requests go through.
        self._reading = ThreadPoolExecutor(_READERS, "documents")

    async def begin(self, body: ChatRequest | CompletionRequest, visitor: str, number: str) -> Begun:
        """Queue a visitor's request; ``number`` becomes part of its id. Raises ChatGLMError or Problem."""
        if isinstance(body, ChatRequest):
            return await self._chat(body, visitor, number)
        asked = {"prompt_format": "raw", "prompt_chances": body.prompt_chances, "prompt_only": body.prompt_only}
        return await self._begin(body, visitor, number, *({"prompt": one, **asked} for one in body.prompt))

    def name(self) -> str:
        """The model's name, also while it is loading."""
        info = self.service.status().info
        if info is not None:
            return info.name
        return PurePath(self._settings.model).name if self._settings.model else "chatglm"

    def names(self) -> list[str]:
        """The model's name and those of its fine-tunes."""
        info = self.service.status().info
        return [self.name(), *(_join(self.name(), one.name) for one in (info.adapters if info else ()))]

    def no_model(self) -> Problem:
        """What is told of a name that is not here."""
        return Problem(404, f"Here there is {', '.join(self.names())}.", "model_not_found", "model")

    async def _chat(self, body: ChatRequest, visitor: str, number: str) -> Begun:
        functions, openings = offered(body.tools or (), body.tool_choice)
        messages = conversation(body.messages, functions)
        if functions or any(turn.role == "tool" for turn in messages):
            self._check_tools("tools" if functions else "messages")
        begun = messages[-1].role == "assistant"
        if begun and openings:
            raise InvalidRequest(field="tool_choice", value="-", reason=Sentence("request.begun_call"))
        if functions and body.json_schema is not None:
            reason = Sentence("request.json_with_tools")
            raise InvalidRequest(field="response_format", value=Sentence("value.with_tools"), reason=reason)
        if any(message.files for message in body.messages):
            loop = asyncio.get_running_loop()
            messages = await loop.run_in_executor(self._reading, self._read_files, body, messages)
        names = tuple(function["name"] for function in functions)
        predicted = body.prediction.content if body.prediction else ""
        asked = {"messages": messages, "prompt_format": "chat", "openings": openings, "predicted": predicted}
        reader = (lambda: ReplyReader(names, begun=begun)) if names else None
        return await self._begin(body, visitor, number, asked, reader=reader)

    async def _begin(
        self,
        body: ChatRequest | CompletionRequest,
        visitor: str,
        number: str,
        *prompts: dict[str, Any],
        reader: Reader | None = None,
    ) -> Begun:
        """``prompts`` are fields of a request, each for a prompt."""
        params, adapter = body.params(self._settings), self._adapter(body.model)
        kind: Literal["chat", "text"] = "chat" if isinstance(body, ChatRequest) else "text"
        name = f"{'chatcmpl' if kind == 'chat' else 'cmpl'}-{number}"
        shared: dict[str, Any] = {"adapter": adapter, "json_schema": body.json_schema}
        wanted = [
            GenerationRequest(f"{name}-p{i}" if i else name, visitor, params=params, **shared, **asked)
            for i, asked in enumerate(prompts)
        ]
        count = body.n or 1
        choices = Choices(wanted, count, self._submit, at_once=self._settings.visitor_limit)
        await choices.begin()
        shape = Shape(kind, name, int(time.time()), _join(self.name(), adapter), body.include_usage)
        told = isinstance(body, CompletionRequest) and body.prompt_chances
        return Begun(choices, shape, [prompt for prompt in body.echoes for _ in range(count)], count, reader, told)

    async def _submit(self, wanted: GenerationRequest) -> Ticket:
        """Queue a request in a thread; if the caller is gone meanwhile, its ticket goes too."""
        timeout_s = self._settings.request_timeout
        submitting = asyncio.ensure_future(asyncio.to_thread(self.service.submit, wanted, timeout_s=timeout_s))
        try:
            return await asyncio.shield(submitting)
        except ContextLimitExceeded as error:
            raise replace(problem_of(error), param="messages" if wanted.prompt is None else "prompt") from error
        except asyncio.CancelledError:
            submitting.add_done_callback(_cancel_result)
            raise

    def _read_files(self, body: ChatRequest, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """The conversation with what its files say. Raises ChatGLMError."""
        info = self.service.status().info
        if info is None:
            raise ModelNotReady

        def count(turns: tuple[Message, ...]) -> int:
            return len(self.service.preview_prompt(GenerationRequest("count", messages=turns)).ids)

        files = [message.files for message in body.messages if message.role == "user"]
        reserve = body.limit(self._settings)
        return with_files(messages, files, self._documents, count, info.context_limit, reserve)

    def _check_tools(self, field: str) -> None:
        """Refuse what ``field`` asks of a model that was not trained for tools."""
        info = self.service.status().info
        if info is not None and not info.tools:
            raise Problem(400, Sentence("request.no_tools", model=info.name), "tools_not_supported", field)

    def _adapter(self, model: str | None) -> str:
        """Which fine-tune a request's ``model`` names: none by the model's own name, the first by a foreign one."""
        info, base = self.service.status().info, self.name()
        if info is None or model == base:
            return ""
        if model is None or not model.startswith(f"{base}:"):
            return info.first_adapter
        if model not in self.names():
            raise self.no_model()
        return model.removeprefix(f"{base}:")


def _join(model: str, adapter: str) -> str:
    return f"{model}:{adapter}" if adapter else model


def _cancel_result(submitting: asyncio.Future[Ticket]) -> None:
    if not submitting.cancelled() and submitting.exception() is None:
        submitting.result().cancel()
