"""The service's life with a scripted model: states, cancelling, changing models, failing."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
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
from chatglm_backend.service.loading import LoadedModel, Loading
from chatglm_backend.serving.ticket import Ticket
from chatglm_backend.settings import Settings
from chatglm_backend.testing import Script, ScriptedModel, scripted_info


def ready(service: Service) -> ModelInfo:
    """Wait, but not for ever."""
    return service.wait_ready(10)


@pytest.fixture
def made() -> Iterator[Callable[..., Service]]:
    """A maker of services that are closed afterwards."""
    with contextlib.ExitStack() as closing:

        def make(model: ScriptedModel, /, **settings: Any) -> Service:
            service = Service(Settings(**settings), loader=model, env={})
            closing.callback(service.close)
            return service

        yield make


@pytest.fixture
def half(made: Callable[..., Service]) -> tuple[Service, ScriptedModel]:
    """A service that shows the bytes of a loading that stays half done, and its model."""
    model = ScriptedModel(load_seconds=0.2, hold=True)
    service = made(model, model="m", queue_limit=1)
    service.load()
    while (progress := service.status().progress) is None or not progress.done:
        threading.Event().wait(0.01)
    return service, model


def test_nothing_is_loaded_before_it_is_asked_for(made: Callable[..., Service]) -> None:
    """A new service has no model and refuses requests by name."""
    service = made(ScriptedModel())
    assert service.status().state is ModelState.NONE
    with pytest.raises(ModelNotReady):
        service.submit(ask())


def test_loading_returns_at_once_and_shows_its_stage(half: tuple[Service, ScriptedModel]) -> None:
    """The status tells the stage and bytes while the thread works, and then what is loaded; waiting has a limit."""
    service, model = half
    assert service.status().state is ModelState.LOADING
    with pytest.raises(ModelNotReady):
        service.wait_ready(0.05)
    model.hold = False
    assert ready(service) == scripted_info()
    assert model.loaded == ["m"]


def test_a_failure_can_be_read_in_the_status_and_loading_works_again(made: Callable[..., Service]) -> None:
    """The loading error stays readable, is what wait_ready raises, and does not stand in the way of the next model."""
    error = ModelNotFound(path="/nowhere")
    model = ScriptedModel(load_error=error)
    service = made(model)
    service.load("x")
    with pytest.raises(ModelNotFound):
        ready(service)
    assert (service.status().state, service.status().error) == (ModelState.FAILED, error)
    model.load_error = None
    service.load("y")
    assert ready(service) == scripted_info()


def test_an_unexpected_exception_becomes_a_sentence(made: Callable[..., Service]) -> None:
    """Whatever a library raises ends as one of our errors, the original attached to the log."""
    service = made(ScriptedModel(load_error=ValueError("odd")))
    service.load()
    with pytest.raises(ModelError, match="ValueError: odd"):
        ready(service)


def test_cancelled_loading_leaves_no_model(half: tuple[Service, ScriptedModel]) -> None:
    """After cancelling there is no model, and the reason is told."""
    service, _ = half
    service.cancel_load()
    with pytest.raises(LoadCancelled):
        ready(service)
    assert service.status().state is ModelState.NONE


def test_another_model_waits_until_the_first_is_given_up(made: Callable[..., Service]) -> None:
    """Two models never lie in memory together, and the first one's answers get their time."""
    model = ScriptedModel({}, Script(("w ",) * 20, delay_s=0.02))
    service = made(model, drain_seconds=30)
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


def test_a_second_load_replaces_one_in_progress(half: tuple[Service, ScriptedModel]) -> None:
    """The newest wish wins; the older loading is cancelled and its result never shown."""
    service, model = half
    service.load("second")
    model.hold = False
    ready(service)
    assert model.loaded[-1] == "second"
    assert isinstance(list(service.submit(ask()).events())[-1], Completed)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_worker_turns_the_status_red(made: Callable[..., Service]) -> None:
    """A model that can no longer answer is not shown as ready."""

    class Dying(ScriptedModel):
        def step(self) -> Sequence[Any]:
            raise RuntimeError

    service = made(Dying())
    service.load()
    ready(service)
    with pytest.raises(EngineFailure):
        list(service.submit(ask()).events())
    assert service.status().state is ModelState.FAILED


