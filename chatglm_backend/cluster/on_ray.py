"""Machines as nodes of a Ray cluster: an actor on each holds its engine, and is called as the front needs it.

The only file that imports Ray, which decides then about authentication: ``require_token`` comes first. Ray Serve's
proxies and routers are not used: they would be a second queue in front of ours.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from chatglm_backend.cluster.ports import MachineLost
from chatglm_backend.cluster.replica import Replica
from chatglm_backend.errors import ClusterError
from chatglm_backend.sentences import Sentence
from chatglm_backend.service import Loader, load_model
from chatglm_backend.settings import Settings, load_settings

_STARTING_S = 60.0


class EngineActor(Replica):
    """The actor: the front's settings, but for what is this machine's own."""

    def __init__(self, settings: Settings, loader: Loader | None) -> None:
        mine = load_settings()
        super().__init__(
            replace(settings, threads=mine.threads, cache=mine.cache, kernel=mine.kernel), loader=loader or load_model
        )

    async def hello(self) -> int:
        """Answers when it has started, with its process's number."""
        return os.getpid()


class RayLink:
    """The way to one actor, the process ``pid`` on its machine."""

    def __init__(self, actor: Any) -> None:  # noqa: ANN401 - Ray makes its class
        self._actor = actor
        self.pid = 0

    def call(self, method: str, *args: Any, timeout_s: float) -> Any:  # noqa: ANN401
        """See :class:`~chatglm_backend.cluster.ports.Link`."""
        try:
            return ray.get(getattr(self._actor, method).remote(*args), timeout=timeout_s)
        except RayTaskError as error:
            raise error.cause from None
        except GetTimeoutError:
            raise MachineLost from None
        except RayError as error:
            away = isinstance(error, ActorUnavailableError)  # and may come back, with its model
            raise MachineLost(gone=isinstance(error, RayActorError) and not away) from None

    def send(self, method: str, *args: object) -> None:
        """See :class:`~chatglm_backend.cluster.ports.Link`. That a machine is lost, its next question tells."""
        with contextlib.suppress(RayError):
            getattr(self._actor, method).remote(*args)

    def end(self) -> None:
        """Give the actor up."""
        ray.kill(self._actor)


class RayRoster:
    """The nodes that are alive. ``loader`` makes models where it is given, instead of the product's own."""

    def __init__(self, settings: Settings, loader: Loader | None = None) -> None:
        self._settings = replace(settings, token=None, auth=None, tls_cert=None, tls_key=None)  # the front's alone
        self._loader = loader

    def names(self) -> tuple[str, ...]:
        """See :class:`~chatglm_backend.cluster.ports.Roster`."""
        return tuple(self._nodes())

    def open(self, name: str) -> RayLink:
        """See :class:`~chatglm_backend.cluster.ports.Roster`."""
        node = self._nodes().get(name)
        if node is None:
            raise MachineLost(gone=True)
        where = NodeAffinitySchedulingStrategy(node, soft=False)
        kind = ray.remote(EngineActor).options(scheduling_strategy=where, num_cpus=0, max_concurrency=1000)
        link = RayLink(kind.remote(self._settings, self._loader))
        try:
            link.pid = link.call("hello", timeout_s=_STARTING_S)
        except MachineLost:
            link.end()
            raise
        return link

    def _nodes(self) -> dict[str, str]:
        try:
            return {node["NodeName"]: node["NodeID"] for node in ray.nodes() if node["Alive"]}
        except RayError as error:
            raise MachineLost from error


def connect(address: str, timeout_s: float = 120.0) -> None:
    """Be a front of the cluster at ``address``, through this machine's own node once it is up. Raises ClusterError."""
    until = time.monotonic() + timeout_s
    while True:
        try:
            ray.init(address=address, namespace="chatglm", log_to_driver=False, configure_logging=False)
        except (ConnectionError, RayError, RuntimeError) as error:  # noqa: PERF203 - tried again
            if time.monotonic() > until:
                raise ClusterError(reason=Sentence("cluster.no_front", address=address, reason=str(error))) from None
            time.sleep(0.5)
        else:
            return


def disconnect() -> None:
    """End it; all engines that it started end too."""
    ray.shutdown()
