"""One model's life: none, loading, ready, failed; and the way in for every request.

Thread-safe. How a model is made ready is the loader's business. Knows no page and no HTTP.
"""

from __future__ import annotations

import gc
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from chatglm_backend.checkpoint.places import cache_root, closed_to_others, kv_root
from chatglm_backend.core import (
    AdapterInfo,
    CancelToken,
    GenerationRequest,
    KeptAs,
    LoadProgress,
    MachineStatus,
    ModelInfo,
    ModelState,
    ModelStatus,
)
from chatglm_backend.errors import (
    ChatGLMError,
    EngineFailure,
    LoadCancelled,
    ModelError,
    ModelNotReady,
    NoMachine,
    QueueFull,
    RequestError,
    ShuttingDown,
)
from chatglm_backend.sentences import Sentence
from chatglm_backend.service.adapters import named_source
from chatglm_backend.service.loading import LoadedModel, Loader, Loading, Note, load_model
from chatglm_backend.settings import Settings, with_cache
from chatglm_backend.store.kv_blocks import KVBlocks

if TYPE_CHECKING:
    from chatglm_backend.service.adapters import Adapters
    from chatglm_backend.serving.metrics import Metrics
    from chatglm_backend.serving.ticket import Ticket
    from chatglm_backend.tokenizers.base import EncodedPrompt

_log = logging.getLogger(__name__)
_POLL_S = 0.2
_PATIENCE_S = 0.3