def test_close_ends_loading_and_refuses_more(half: tuple[Service, ScriptedModel]) -> None:
    """Closing during a loading ends its thread; loading afterwards does nothing."""
    service, model = half
    service.close()
    service.load()
    assert service.status().state is ModelState.NONE
    assert len(model.loaded) <= 1


def test_close_leaves_a_loading_that_hears_nothing() -> None:
    """As one that waits for a hub which says nothing: it is not waited for."""
    begun, heard = threading.Event(), threading.Event()

    def deaf(_model: str | None, _how: Loading) -> LoadedModel:
        begun.set()
        heard.wait()
        raise LoadCancelled(model="a model")

    service = Service(Settings(), loader=deaf)
    service.load()
    assert begun.wait(10)
    service.close()
    assert service.status().state is ModelState.NONE
    heard.set()


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps a user's folders apart by itself")
def test_keys_and_values_are_kept_where_nobody_else_may_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One's own folder is closed; in another's that is open nothing is kept, and the log says what to do."""
    root, given = tmp_path / "kv", []

    def loader(_model: str | None, how: Loading) -> LoadedModel:
        given.append(how.blocks and how.blocks.root)
        raise LoadCancelled(model="a model")

    def start() -> None:
        service = Service(Settings(cache=str(tmp_path)), loader=loader, env={})
        service.load()
        with pytest.raises(LoadCancelled):
            service.wait_ready(10)
        service.close()

    root.mkdir()
    root.chmod(0o777)
    start()
    assert (given, root.stat().st_mode & 0o777, caplog.text) == ([root], 0o755, "")
    root.chmod(0o777)
    monkeypatch.setattr(os, "getuid", lambda: root.stat().st_uid + 1)
    start()
    assert (given, root.stat().st_mode & 0o777) == ([root, None], 0o777)
    assert "chmod go-w" in caplog.text


def ask() -> GenerationRequest:
    """A short question."""
    return GenerationRequest("a", prompt="What is AI", params=GenerationParams(max_new_tokens=500))


def test_a_request_may_come_before_its_model(half: tuple[Service, ScriptedModel]) -> None:
    """It waits, unless it may not, and is answered once the model is there; its time is counted from then."""
    service, model = half
    with pytest.raises(ModelNotReady):
        service.submit(ask())
    ticket = service.submit(ask(), wait=True)
    assert ticket.read(timeout_s=0.01) == []
    parked = ticket.submitted_at
    model.hold = False
    assert "".join(getattr(event, "text", "") for event in ticket.events()) == ticket.text != ""
    assert ticket.submitted_at > parked


def test_a_request_that_waits_for_its_model_can_be_stopped(half: tuple[Service, ScriptedModel]) -> None:
    """Its only event is the end, and the model never hears of it."""
    service, model = half
    ticket = service.submit(ask(), wait=True)
    ticket.cancel()
    (end,) = ticket.events()
    assert isinstance(end, Completed)
    assert end.finish_reason is FinishReason.CANCELLED
    model.hold = False
    ready(service)
    assert model.answers == []


def test_a_request_that_waits_hears_why_no_model_came(made: Callable[..., Service]) -> None:
    """A failed loading's error, also for those who come afterwards; a cancelled loading; the end of the program."""
    error = ModelNotFound(path="x")
    model = ScriptedModel(load_seconds=0.2, load_error=error, hold=True)
    service = made(model)

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


def test_no_more_wait_for_a_model_than_for_an_answer(half: tuple[Service, ScriptedModel]) -> None:
    """The queue's limit holds there too."""
    service, _ = half
    service.submit(ask(), wait=True)
    with pytest.raises(QueueFull):
        service.submit(ask(), wait=True)
