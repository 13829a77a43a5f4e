"""One machine's engine, as a front in another process drives it.

What it tells waits until the front asks, and that the front asks is the sign that it lives: an engine that was
not asked for ``lease_s`` stops all answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from chatglm_backend import __version__
from chatglm_backend.cluster.ports import Measured, Report
from chatglm_backend.core import AdapterInfo, Clock, Event, FinishReason, GenerationRequest, monotonic_clock
from chatglm_backend.errors import ChatGLMError, EngineFailure, ModelNotReady, RequestError
from chatglm_backend.sentences import Sentence
from chatglm_backend.service import LoadedModel, Loader, Service, load_model
from chatglm_backend.service.loading import Loading
from chatglm_backend.settings import Settings

if TYPE_CHECKING:
    from chatglm_backend.serving.ticket import Ticket
    from chatglm_backend.tokenizers.base import EncodedPrompt

_log = logging.getLogger(__name__)
_HEARTBEAT_S, _PACE_S = 0.25, 0.02


class Replica:
    """All methods belong to one event loop. ``settings`` are the front's, but for what is this machine's own."""

    def __init__(
        self,
        settings: Settings,
        *,
        loader: Loader = load_model,
        lease_s: float = 5.0,
        clock: Clock = monotonic_clock,
        environ: dict[str, str] | None = None,
    ) -> None:
        self._loader, self._lease_s, self._clock = loader, lease_s, clock
        own = replace(settings, kv_disk_mb=0)
        self._notes: list[Sentence] = []
        self._service = Service(own, note=self._note, loader=self._load, env=environ)
        self._loaded: LoadedModel | None = None
        self._number = 0
        self._session = ""
        self._asked = self._told = 0.0
        self._tickets: dict[str, Ticket] = {}
        self._taken: dict[str, FinishReason | None] = {}  # with the reason for which it is to end
        self._tasks: set[asyncio.Task[None]] = set()
        self._news: list[tuple[str, Event | RequestError]] = []
        self._changed = asyncio.Event()

    async def attach(self, session: str) -> str:
        """A front is there, perhaps again: what was left from before is stopped. Returns this program's version."""
        self._stop_all()
        if not self._session:
            self._begin(self._mind_lease())
        self._session, self._asked, self._news = session, self._clock(), []
        return __version__

    async def load(self, model: str | None, number: int) -> None:
        """Begin loading; a loading of this number is not begun again."""
        if number != self._number:
            self._number, self._notes = number, []
            self._service.load(model)

    async def cancel_load(self) -> None:
        """Stop it."""
        self._service.cancel_load()

    async def measure(self, request: GenerationRequest) -> Measured:
        """How long a prompt is. Raises what refuses it, and ModelNotReady."""
        found = await asyncio.to_thread(self._ready().worker.measure, request)
        return Measured(found.prompt_tokens, found.kv_bytes)

    async def encode(self, request: GenerationRequest) -> EncodedPrompt:
        """The exact prompt. Raises ModelNotReady."""
        return await asyncio.to_thread(self._service.preview_prompt, request)

    async def decode(self, ids: Sequence[int]) -> str:
        """The text of ids. Raises ModelNotReady."""
        return self._service.decode(ids)

    async def add_adapter(self, source: str) -> AdapterInfo:
        """Offer a fine-tune beside the model. Raises ModelNotReady, AdapterError."""
        return await asyncio.to_thread(self._service.add_adapter, source)

    async def remove_adapter(self, name: str) -> AdapterInfo:
        """Offer it no more. Raises ModelNotReady, UnknownAdapter."""
        return self._service.remove_adapter(name)

    async def submit(self, session: str, request: GenerationRequest) -> None:
        """Begin an answer; whatever becomes of it is news."""
        self._taken[request.request_id] = None
        self._begin(self._answer(session, request))

    async def cancel(self, request_id: str, reason: FinishReason) -> None:
        """Stop an answer, if it is here."""
        if request_id in self._taken:
            self._taken[request_id] = reason
        if request_id in self._tickets:
            self._tickets[request_id].cancel(reason)

    async def poll(self, session: str) -> Report:
        """The news: at once where there are any, without any after a heartbeat's time."""
        if session == self._session:
            self._asked = self._clock()
            await asyncio.sleep(self._told + _PACE_S - self._asked)  # so that many tokens come in one report
            if not self._news:
                with contextlib.suppress(asyncio.TimeoutError, TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), _HEARTBEAT_S)
        news: tuple[tuple[str, Event | RequestError], ...] = ()
        if session == self._session:
            news, self._news = tuple(self._news), []
            self._changed.clear()
            self._asked = self._told = self._clock()
        loaded = self._loaded
        places = 0 if loaded is None else loaded.worker.options.max_running
        return Report(news, self._service.status(), self._number, places, frozenset(self._taken), tuple(self._notes))

    async def stop(self) -> None:
        """End all answers: their front cannot go on."""
        self._stop_all()

    async def close(self) -> None:
        """Stop everything."""
        self._stop_all()
        await asyncio.to_thread(self._service.close)
        for task in tuple(self._tasks):
            task.cancel()

    def _note(self, note: Sentence) -> None:
        _log.info("%s", note)
        self._notes.append(note)

    def _load(self, model: str | None, how: Loading) -> LoadedModel:
        self._loaded = None  # two never lie in memory together
        gc.collect()
        self._loaded = loaded = self._loader(model, how)
        return loaded

    def _ready(self) -> LoadedModel:
        loaded = self._loaded
        if loaded is None or self._service.status().info is None:
            raise ModelNotReady
        return loaded

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, session: str, request: GenerationRequest) -> None:
        name = request.request_id
        try:
            ticket = await asyncio.to_thread(self._service.submit, request)
            if session != self._session:
                ticket.cancel()
                return
            self._tickets[name] = ticket
            if (reason := self._taken.get(name)) is not None:
                ticket.cancel(reason)
            async for batch in ticket.follow():
                self._tell(session, *((name, logged.event) for logged in batch))
        except RequestError as error:
            self._tell(session, (name, error))
        except Exception as error:  # noqa: BLE001 - told to who asked, and logged
            _log.exception("request %s failed", name)
            why = error if isinstance(error, ChatGLMError) else type(error).__name__
            self._tell(session, (name, EngineFailure(reason=why)))
        finally:
            self._tickets.pop(name, None)
            self._taken.pop(name, None)

    def _tell(self, session: str, *news: tuple[str, Event | RequestError]) -> None:
        if session == self._session:
            self._news.extend(news)
            self._changed.set()

    def _stop_all(self) -> None:
        self._taken = dict.fromkeys(self._taken, FinishReason.CANCELLED)
        for ticket in self._tickets.values():
            ticket.cancel()

    async def _mind_lease(self) -> None:
        while True:
            await asyncio.sleep(self._lease_s / 5)
            if self._clock() - self._asked > self._lease_s and self._taken:
                _log.warning("the front has not asked for %.0f s: its answers are stopped", self._lease_s)
                self._stop_all()
