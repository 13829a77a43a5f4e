"""The service's life with a scripted loader: states, cancelling, changing models, failing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, cast

import pytest

from chatglm_backend.core import (
    CancelToken,
    Completed,
    FinishReason,
    GenerationRequest,
    LoadProgress,
    ModelInfo,
    ModelState,
)
from chatglm_backend.errors import LoadCancelled, ModelError, ModelNotFound, ModelNotReady, QueueFull, ShuttingDown
from chatglm_backend.service import LoadedModel, Service
from chatglm_backend.serving.ticket import Ticket
from chatglm_backend.settings import Settings
from chatglm_backend.testing import ScriptedModel, scripted_info


class ScriptedWorker:
    """Records that it was closed."""

    def __init__(self) -> None:
        self.healthy = True
        self.drained: list[float] = []

    def close(self, drain_s: float = 0.0) -> None:
        """Remember how long it was given."""
        self.healthy = False
        self.drained.append(drain_s)


class ScriptedLoader:
    """Loads at once, or waits for ``go``; raises ``error`` if there is one."""

    def __init__(self, error: Exception | None = None, *, waits: bool = False) -> None:
        self.error = error
        self.models: list[str | None] = []
        self.workers: list[ScriptedWorker] = []
        self.alive_at_start: list[bool] = []
        self.started = threading.Event()
        self.go = threading.Event()
        if not waits:
            self.go.set()

    def __call__(
        self,
        model: str | None,
        settings: Settings,  # noqa: ARG002
        *,
        progress: Callable[[LoadProgress], None],
        cancel: CancelToken,
        note: Callable[[str], None],  # noqa: ARG002
        env: Mapping[str, str],  # noqa: ARG002
    ) -> LoadedModel:
        """Play one loading."""
        self.models.append(model)
        self.alive_at_start.append(any(worker.healthy for worker in self.workers))
        progress(LoadProgress("convert", 1, 2))
        self.started.set()
        while not self.go.wait(0.01):
            if cancel.cancelled:
                raise LoadCancelled(model=str(model))
        if self.error is not None:
            raise self.error
        worker = ScriptedWorker()
        self.workers.append(worker)
        return LoadedModel(scripted_info(), cast("Any", None), cast("Any", None), cast("Any", worker))


def ready(service: Service) -> ModelInfo:
    """Wait, but not for ever."""
    return service.wait_ready(10)


def test_nothing_is_loaded_before_it_is_asked_for() -> None:
    """A new service has no model and refuses requests by name."""
    service = Service(Settings(), loader=ScriptedLoader())
    assert service.status().state is ModelState.NONE
    with pytest.raises(ModelNotReady):
        service.submit(GenerationRequest("a", prompt="hi"))


def test_loading_returns_at_once_and_shows_its_stage() -> None:
    """The status tells the stage and bytes while the thread works, and then what is loaded."""
    loader = ScriptedLoader(waits=True)
    service = Service(Settings(model="m"), loader=loader)
    service.load()
    assert loader.started.wait(10)
    status = service.status()
    assert (status.state, status.progress) == (ModelState.LOADING, LoadProgress("convert", 1, 2))
    loader.go.set()
    assert ready(service) == scripted_info()
    assert loader.models == ["m"]
    service.close()


def test_waiting_has_a_limit() -> None:
    """wait_ready gives up when time is up, and loading goes on."""
    loader = ScriptedLoader(waits=True)
    service = Service(Settings(), loader=loader)
    service.load()
    with pytest.raises(ModelNotReady):
        service.wait_ready(0.05)
    loader.go.set()
    ready(service)
    service.close()


def test_a_failure_can_be_read_in_the_status() -> None:
    """The loading error stays readable, and is what wait_ready raises."""
    error = ModelNotFound(path="/nowhere")
    service = Service(Settings(), loader=ScriptedLoader(error))
    service.load()
    with pytest.raises(ModelNotFound):
        ready(service)
    assert (service.status().state, service.status().error) == (ModelState.FAILED, error)
    service.close()


def test_an_unexpected_exception_becomes_a_sentence() -> None:
    """Whatever a library raises ends as one of our errors, the original attached to the log."""
    service = Service(Settings(), loader=ScriptedLoader(ValueError("odd")))
    service.load()
    with pytest.raises(ModelError, match="ValueError: odd"):
        ready(service)
    service.close()


def test_loading_works_again_after_a_failure() -> None:
    """A failed model does not stand in the way of the next."""
    loader = ScriptedLoader(ModelNotFound(path="x"))
    service = Service(Settings(), loader=loader)
    service.load("x")
    with pytest.raises(ModelNotFound):
        ready(service)
    loader.error = None
    service.load("y")
    assert ready(service) == scripted_info()
    service.close()


def test_cancelled_loading_leaves_no_model() -> None:
    """After cancelling there is no model, and the reason is told."""
    loader = ScriptedLoader(waits=True)
    service = Service(Settings(), loader=loader)
    service.load()
    assert loader.started.wait(10)
    service.cancel_load()
    with pytest.raises(LoadCancelled):
        ready(service)
    assert service.status().state is ModelState.NONE
    service.close()


def test_another_model_waits_until_the_first_is_given_up() -> None:
    """Two models never lie in memory together, and the first one's answers get their time."""
    loader = ScriptedLoader()
    service = Service(Settings(drain_seconds=7), loader=loader)
    service.load("first")
    ready(service)
    service.load("second")
    ready(service)
    assert loader.models == ["first", "second"]
    assert loader.alive_at_start == [False, False]
    assert loader.workers[0].drained == [7]
    service.close()


