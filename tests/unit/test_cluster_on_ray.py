"""What the file that imports Ray asks of it, with a module in its place that has just those names and arguments."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from chatglm_backend import __version__
from chatglm_backend.cluster.ports import MachineLost
from chatglm_backend.errors import ClusterError, ConfigError, ModelNotReady
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


class ActorAlreadyExistsError(ValueError, RayError):
    """Its name is taken."""


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
        self.broken = False
        self.answers: dict[str, object] = {"hello": (4711, __version__)}

    def __getattr__(self, method: str) -> SimpleNamespace:
        def remote(*args: object) -> object:
            if self.broken:
                raise RuntimeError
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
        self.answers: dict[str, object] = {}
        self.taken: set[str] = set()

    def nodes(self) -> list[dict[str, object]]:
        """All that ever joined."""
        return NODES

    def remote(self, kind: type) -> SimpleNamespace:
        """An actor's class."""

        def options(*, scheduling_strategy: object, num_cpus: int, max_concurrency: int, name: str) -> SimpleNamespace:
            def make() -> Actor:
                if name in self.taken:
                    raise ActorAlreadyExistsError
                self.made.append((kind.__name__, scheduling_strategy, num_cpus, max_concurrency, name))
                self.actors.append(Actor())
                self.actors[-1].answers.update(self.answers)
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
    kind, where, cpus, concurrency, _ = ray.made[0]
    assert (kind, where, cpus) == ("EngineActor", ("bb", False), 0)
    assert concurrency >= 1000  # a poll waits in it, and answers run beside
    _, (_, settings, loader) = ray.actors[0].did
    assert (settings.tls_key, settings.max_running, loader) == (None, 3, None)
    with pytest.raises(MachineLost):
        roster.open("10.0.0.3")
    link.send("cancel", "id", "reason")
    assert ray.actors[0].did[2:] == [("cancel", "id", "reason")]
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


@pytest.mark.parametrize(
    ("answers", "kind", "why"),
    [
        (
            {"begin": RayTaskError(ConfigError(name="CHATGLM_THREADS", value="x", reason="a number"))},
            ConfigError,
            "a number",
        ),
        ({"hello": (1, "0.0.1")}, ClusterError, "has version 0.0.1 of this program"),
        (
            {"hello": RayActorError("ray::init()\n  File ...\nTypeError: 2 arguments are missing")},
            MachineLost,
            "2 arguments",
        ),
        ({"hello": GetTimeoutError()}, MachineLost, "did not start in time"),
        ({"begin": RayTaskError(TypeError("no such field"))}, MachineLost, r"no such field \(TypeError\)"),
    ],
)
def test_an_engine_that_cannot_start_says_why(
    ray: Ray, answers: dict[str, object], kind: type[Exception], why: str
) -> None:
    """Bad settings there, another version, or what Ray tells; it is given up, and tried again after a while only."""
    roster = importlib.import_module("chatglm_backend.cluster.on_ray").RayRoster(Settings())
    ray.answers = answers
    for _ in range(3):
        with pytest.raises(kind) as found:
            roster.open("10.0.0.1")
        assert re.search(why, str(getattr(found.value, "why", found.value)))
    assert len(ray.made) == 1
    assert ray.killed == ray.actors
    if "hello" in answers:
        assert ray.actors[0].did == [("hello",)]  # nothing travelled that it could not read


def test_a_machine_has_one_engine(ray: Ray) -> None:
    """A second page finds its name taken, and has it as soon as the first has ended."""
    roster = importlib.import_module("chatglm_backend.cluster.on_ray").RayRoster(Settings())
    roster.open("10.0.0.1")
    ray.taken = {ray.made[0][-1]}
    with pytest.raises(MachineLost) as found:
        roster.open("10.0.0.1")
    assert "another page" in str(found.value.why)
    roster.open("10.0.0.2")
    ray.taken.clear()
    roster.open("10.0.0.1")


def test_what_cannot_be_sent_ends_nothing(ray: Ray) -> None:
    """Whatever Ray raises; its next question tells that a machine is lost."""
    link = importlib.import_module("chatglm_backend.cluster.on_ray").RayRoster(Settings()).open("10.0.0.1")
    ray.actors[0].broken = True
    link.send("submit", "session", "request")
