"""Machines as nodes of a Ray cluster: an actor on each holds its engine, and is called as the front needs it.

The only file that imports Ray, which decides then about authentication: ``require_token`` comes first. Ray Serve's
proxies and routers are not used: they would be a second queue in front of ours.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from chatglm_backend import __version__
from chatglm_backend.cluster.ports import MachineLost
from chatglm_backend.cluster.replica import Replica
from chatglm_backend.errors import ChatGLMError, ClusterError
from chatglm_backend.sentences import Sentence
from chatglm_backend.service import Loader, load_model
from chatglm_backend.settings import Settings, load_settings

_log = logging.getLogger(__name__)
_STARTING_S, _AGAIN_S = 60.0, 10.0
_REASON = 300


class EngineActor(Replica):
    """The actor. It is an engine once :meth:`begin` was called; another version could not read what that is given."""

    def __init__(self) -> None:
        """Nothing yet: what goes wrong here, Ray tells in no exception's words."""

    async def hello(self) -> tuple[int, str]:
        """Answers when it has started, with its process's number and this program's version."""
        return os.getpid(), __version__

    async def begin(self, settings: Settings, loader: Loader | None) -> None:
        """Be an engine with the front's settings, but for what is this machine's own. Raises ConfigError."""
        mine = load_settings()
        super().__init__(
            replace(settings, threads=mine.threads, cache=mine.cache, kernel=mine.kernel), loader=loader or load_model
        )


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
            raise MachineLost(gone=isinstance(error, RayActorError) and not away, why=_why(error)) from None

    def send(self, method: str, *args: object) -> None:
        """See :class:`~chatglm_backend.cluster.ports.Link`. That a machine is lost, its next question tells."""
        try:
            getattr(self._actor, method).remote(*args)
        except Exception:  # noqa: BLE001 - Ray raises more than its own, as where its client has ended
            _log.warning("%s could not be sent to a machine", method, exc_info=True)

    def end(self) -> None:
        """Give the actor up."""
        ray.kill(self._actor)


class RayRoster:
    """The nodes that are alive. ``loader`` makes models where it is given, instead of the product's own."""

    def __init__(self, settings: Settings, loader: Loader | None = None) -> None:
        self._settings = replace(settings, token=None, auth=None, tls_cert=None, tls_key=None)  # the front's alone
        self._loader = loader
        self._refusals: dict[str, tuple[float, MachineLost | ChatGLMError]] = {}  # by the node's id

    def names(self) -> tuple[str, ...]:
        """See :class:`~chatglm_backend.cluster.ports.Roster`."""
        return tuple(self._nodes())

    def open(self, name: str) -> RayLink:
        """See :class:`~chatglm_backend.cluster.ports.Roster`."""
        node = self._nodes().get(name)
        if node is None:
            raise MachineLost(gone=True)
        until, refusal = self._refusals.get(node, (0.0, None))
        if refusal is not None and time.monotonic() < until:
            raise refusal.with_traceback(None)
        where = NodeAffinitySchedulingStrategy(node, soft=False)
        kind = ray.remote(EngineActor).options(
            scheduling_strategy=where, num_cpus=0, max_concurrency=1000, name=f"engine of {node}"
        )
        try:
            link = RayLink(kind.remote())
        except ValueError:  # the name is taken
            raise MachineLost(gone=True, why=Sentence("cluster.another_front")) from None
        try:
            self._begin(name, link)
        except (MachineLost, ChatGLMError) as error:
            link.end()
            self._refusals[node] = time.monotonic() + _AGAIN_S, error
            raise
        return link

    def _begin(self, name: str, link: RayLink) -> None:
        """Make an engine of the actor, of which nothing is known yet."""
        try:
            link.pid, version = link.call("hello", timeout_s=_STARTING_S)
            if version != __version__:
                told = {"name": name, "found": version, "expected": __version__}
                raise ClusterError(reason=Sentence("cluster.version", **told))
            link.call("begin", self._settings, self._loader, timeout_s=_STARTING_S)
        except MachineLost as lost:
            raise MachineLost(gone=True, why=lost.why or Sentence("cluster.slow_engine")) from None
        except ChatGLMError:
            raise
        except Exception as error:  # noqa: BLE001 - of whatever kind, it is that machine's
            raise MachineLost(gone=True, why=_why(error)) from None

    def _nodes(self) -> dict[str, str]:
        try:
            return {node["NodeName"]: node["NodeID"] for node in ray.nodes() if node["Alive"]}
        except RayError as error:
            raise MachineLost from error


def _why(error: Exception) -> Sentence:
    """An error's kind and, of what it says, the last line, which in a machine's traceback is the cause."""
    lines = str(error).strip().splitlines()
    last = lines[-1].strip() if lines else ""
    return Sentence("cluster.cause", kind=type(error).__name__, reason=last[:_REASON])


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