class Service:
    """Thread-safe. One model at a time; nothing is loaded until :meth:`load`."""

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        note: Note = _log.info,
        env: Mapping[str, str] | None = None,
        loader: Loader | None = None,
        machines: Callable[[], tuple[MachineStatus, ...]] = tuple,
    ) -> None:
        """``machines`` tells those that answer, where the ``loader`` has several do so."""
        self.machines = machines
        self.settings = settings or Settings()
        self._note = note
        self._env: Mapping[str, str] = with_cache(self.settings, os.environ if env is None else env)
        self._loader: Loader = loader or load_model
        self._blocks = None
        if self.settings.history and self.settings.kv_disk_mb:
            root, most = kv_root(cache_root(self._env)), self.settings.kv_disk_mb * 1_000_000
            if closed_to_others(root):
                self._blocks = KVBlocks(root, max_bytes=most, days=self.settings.history_days)
            else:
                _log.warning("what was read is not kept in %s: others may write there (chmod go-w)", root)
        self._changed = threading.Condition()
        self._model = self.settings.model
        self._status = ModelStatus(ModelState.NONE)
        self._loaded: LoadedModel | None = None
        self._cancel = CancelToken()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._parked: list[Ticket] = []

    def status(self) -> ModelStatus:
        """A snapshot; a model whose worker has died counts as failed."""
        with self._changed:
            status, loaded, closed = self._status, self._loaded, self._closed
        if status.state is ModelState.LOADING and loaded is not None and self._some_answer():
            status = replace(status, info=loaded.info)  # that of the machines which go on meanwhile
        if status.info is not None and loaded is not None and loaded.adapters is not None:
            status = replace(status, info=replace(status.info, adapters=loaded.adapters.infos()))
        machines = self.machines()
        limits = [one.info.context_limit for one in machines if one.state == "ready" and one.info is not None]
        if status.info is not None and limits:  # what fits every one of them
            status = replace(status, info=replace(status.info, context_limit=min(limits)))
        if closed and status.state is ModelState.READY:
            return ModelStatus(ModelState.FAILED, info=status.info, error=ShuttingDown())
        if status.state is ModelState.READY and loaded is not None and not loaded.worker.healthy:
            return ModelStatus(
                ModelState.FAILED, info=loaded.info, error=EngineFailure(reason=Sentence("engine.worker_stopped"))
            )
        gone = bool(machines) and all(one.state not in ("ready", "leaving") for one in machines)
        if gone and status.state is ModelState.READY:
            return ModelStatus(ModelState.FAILED, info=status.info, error=NoMachine())
        return status

    def load(self, model: str | None = None) -> None:
        """Begin loading ``model`` (``None``: the one of the settings, or the default); returns at once.

        A loading in progress is cancelled; the model in use first answers what it has accepted
        (for at most ``drain_seconds``) and is then given up.
        """
        with self._changed:
            if self._closed:
                return
            self._cancel.cancel()
            self._cancel = cancel = CancelToken()
            previous = self._thread
            self._model = model or self.settings.model
            self._set(ModelStatus(ModelState.LOADING, progress=LoadProgress("find")))
            self._thread = threading.Thread(
                target=self._run, args=(self._model, cancel, previous), name="loading", daemon=True
            )
            self._thread.start()

    def cancel_load(self) -> None:
        """Stop the loading in progress; afterwards there is no model."""
        with self._changed:
            if self._status.state is ModelState.LOADING:
                self._cancel.cancel()

    def wait_ready(self, timeout_s: float | None = None) -> ModelInfo:
        """Wait until loading has ended. Raises its error, or ModelNotReady when time is up."""
        left = float("inf") if timeout_s is None else timeout_s
        with self._changed:
            # In slices: on Windows an endless wait would not hear Ctrl-C.
            while self._status.state is ModelState.LOADING and left > 0:
                self._changed.wait(min(_POLL_S, left))
                left -= _POLL_S
            status = self._status
        if status.state is ModelState.READY and status.info is not None:
            return status.info
        raise status.error or ModelNotReady()

    def preview_prompt(self, request: GenerationRequest) -> EncodedPrompt:
        """The exact prompt of a request. Raises ModelNotReady."""
        return self._ready().encode(request)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, as an answer's is shown. Raises ModelNotReady."""
        decoder = self._ready().tokenizer.stream()
        return "".join([*map(decoder.add, ids), decoder.finish()])

    def submit(
        self,
        request: GenerationRequest,
        *,
        wait: bool = False,
        kernel: str = "",
        disconnect_grace_s: float | None = None,
        timeout_s: float | None = None,
    ) -> Ticket:
        """Take a request in line, for the model's own kernel or one of ``ModelInfo.other_kernels``.

        Raises ModelNotReady and what the worker's ``take`` raises.

        With ``wait``, a ticket that comes while a model is loading waits for it, and ends with the loading's error
        if it has one; without a loading, the error of the last one is raised.
        """
        from chatglm_backend.serving.ticket import Ticket

        ticket = Ticket(
            request, kernel=kernel, disconnect_grace_s=disconnect_grace_s, timeout_s=timeout_s, wake=self._end_cancelled
        )
        with self._changed:
            loaded, status = self._loaded, self._status
            if wait and status.state is ModelState.LOADING and not self._some_answer():
                if len(self._parked) >= self.settings.queue_limit:
                    raise QueueFull(waiting=len(self._parked))
                self._parked.append(ticket)
                return ticket
        if loaded is None:
            raise status.error if wait and isinstance(status.error, ChatGLMError) else ModelNotReady()
        loaded.worker.take(ticket)
        return ticket

    def adapter_names(self) -> tuple[str, ...]:
        """The fine-tunes beside the model; without one, those that the one being loaded will begin with."""
        info = self.status().info
        if info is not None:
            return tuple(one.name for one in info.adapters)
        return tuple(named_source(source)[0] for source in self.settings.adapters_of(self._model))

    def add_adapter(self, source: str, progress: Callable[[LoadProgress], None] | None = None) -> AdapterInfo:
        """Offer a fine-tune, ``path`` or ``name=path``, beside the model; one of a hub is fetched, with ``progress``.

        Raises ModelNotReady, AdapterError.
        """
        return self._adapters().add(source, progress)

    def remove_adapter(self, name: str) -> AdapterInfo:
        """Offer it no more. Raises ModelNotReady, UnknownAdapter."""
        return self._adapters().remove(name)

    def forget(self, kept_as: KeptAs) -> None:
        """Delete what the disk knows of a conversation, or without its name of all of a visitor's."""
        if self._blocks is not None:
            self._blocks.delete(kept_as)

    def metrics(self) -> Metrics | None:
        """The worker's counters; ``None`` without a model."""
        loaded = self._loaded
        return None if loaded is None else loaded.worker.metrics()

    def close(self, drain_s: float = 0.0) -> None:
        """Stop loading, give accepted requests ``drain_s`` seconds, cancel the rest, end all threads.

        Meanwhile new requests get ShuttingDown. A second call, with less time, shortens the first. A loading that does
        not hear that it is cancelled, as one that waits for a hub, is left to end with the program.
        """
        with self._changed:
            self._closed = True
            self._cancel.cancel()
            thread, loaded, self._thread = self._thread, self._loaded, None
        if loaded is not None:
            loaded.close(drain_s)
        if thread is not None:
            thread.join(_PATIENCE_S)
        self._give_up(0.0)
        with self._changed:
            parked, self._parked = self._parked, []
            self._set(ModelStatus(ModelState.NONE))
        for ticket in parked:
            ticket.publish(ShuttingDown())

    def _some_answer(self) -> bool:
        """Whether of several machines any has a model that may be asked."""
        return any(one.state == "ready" for one in self.machines())

    def _adapters(self) -> Adapters:
        adapters = self._ready().adapters
        if adapters is None:
            raise ModelNotReady
        return adapters

    def _ready(self) -> LoadedModel:
        loaded = self._loaded
        if loaded is None:
            raise ModelNotReady
        return loaded

    def _run(self, model: str | None, cancel: CancelToken, previous: threading.Thread | None) -> None:
        """The loading thread: whatever happens ends in a status."""
        if previous is not None:
            previous.join()
        if self._closed or not self.machines():  # several go on with what they have while one of them loads
            self._give_up(0.0 if self._closed else self.settings.drain_seconds)
        try:
            if cancel.cancelled:
                raise LoadCancelled(model=model or "the model")
            how = Loading(self.settings, partial(self._tell, cancel), cancel, self._note, self._env, self._blocks)
            loaded = self._loader(model, how)
        except LoadCancelled as error:
            self._finish(cancel, ModelStatus(ModelState.NONE, error=error), None)
        except ChatGLMError as error:
            self._finish(cancel, ModelStatus(ModelState.FAILED, error=error), None)
        except OSError as error:
            reason = Sentence("file.system", path=error.filename or "–", problem=error.strerror or str(error))
            self._finish(cancel, ModelStatus(ModelState.FAILED, error=ModelError(reason=reason)), None)
        except Exception as error:  # noqa: BLE001 - a status, not a traceback, tells the user
            _log.exception("loading failed")
            failure = ModelError(reason=f"{type(error).__name__}: {error}".rstrip(": "))
            self._finish(cancel, ModelStatus(ModelState.FAILED, error=failure), None)
        else:
            self._finish(cancel, ModelStatus(ModelState.READY, info=loaded.info), loaded)

    def _tell(self, cancel: CancelToken, step: LoadProgress) -> None:
        with self._changed:
            if self._cancel is cancel:
                self._set(ModelStatus(ModelState.LOADING, progress=step))

    def _finish(self, cancel: CancelToken, status: ModelStatus, loaded: LoadedModel | None) -> None:
        with self._changed:
            newest = self._cancel is cancel
            shared = loaded is not None and self._loaded is not None and loaded.worker is self._loaded.worker
            if shared:  # the machines that answer have it now, whether or not somebody wants another by then
                self._loaded = loaded
            elif newest and loaded is not None and cancel.cancelled:
                status = ModelStatus(ModelState.NONE, error=LoadCancelled(model="the model"))
            parked: list[Ticket] = []
            if newest and status.info is None and self._loaded is not None and self._some_answer():
                status = ModelStatus(ModelState.READY, info=self._loaded.info, error=status.error)
            if newest:
                self._loaded = (loaded or self._loaded) if status.info is not None else None
                parked, self._parked = self._parked, parked
                self._set(status)
        if loaded is not None and not shared and (not newest or status.info is None):
            loaded.close()
            loaded = None
        for ticket in parked:
            _hand_over(ticket, loaded, status.error)

    def _end_cancelled(self) -> None:
        """End the tickets that wait for a model no longer."""
        with self._changed:
            gone = [ticket for ticket in self._parked if ticket.cancel_token.cancelled]
            self._parked = [ticket for ticket in self._parked if ticket not in gone]
        for ticket in gone:
            ticket.publish(ticket.end_unserved())

    def _set(self, status: ModelStatus) -> None:
        self._status = status
        self._changed.notify_all()

    def _give_up(self, drain_s: float) -> None:
        """Close the model in use, so that two never lie in memory together."""
        with self._changed:
            loaded, self._loaded = self._loaded, None
        if loaded is not None:
            loaded.close(drain_s)
            del loaded
            gc.collect()


def _hand_over(ticket: Ticket, loaded: LoadedModel | None, error: Exception | None) -> None:
    """Give a ticket that waited to the worker, or end it with the reason why there is none."""
    if loaded is None:
        ticket.publish(error if isinstance(error, ChatGLMError) else ModelNotReady())
        return
    try:
        loaded.worker.take(ticket)
    except RequestError as refusal:
        ticket.publish(refusal)
