"""Machines in this process: real replicas with a scripted model, whose links break when a test wants it."""
# ruff: noqa: D102 - the protocols describe the methods

from __future__ import annotations

import asyncio
import os
import pickle
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from chatglm_backend.cluster.front import Front
from chatglm_backend.cluster.members import Members, Pace
from chatglm_backend.cluster.node import node_command, node_environment, split_address
from chatglm_backend.cluster.ports import MachineLost, Roster
from chatglm_backend.cluster.replica import Replica
from chatglm_backend.cluster.start import require_token
from chatglm_backend.core import AdapterInfo
from chatglm_backend.errors import AdapterNameUsed, UnknownAdapter
from chatglm_backend.sentences import Sentence
from chatglm_backend.service import LoadedModel, Loader, Service
from chatglm_backend.service.loading import Loading
from chatglm_backend.settings import Settings
from chatglm_backend.testing import ScriptedModel

QUICK = Pace(silent_s=30.0, retry_s=0.02, scan_s=0.02)
"""No machine is taken for lost because the tests' own is slow; one that a test makes silent is at once."""
SHORT = replace(QUICK, silent_s=1.5)
"""For what is noticed only by that time."""
_LEASE_S, _SKIPPED_S = 5.0, 100.0


@dataclass(eq=False)
class Host:
    """A machine. ``silent``: nothing passes in either direction; ``dead``: its engine has ended.

    ``drops`` are methods that are not called though they are sent, ``deaf`` those whose answers do not come back.
    While it is silent its caller gives up after ``patience_s``, and its engine's clock is far ahead.
    """

    name: str
    model: ScriptedModel
    settings: Settings
    silent: bool = False
    dead: bool = False
    patience_s: float = 0.1
    ahead_s: float = 0.0
    drops: set[str] = field(default_factory=set)
    deaf: set[str] = field(default_factory=set)
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    replicas: list[Replica] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def clock(self) -> float:
        if self.silent:
            self.ahead_s = _SKIPPED_S
        return time.monotonic() + self.ahead_s

    def begin(self) -> None:
        self.dead = False
        self.replicas.append(Replica(self.settings, loader=self.model, lease_s=_LEASE_S, clock=self.clock, environ={}))

    def call(self, method: str, *args: Any, timeout_s: float) -> Any:
        if self.dead:
            raise MachineLost(gone=True)
        sent = pickle.loads(pickle.dumps(args))  # noqa: S301 - as it would pass between machines
        future = asyncio.run_coroutine_threadsafe(getattr(self.replicas[-1], method)(*sent), self.loop)
        began = time.monotonic()
        while self.silent or not future.done():
            if self.dead or time.monotonic() - began > (self.patience_s if self.silent else timeout_s):
                raise MachineLost(gone=self.dead)
            time.sleep(0.002)
        if method in self.deaf:
            raise MachineLost
        return pickle.loads(pickle.dumps(future.result()))  # noqa: S301

    def send(self, method: str, *args: Any) -> None:
        if not (self.silent or self.dead or method in self.drops):
            sent = pickle.loads(pickle.dumps(args))  # noqa: S301
            asyncio.run_coroutine_threadsafe(getattr(self.replicas[-1], method)(*sent), self.loop)

    def die(self) -> None:
        self.dead = True
        asyncio.run_coroutine_threadsafe(self.replicas[-1].close(), self.loop)

    def end(self) -> None:
        pass

    def stop(self) -> None:
        async def close() -> None:
            for replica in self.replicas:
                await replica.close()
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

        asyncio.run_coroutine_threadsafe(close(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()

    def playing(self) -> int:
        return sum(not answer.ended.is_set() and answer.made > 0 for answer in self.model.answers)


@dataclass
class Hosts:
    """A roster of them."""

    hosts: dict[str, Host] = field(default_factory=dict)

    def __enter__(self) -> Hosts:
        return self

    def __exit__(self, *_: object) -> None:
        for host in self.hosts.values():
            host.stop()

    def names(self) -> tuple[str, ...]:
        return tuple(self.hosts)

    def open(self, name: str) -> Host:
        self.hosts[name].begin()
        return self.hosts[name]

    def add(self, name: str, model: ScriptedModel, **settings: Any) -> Host:
        self.hosts[name] = host = Host(name, model, Settings(history=False, **settings))
        return host


@dataclass
class Tunes:
    """The fine-tunes beside a scripted model; ``files`` has what is where, ``before`` is called before one is added."""

    files: dict[str, str]
    before: Callable[[], object]
    have: dict[str, AdapterInfo] = field(default_factory=dict)

    def infos(self) -> tuple[AdapterInfo, ...]:
        return tuple(self.have.values())

    def add(self, source: str, progress: object) -> AdapterInfo:
        del progress
        name, path = source.split("=")
        if name in self.have:
            raise AdapterNameUsed(name=name, path=path)
        self.before()
        self.have[name] = AdapterInfo(name, "lora", 8, 100, "", path, self.files[path])
        return self.have[name]

    def remove(self, name: str) -> AdapterInfo:
        if name not in self.have:
            raise UnknownAdapter(name=name, names="-")
        return self.have.pop(name)


@dataclass(slots=True)
class Tuned(ScriptedModel):
    """A scripted model that takes fine-tunes, and has ``said`` of its loading."""

    files: dict[str, str] = field(default_factory=dict)
    before: Callable[[], object] = lambda: None
    said: tuple[Sentence, ...] = ()
    tunes: Tunes | None = None

    def __call__(self, model: str | None, how: Loading) -> LoadedModel:
        loaded = ScriptedModel.__call__(self, model, how)
        for note in self.said:
            how.note(note)
        self.tunes = Tunes(self.files, lambda: self.before())
        return replace(loaded, adapters=self.tunes)  # type: ignore[arg-type]


@contextmanager
def cluster(
    roster: Roster, count: int = 2, pace: Pace = QUICK, wrap: Callable[[Loader], Loader] = lambda load: load,
    members: Members | None = None, **settings: Any,
) -> Iterator[Service]:  # fmt: skip
    """A front's service over so many machines, loaded; ``wrap`` stands between it and the loader."""
    members = members or Members(roster, pace)
    front = Front(members)
    service = Service(Settings(history=False, **settings), loader=wrap(front.load), machines=front.machines, env={})
    members.start()
    try:
        service.load("scripted")
        service.wait_ready(60)
        wait_for(lambda: sum(one.state == "ready" for one in service.machines()) == count, 60)
        yield service
    finally:
        service.close()
        members.close()
        for one in members.all():
            if one.link is not None:
                one.link.end()


@contextmanager
def ray_nodes() -> Iterator[None]:
    """A real Ray cluster of two nodes on loopback addresses."""
    require_token(os.environ)  # before Ray is imported, which looks at it then
    from chatglm_backend.cluster.on_ray import connect, disconnect

    head = "127.0.0.2:6391"
    commands = [node_command(head, head=True), node_command(head, head=False, own="127.0.0.3")]
    env, started = node_environment(os.environ), []
    try:
        for command in commands:
            started.append(subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            wait_for(lambda: _listens(head), 90)
        connect(head)
        yield
        disconnect()
    finally:
        for node in reversed(started):
            node.terminate()
            node.wait(30)


def _listens(address: str) -> bool:
    with suppress(OSError), socket.create_connection(split_address(address), 1.0):
        return True
    return False


def wait_for(condition: Any, timeout_s: float = 60.0) -> None:
    """Until it holds, but not for ever."""
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)