def test_a_second_load_replaces_one_in_progress() -> None:
    """The newest wish wins; the older loading is cancelled and its result never shown."""
    loader = ScriptedLoader(waits=True)
    service = Service(Settings(), loader=loader)
    service.load("first")
    assert loader.started.wait(10)
    service.load("second")
    loader.go.set()
    ready(service)
    assert loader.models[-1] == "second"
    assert sum(worker.healthy for worker in loader.workers) == 1
    service.close()


def test_a_dead_worker_turns_the_status_red() -> None:
    """A model that can no longer answer is not shown as ready."""
    loader = ScriptedLoader()
    service = Service(Settings(), loader=loader)
    service.load()
    ready(service)
    loader.workers[0].healthy = False
    assert service.status().state is ModelState.FAILED
    service.close()


def test_close_ends_loading_and_refuses_more() -> None:
    """Closing during a loading ends its thread; loading afterwards does nothing."""
    loader = ScriptedLoader(waits=True)
    service = Service(Settings(), loader=loader)
    service.load()
    service.close()
    service.load()
    assert service.status().state is ModelState.NONE
    assert len(loader.models) <= 1


def ask() -> GenerationRequest:
    """A short question."""
    return GenerationRequest("a", prompt="What is AI")


def test_a_request_may_come_before_its_model() -> None:
    """It waits, unless it may not, and is answered once the model is there; its time is counted from then."""
    model = ScriptedModel(load_seconds=0.2, hold=True)
    service = Service(Settings(), loader=model, env={})
    service.load()
    with pytest.raises(ModelNotReady):
        service.submit(ask())
    ticket = service.submit(ask(), wait=True)
    assert ticket.read(timeout_s=0.01) == []
    parked = ticket.submitted_at
    model.hold = False
    assert "".join(getattr(event, "text", "") for event in ticket.events()) == ticket.text != ""
    assert ticket.submitted_at > parked
    service.close()


def test_a_request_that_waits_for_its_model_can_be_stopped() -> None:
    """Its only event is the end, and the model never hears of it."""
    model = ScriptedModel(load_seconds=0.2, hold=True)
    service = Service(Settings(), loader=model, env={})
    service.load()
    ticket = service.submit(ask(), wait=True)
    ticket.cancel()
    (end,) = ticket.events()
    assert isinstance(end, Completed)
    assert end.finish_reason is FinishReason.CANCELLED
    model.hold = False
    ready(service)
    assert model.answers == []
    service.close()


def test_a_request_that_waits_hears_why_no_model_came() -> None:
    """A failed loading's error, also for those who come afterwards; a cancelled loading; the end of the program."""
    error = ModelNotFound(path="x")
    model = ScriptedModel(load_seconds=0.2, load_error=error, hold=True)
    service = Service(Settings(), loader=model, env={})

    def waiting() -> Ticket:
        service.load()
        return service.submit(ask(), wait=True)

    failed = waiting()
    model.hold = False
    with pytest.raises(ModelNotFound):
        list(failed.events())
    with pytest.raises(ModelNotFound):
        service.submit(ask(), wait=True)
    model.hold = True
    cancelled = waiting()
    service.cancel_load()
    with pytest.raises(LoadCancelled):
        list(cancelled.events())
    ended = waiting()
    service.close()
    with pytest.raises((ShuttingDown, LoadCancelled)):
        list(ended.events())


def test_no_more_wait_for_a_model_than_for_an_answer() -> None:
    """The queue's limit holds there too."""
    model = ScriptedModel(load_seconds=0.2, hold=True)
    service = Service(Settings(queue_limit=1), loader=model, env={})
    service.load()
    service.submit(ask(), wait=True)
    with pytest.raises(QueueFull):
        service.submit(ask(), wait=True)
    service.close()
