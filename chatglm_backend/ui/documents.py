"""Documents on their way into a conversation: read when attached, held until they are sent. Knows no components."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from chatglm_backend.core import CancelToken, GenerationRequest
from chatglm_backend.documents.prompt import document_text
from chatglm_backend.documents.reading import Document, DocumentReader
from chatglm_backend.errors import DocumentRefused, ModelNotReady
from chatglm_backend.sentences import Sentence
from chatglm_backend.service import Service
from chatglm_backend.settings import Settings

_READERS, _MOST_HELD, _HELD_S, _CLOSED_S, _TIDY_S = 2, 16, 3600.0, 120.0, 60.0
_MOST_CHARACTERS = 64_000_000
_LOOK_S = 0.3
_COUNTED = 400_000  # of a longer text, the rest is taken to be like the beginning: counting it would take seconds


@dataclass(slots=True)
class _Held:
    """A document, until a moment in seconds; ``tab`` shows it."""

    document: Document
    until: float
    tab: str = ""


class DocumentDesk:
    """What visitors attached and did not send yet; in memory only. One per process; thread-safe.

    A document goes an hour after it was last asked for, and soon after its page was closed: a reload asks for it again.
    """

    def __init__(
        self,
        service: Service,
        settings: Settings,
        reader: DocumentReader | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.max_bytes = settings.document_mb << 20
        self._service = service
        self._reader = reader or DocumentReader(self.max_bytes)
        # Of their own: files that take long must not hold the threads that everybody's requests go through.
        self._pool = ThreadPoolExecutor(_READERS, "attaching")
        self._lock = threading.Lock()
        self._held: dict[tuple[str, str], _Held] = {}
        self._reading: dict[str, int] = {}
        self._clock = clock

    async def keep_tidy(self) -> None:
        """Give up what is old, from time to time."""
        while True:
            await asyncio.sleep(_TIDY_S)
            with self._lock:
                self._tidy()

    async def read(self, visitor: str, name: str, data: bytes, gone: Callable[[], Awaitable[bool]]) -> Document:
        """Read a file, and hold it for the visitor; its process ends when whoever sent it is ``gone``.

        Raises DocumentRefused.
        """
        cancel = CancelToken()
        with self._lock:
            self._tidy()
            held = sum(owner == visitor for owner, _ in self._held) + self._reading.get(visitor, 0)
            if held >= _MOST_HELD:
                raise DocumentRefused(name=name, reason=Sentence("document.too_many", most=_MOST_HELD))
            self._reading[visitor] = self._reading.get(visitor, 0) + 1
        reading = asyncio.get_running_loop().run_in_executor(self._pool, self._read, name, data, cancel)
        try:
            while not (await asyncio.wait({reading}, timeout=_LOOK_S))[0]:
                if await gone():
                    cancel.cancel()
            document = reading.result()
        finally:
            cancel.cancel()
            with self._lock:
                self._reading[visitor] -= 1
                if not self._reading[visitor]:
                    del self._reading[visitor]
        with self._lock:
            self._held[visitor, document.id] = _Held(document, self._clock() + _HELD_S)
            while len(self._held) > 1 and sum(_size(one.document) for one in self._held.values()) > _MOST_CHARACTERS:
                del self._held[next(iter(self._held))]  # its page has it; only after a reload it is gone
        return document

    def held(self, visitor: str, ids: Iterable[str], tab: str) -> tuple[Document, ...]:
        """Those of the visitor's that are still here, each once; ``tab`` shows them from now on."""
        with self._lock:
            self._tidy()
            found = [self._held[visitor, key] for key in dict.fromkeys(ids) if (visitor, key) in self._held]
            for one in found:
                one.tab, one.until = tab, self._clock() + _HELD_S
            return tuple(one.document for one in found)

    def leave(self, tab: str) -> None:
        """The tab has gone: what it showed goes soon, unless it comes back."""
        with self._lock:
            for one in self._held.values():
                if one.tab == tab:
                    one.until = min(one.until, self._clock() + _CLOSED_S)

    def room(self) -> int:
        """How many tokens of documents the model in use can be given whole; 0 without one."""
        info = self._service.status().info
        return 0 if info is None else info.context_limit - info.context_limit // 4

    def keep_only(self, visitor: str, documents: Iterable[Document], before: Iterable[Document]) -> None:
        """Forget those that a page held ``before`` and holds no longer."""
        ids = {one.id for one in documents}
        with self._lock:
            for one in before:
                if one.id not in ids:
                    self._held.pop((visitor, one.id), None)

    def _read(self, name: str, data: bytes, cancel: CancelToken) -> Document:
        if cancel.cancelled:
            raise DocumentRefused(name=name, reason=Sentence("document.slow"))
        document = self._reader.read(name, data, cancel)
        return replace(document, tokens=self._count(document_text((document,))))

    def _count(self, text: str) -> int:
        try:
            some = GenerationRequest("count", prompt=text[:_COUNTED] or " ", prompt_format="raw")
            return len(self._service.preview_prompt(some).ids) * max(len(text), _COUNTED) // _COUNTED
        except ModelNotReady:
            return 0

    def _tidy(self) -> None:
        now = self._clock()
        self._held = {key: one for key, one in self._held.items() if one.until > now}


def _size(document: Document) -> int:
    return sum(map(len, document.pages))
