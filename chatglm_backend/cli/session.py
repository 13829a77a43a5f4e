"""From settings to a loaded model, and from a ticket to its events; shared by the commands that answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from chatglm_backend.cli.output import note
from chatglm_backend.cli.progress import LoadBar
from chatglm_backend.core import Event, ModelInfo, ModelState
from chatglm_backend.errors import ModelNotReady
from chatglm_backend.settings import Settings

if TYPE_CHECKING:
    from chatglm_backend.service import Service
    from chatglm_backend.serving.ticket import Ticket

_POLL_S = 0.1


@contextmanager
def open_service(settings: Settings) -> Iterator[tuple[Service, ModelInfo]]:
    """A service with its model loaded, closed at the end. Raises what loading raises."""
    from chatglm_backend.service import Service

    service = Service(settings, note=note)
    try:
        service.load()
        with LoadBar() as bar:
            info = _wait(service, bar)
        yield service, info
    finally:
        service.close()


def follow(ticket: Ticket) -> Iterator[Event]:
    """A ticket's events; unlike a bare wait, this hears Ctrl-C on every system. Raises the ticket's error."""
    index = 0
    while True:
        ended = ticket.done
        events = ticket.read(index, timeout_s=_POLL_S)
        yield from events
        index += len(events)
        if ended and not events:
            return


def _wait(service: Service, bar: LoadBar) -> ModelInfo:
    while True:
        status = service.status()
        if status.progress is not None:
            bar(status.progress)
        try:
            return service.wait_ready(_POLL_S)
        except ModelNotReady:
            if service.status().state is not ModelState.LOADING:
                raise
