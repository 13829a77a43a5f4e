"""The service's life with a scripted model: states, cancelling, changing models, failing."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest

from chatglm_backend.core import Completed, FinishReason, GenerationParams, GenerationRequest, ModelInfo, ModelState
from chatglm_backend.errors import (
    EngineFailure,
    LoadCancelled,
    ModelError,
    ModelNotFound,
    ModelNotReady,
    QueueFull,
    ShuttingDown,
)
from chatglm_backend.service import Service
from chatglm_backend.serving.ticket import Ticket
from chatglm_backend.settings import Settings
from chatglm_backend.testing import Script, ScriptedModel, scripted_info


def ready(service: Service) -> ModelInfo:
    """Wait, but not for ever."""
    return service.wait_ready(10)


def held() -> ScriptedModel:
    """A model whose loading stays half done."""
    return ScriptedModel(load_seconds=0.2, hold=True)


def half_loaded(service: Service) -> None:
    """Wait until a loading shows its bytes."""
    while (progress := service.status().progress) is None or not progress.done:
        threading.Event().wait(0.01)


def test_nothing_is_loaded_before_it_is_asked_for() -> None:
    """A new service has no model and refuses requests by name."""
    service = Service(Settings(), loader=ScriptedModel())
    assert service.status().state is ModelState.NONE
    with pytest.raises(ModelNotReady):
        service.submit(ask())


def test_loading_returns_at_once_and_shows_its_stage() -> None:
    """The status tells the stage and bytes while the thread works, and then what is loaded; waiting has a limit."""
    model = held()
    service = Service(Settings(model="m"), loader=model)
    service.load()
    half_loaded(service)
    assert service.status().state is ModelState.LOADING
    with pytest.raises(ModelNotReady):
        service.wait_ready(0.05)
    model.hold = False
    assert ready(service) == scripted_info()
    assert model.loaded == ["m"]
    service.close()


def test_a_failure_can_be_read_in_the_status_and_loading_works_again() -> None:
    """The loading error stays readable, is what wait_ready raises, and does not stand in the way of the next model."""
    error = ModelNotFound(path="/nowhere")
    model = ScriptedModel(load_error=error)
    service = Service(Settings(), loader=model)
    service.load("x")
    with pytest.raises(ModelNotFound):
        ready(service)
    assert (service.status().state, service.status().error) == (ModelState.FAILED, error)
    model.load_error = None
    service.load("y")
    assert ready(service) == scripted_info()
    service.close()


def test_an_unexpected_exception_becomes_a_sentence() -> None:
    """Whatever a library raises ends as one of our errors, the original attached to the log."""
    service = Service(Settings(), loader=ScriptedModel(load_error=ValueError("odd")))
    service.load()
    with pytest.raises(ModelError, match="ValueError: odd"):
        ready(service)
    service.close()


def test_cancelled_loading_leaves_no_model() -> None:
    """After cancelling there is no model, and the reason is told."""
    service = Service(Settings(), loader=held())
    service.load()
    half_loaded(service)
    service.cancel_load()
    with pytest.raises(LoadCancelled):
        ready(service)
    assert service.status().state is ModelState.NONE
    service.close()


def test_another_model_waits_until_the_first_is_given_up() -> None:
    """Two models never lie in memory together, and the first one's answers get their time."""
    model = ScriptedModel({}, Script(("w ",) * 20, delay_s=0.02))
    service = Service(Settings(drain_seconds=30), loader=model)
    service.load("first")
    ready(service)
    ticket = service.submit(ask())
    ticket.read()
    service.load("second")
    loaded_meanwhile = [tuple(model.loaded) for _ in ticket.events()]
    assert set(loaded_meanwhile[:-1]) == {("first",)}
    assert ticket.text == "w " * 20
    ready(service)
    assert model.loaded == ["first", "second"]
    service.close()


def test_a_second_load_replaces_one_in_progress() -> None:
    """The newest wish wins; the older loading is cancelled and its result never shown."""
    model = held()
    service = Service(Settings(), loader=model)
    service.load("first")
    half_loaded(service)
    service.load("second")
    model.hold = False
    ready(service)
    assert model.loaded[-1] == "second"
    assert isinstance(list(service.submit(ask()).events())[-1], Completed)
    service.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_worker_turns_the_status_red() -> None:
    """A model that can no longer answer is not shown as ready."""

    class Dying(ScriptedModel):
        def step(self) -> Sequence[Any]:
            raise RuntimeError

    service = Service(Settings(), loader=Dying())
    service.load()
    ready(service)
    with pytest.raises(EngineFailure):
        list(service.submit(ask()).events())
    assert service.status().state is ModelState.FAILED
    service.close()


def test_close_ends_loading_and_refuses_more() -> None:
    """Closing during a loading ends its thread; loading afterwards does nothing."""
    model = held()
    service = Service(Settings(), loader=model)
    service.load()
    service.close()
    service.load()
    assert service.status().state is ModelState.NONE
    assert len(model.loaded) <= 1


def ask() -> GenerationRequest:
    """A short question."""
    return GenerationRequest("a", prompt="What is AI", params=GenerationParams(max_new_tokens=500))


def test_a_request_may_come_before_its_model() -> None:
    """It waits, unless it may not, and is answered once the model is there; its time is counted from then."""
    model = held()
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
    model = held()
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
    model = held()
    service = Service(Settings(queue_limit=1), loader=model, env={})
    service.load()
    service.submit(ask(), wait=True)
    with pytest.raises(QueueFull):
        service.submit(ask(), wait=True)
    service.close()
