"""A front of many machines without the machines: what it, its router and the store do when there are hundreds.

    python -m benchmarks.cluster_simulated [--machines 16 64 128 256]

Each machine is a thread's partner in this process that hands over the tokens due, four answers at once and 80 ms a
step, through pickle as they would come from elsewhere. What Ray spends on a call is not in these figures.
"""

from __future__ import annotations

import argparse
import json
import pickle
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.cluster import PLACES, STEP_S, TOKENS
from chatglm_backend import __version__
from chatglm_backend.cluster.front import Front
from chatglm_backend.cluster.members import Members
from chatglm_backend.cluster.ports import MachineLost, Measured, Report
from chatglm_backend.core import (
    Completed,
    Event,
    FinishReason,
    GenerationParams,
    GenerationRequest,
    Message,
    ModelState,
    ModelStatus,
    Timing,
    TokenEvent,
    Usage,
    monotonic_clock,
)
from chatglm_backend.errors import RequestError
from chatglm_backend.service import Service
from chatglm_backend.settings import Settings
from chatglm_backend.store.conversations import ConversationStore
from chatglm_backend.testing import scripted_info

WAVES, _PACE_S, _HEARTBEAT_S = 2, 0.02, 0.25


class Machine:
    """A link whose other end only keeps time."""

    def __init__(self) -> None:
        self._number = 0
        self._began: dict[str, float] = {}
        self._told: dict[str, int] = {}
        self._submitted = threading.Event()

    def call(self, method: str, *args: Any, timeout_s: float) -> Any:  # noqa: ANN401, ARG002
        """See :class:`~chatglm_backend.cluster.ports.Link`."""
        if method == "attach":
            return __version__
        if method == "load":
            self._number = args[1]
            return None
        return Measured(12, 0) if method == "measure" else self._poll()

    def send(self, method: str, *args: object) -> None:
        """See :class:`~chatglm_backend.cluster.ports.Link`."""
        if method == "submit":
            _, request = pickle.loads(pickle.dumps(args))  # noqa: S301 - our own
            self._began[request.request_id] = monotonic_clock()
            self._submitted.set()

    def end(self) -> None:
        """Nothing to end."""

    def _poll(self) -> Report:
        time.sleep(_PACE_S)
        if not self._began:
            self._submitted.wait(_HEARTBEAT_S)
        self._submitted.clear()
        told: list[tuple[str, Event | RequestError]] = []
        for name, began in list(self._began.items()):
            due = min(TOKENS, int((monotonic_clock() - began) / STEP_S))
            told += [(name, TokenEvent(n, n, f"{n} ")) for n in range(self._told.get(name, 0), due)]
            self._told[name] = due
            if due == TOKENS:
                told.append((name, Completed(FinishReason.STOP, Usage(12, TOKENS), Timing())))
                del self._began[name], self._told[name]
        status = ModelStatus(ModelState.READY, info=scripted_info())
        report = Report(tuple(told), status, self._number, PLACES, frozenset(self._began))
        found: Report = pickle.loads(pickle.dumps(report))  # noqa: S301
        return found


class Many:
    """A roster of them."""

    def __init__(self, count: int) -> None:
        self._links = {f"m{n}": Machine() for n in range(count)}

    def names(self) -> tuple[str, ...]:
        """See :class:`~chatglm_backend.cluster.ports.Roster`."""
        return tuple(self._links)

    def open(self, name: str) -> Machine:
        """See :class:`~chatglm_backend.cluster.ports.Roster`."""
        if name not in self._links:
            raise MachineLost(gone=True)
        return self._links[name]


def front(count: int) -> dict[str, Any]:
    """Answers for every place of so many machines, twice; and what one choice of a machine takes."""
    members = Members(Many(count))
    chooser = Front(members)
    settings = Settings(history=False, queue_limit=100_000, visitor_limit=100)
    service = Service(settings, loader=chooser.load, machines=chooser.machines)
    members.start()
    service.load()
    service.wait_ready(120)
    while len(members.ready()) < count:
        time.sleep(0.1)
    before, began = time.process_time(), time.perf_counter()
    params = GenerationParams(max_new_tokens=1000)
    tickets = [
        service.submit(GenerationRequest(f"r{n}", f"v{n}", prompt="hello", params=params))
        for n in range(count * PLACES * WAVES)
    ]
    submitted = time.perf_counter() - began
    ends = [list(ticket.events())[-1] for ticket in tickets]
    took, spent = time.perf_counter() - began, time.process_time() - before
    if not all(isinstance(end, Completed) for end in ends):
        raise SystemExit("an answer failed")
    began = time.perf_counter()
    for n in range(1000):
        chooser._place(f"v{n}")
    chosen = time.perf_counter() - began
    service.close()
    members.close()
    tokens = len(ends) * TOKENS
    return {
        "tok/s": round(tokens / took),
        "of what they could": round(tokens / took / (count * PLACES / STEP_S), 2),
        "ms of CPU per token": round(1000 * spent / tokens, 3),
        "share of a core": round(spent / took, 2),
        "taking a request in (ms)": round(1000 * submitted / len(ends), 2),
        "choosing a machine (ms)": round(chosen, 3),
    }


def store(answers: int = 100, updates: int = 20) -> dict[str, Any]:
    """Answers that are written as they grow, as a page does before it shows them, one after the other."""
    with tempfile.TemporaryDirectory() as folder:
        kept = ConversationStore(Path(folder, "conversations.sqlite3"))
        began = time.perf_counter()
        for n in range(answers):
            opened = kept.begin(f"v{n % 50}", None, [Message("user", "a question " * 20)])
            for update in range(updates):
                kept.save_answer(opened, "a sentence. " * 5 * update, "interrupted")
        took = time.perf_counter() - began
        kept.close()
    return {"writes per second": round(answers * updates / took)}


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machines", type=int, nargs="+", default=[16, 64, 128, 256])
    for count in parser.parse_args().machines:
        print(json.dumps({f"{count} machines": front(count)}, indent=1), flush=True)
    print(json.dumps({"store": store()}, indent=1))


if __name__ == "__main__":
    main()
