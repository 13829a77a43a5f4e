"""The answers of one request: several prompts, and several answers to each.

Of the answers to one prompt the first begins alone; the others follow when the prompt is read, so that they need not
read it again where the family can reuse it. Knows tickets, and nothing of the forms in which answers are sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from chatglm_backend.api.tools import text_of
from chatglm_backend.core import Completed, Event, GenerationRequest, PromptChances, TokenChance, TokenEvent
from chatglm_backend.errors import EngineFailure
from chatglm_backend.sentences import Sentence
from chatglm_backend.serving.ticket import Ticket
from chatglm_backend.tokenizers.tools import ReplyReader, ToolCall

Reader = Callable[[], ReplyReader]
"""Makes the reader of one answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One whole answer, its text without the calls of tools."""

    text: str
    calls: Sequence[ToolCall]
    chances: list[tuple[TokenChance, ...]]
    end: Completed
    prompt_chances: Sequence[tuple[TokenChance, ...]] = ()


class Choices:
    """``prompts`` with ``count`` answers each: number i answers prompt ``i // count``. At most ``at_once`` are made."""

    def __init__(
        self,
        prompts: Sequence[GenerationRequest],
        count: int,
        submit: Callable[[GenerationRequest], Awaitable[Ticket]],
        *,
        at_once: int,
    ) -> None:
        self._requests = [_numbered(one, number, count) for one in prompts for number in range(count)]
        self._count = count
        self._submit = submit
        self._room = asyncio.Semaphore(at_once)
        self._read = [asyncio.Event() for _ in prompts]
        self._tickets: dict[int, Ticket] = {}
        self._told: asyncio.Queue[tuple[int, list[Event] | Exception]] = asyncio.Queue()

    async def begin(self) -> None:
        """Queue the first; what it raises is the whole request's refusal."""
        self._tickets[0] = await self._submit(self._requests[0])

    def cancel(self) -> None:
        """End all."""
        for ticket in self._tickets.values():
            ticket.cancel()

    async def follow(self, heartbeat_s: float | None = None) -> AsyncGenerator[tuple[int, list[Event]], None]:
        """Which answer, and what happens to it; nothing for ``heartbeat_s`` is an empty list.

        Raises the first error of any.
        """
        tasks = [asyncio.ensure_future(self._make(index)) for index in range(len(self._requests))]
        left = len(tasks)
        try:
            while left:
                try:
                    index, found = await asyncio.wait_for(self._told.get(), heartbeat_s)
                except (TimeoutError, asyncio.TimeoutError):
                    index, found = 0, []
                if isinstance(found, Exception):
                    raise found
                left -= any(isinstance(event, Completed) for event in found)
                yield index, found
        finally:
            self.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def collect(self, reader: Reader | None = None) -> list[Answer]:
        """All answers, whole; each ``reader`` finds one's calls of tools."""
        told: list[list[Event]] = [[] for _ in self._requests]
        async with aclosing(self.follow()) as following:
            async for index, events in following:
                told[index] += events
        return [_whole(events, reader() if reader else None) for events in told]

    async def _make(self, index: int) -> None:
        prompt, number = divmod(index, self._count)
        try:
            if number:
                await self._read[prompt].wait()
            async with self._room:
                if index not in self._tickets:
                    self._tickets[index] = await self._submit(self._requests[index])
                async for batch in self._tickets[index].follow():
                    events = [logged.event for logged in batch]
                    if any(isinstance(event, (TokenEvent, Completed)) for event in events):
                        self._read[prompt].set()
                    self._told.put_nowait((index, events))
        except Exception as error:  # noqa: BLE001 - raised again by whoever follows
            self._told.put_nowait((index, error))


def _whole(events: Sequence[Event], reader: ReplyReader | None) -> Answer:
    said = [event for event in events if isinstance(event, (TokenEvent, Completed))]
    chances = [event.chances for event in said if isinstance(event, TokenEvent)]
    end = said[-1]
    if not isinstance(end, Completed):
        raise EngineFailure(reason=Sentence("engine.broke_off"))
    text = "".join(text_of(event, reader) for event in said)
    prompt = next((event.chances for event in events if isinstance(event, PromptChances)), ())
    return Answer(text, reader.calls if reader else (), chances, end, prompt)


def _numbered(request: GenerationRequest, number: int, count: int) -> GenerationRequest:
    """One of ``count`` requests with the same prompt; each has an id, and where there is a seed, one of its own."""
    if number == 0:
        return replace(request, shared=count > 1)
    seed = request.params.seed
    params = request.params if seed is None else replace(request.params, seed=(seed + number) % 2**63)
    return replace(request, request_id=f"{request.request_id}-{number}", params=params)
