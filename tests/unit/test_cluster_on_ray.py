"""What the file that imports Ray asks of it, with a module in its place that has just those names and arguments."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from chatglm_backend.cluster.ports import MachineLost
from chatglm_backend.errors import ModelNotReady
from chatglm_backend.settings import Settings

NODES = [
    {"NodeName": "10.0.0.1", "NodeID": "aa", "Alive": True},
    {"NodeName": "10.0.0.2", "NodeID": "bb", "Alive": True},
    {"NodeName": "10.0.0.3", "NodeID": "cc", "Alive": False},
]


class RayError(Exception):
    """As all of Ray's."""


class RayActorError(RayError):
    """The actor has ended."""


class ActorUnavailableError(RayActorError):
    """It may come back."""


class GetTimeoutError(RayError, TimeoutError):
    """No answer in time."""


class RayTaskError(RayError):
    """What the method raised."""

    def __init__(self, cause: Exception) -> None:
        super().__init__()
        self.cause = cause


class Actor:
    """A handle: ``did`` has the calls; an answer that is an error is raised when it is fetched."""

    def __init__(self) -> None:
        self.did: list[tuple[Any, ...]] = []
        self.answers: dict[str, object] = {"hello": 4711}

    def __getattr__(self, method: str) -> SimpleNamespace:
        def remote(*args: object) -> object:
            self.did.append((method, *args))
            return self.answers.get(method)

        return SimpleNamespace(remote=remote)


class Ray(ModuleType):
    """The functions that are used, and no others."""

    def __init__(self) -> None:
        super().__init__("ray")
        self.actors: list[Actor] = []
        self.made: list[tuple[Any, ...]] = []
        self.killed: list[Actor] = []

    def nodes(self) -> list[dict[str, object]]:
        """All that ever joined."""
        return NODES

    def remote(self, kind: type) -> SimpleNamespace:
        """An actor's class."""

        def options(*, scheduling_strategy: object, num_cpus: int, max_concurrency: int) -> SimpleNamespace:
            def make(*args: object) -> Actor:
                self.made.append((kind.__name__, scheduling_strategy, num_cpus, max_concurrency, *args))
                self.actors.append(Actor())
                return self.actors[-1]

            return SimpleNamespace(remote=make)

        return SimpleNamespace(options=options)

    def get(self, ref: object, *, timeout: float) -> object:
        """What it came to."""
        assert timeout > 0
        if isinstance(ref, Exception):
            raise ref
        return ref

    def kill(self, actor: Actor) -> None:
        """Give it up."""
        self.killed.append(actor)


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ray]:
    """The module in Ray's place, until the end of a test."""
    found = Ray()
    kinds = (ActorUnavailableError, GetTimeoutError, RayActorError, RayError, RayTaskError)
    strategies = ModuleType("ray.util.scheduling_strategies")
    strategies.NodeAffinitySchedulingStrategy = lambda node, *, soft: (node, soft)  # type: ignore[attr-defined]
    exceptions = ModuleType("ray.exceptions")
    exceptions.__dict__.update({kind.__name__: kind for kind in kinds})
    for module in (found, exceptions, ModuleType("ray.util"), strategies):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.delitem(sys.modules, "chatglm_backend.cluster.on_ray", raising=False)
    yield found
    sys.modules.pop("chatglm_backend.cluster.on_ray", None)


def test_an_engine_is_an_actor_on_its_node(ray: Ray) -> None:
    """The nodes that live; where it runs, with no CPU promised, and without the front's secrets."""
    on_ray = importlib.import_module("chatglm_backend.cluster.on_ray")
    roster = on_ray.RayRoster(Settings(tls_key="key.pem", max_running=3))
    assert roster.names() == ("10.0.0.1", "10.0.0.2")
    link = roster.open("10.0.0.2")
    assert link.pid == 4711
    kind, where, cpus, concurrency, settings, loader = ray.made[0]
    assert (kind, where, cpus, loader) == ("EngineActor", ("bb", False), 0, None)
    assert concurrency >= 1000  # a poll waits in it, and answers run beside
    assert (settings.tls_key, settings.max_running) == (None, 3)
    with pytest.raises(MachineLost):
        roster.open("10.0.0.3")
    link.send("cancel", "id", "reason")
    assert ray.actors[0].did == [("hello",), ("cancel", "id", "reason")]
    link.end()
    assert ray.killed == ray.actors
    for method in ("attach", "load", "cancel_load", "measure", "encode", "decode", "submit", "cancel", "poll", "stop"):
        assert callable(getattr(on_ray.EngineActor, method))


@pytest.mark.parametrize(
    ("error", "gone"),
    [(GetTimeoutError(), False), (ActorUnavailableError(), False), (RayActorError(), True), (RayError(), False)],
)
def test_what_ray_raises_is_a_lost_machine(ray: Ray, error: Exception, gone: bool) -> None:
    """Whose engine has ended, or may come back with its model; a method's own error is raised as it was."""
    link = importlib.import_module("chatglm_backend.cluster.on_ray").RayRoster(Settings()).open("10.0.0.1")
    ray.actors[0].answers.update(poll=error, measure=RayTaskError(ModelNotReady()))
    with pytest.raises(MachineLost) as found:
        link.call("poll", "session", timeout_s=1.0)
    assert found.value.gone is gone
    with pytest.raises(ModelNotReady):
        link.call("measure", "request", timeout_s=1.0)
