"""Starting: this machine as the front and the head of a cluster, or as one more node of it.

    python -m chatglm_backend.cluster.start HEAD:PORT      what ./launch.sh --join HEAD:PORT runs

Whoever reaches a node's ports could run programs on it, so nothing starts without Ray's token authentication.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from chatglm_backend.access.tokens import lan_addresses
from chatglm_backend.cluster.front import Front
from chatglm_backend.cluster.members import Members
from chatglm_backend.cluster.node import (
    PORT,
    REACHING_S,
    Node,
    is_here,
    node_command,
    reached,
    split_address,
    wait_for_end,
)
from chatglm_backend.errors import ClusterError
from chatglm_backend.logs import Say
from chatglm_backend.sentences import Sentence
from chatglm_backend.service import Service
from chatglm_backend.settings import Settings

_OWN = ("threads", "cache", "kernel")
_STARTING_S, _LEAVING_S = 90.0, 20.0
_MAKING = "import secrets; print(secrets.token_hex(32), end='')"


def require_token(environ: MutableMapping[str, str]) -> None:
    """See that Ray runs here with token authentication, and has a token of this user alone. Raises ClusterError."""
    if not sys.platform.startswith("linux"):
        raise ClusterError(reason=Sentence("cluster.linux"))
    mode = environ.setdefault("RAY_AUTH_MODE", "token").lower()
    if mode != "token":
        raise ClusterError(reason=Sentence("cluster.no_auth", mode=mode))
    environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # else a late call would begin a cluster of its own
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        if not environ.get(name, "").strip():
            environ.pop(name, None)
    if "RAY_AUTH_TOKEN" in environ:
        return
    home = environ.get("HOME") or str(Path.home())
    kept = Path(environ.get("RAY_AUTH_TOKEN_PATH") or Path(home, ".ray", "auth_token"))
    try:
        empty, mode_bits = not kept.read_bytes().strip(), kept.stat().st_mode
    except OSError:
        empty, mode_bits = True, 0
    if empty:
        made = f"mkdir -p {shlex.quote(str(kept.parent))} && {shlex.quote(sys.executable)} -c {shlex.quote(_MAKING)}"
        command = f"(umask 077; {made} > {shlex.quote(str(kept))})"
        raise ClusterError(reason=Sentence("cluster.no_token", command=command, path=str(kept)))
    if mode_bits & 0o077:
        raise ClusterError(
            reason=Sentence("cluster.open_token", command=f"chmod 600 {shlex.quote(str(kept))}", path=str(kept))
        )


@contextlib.contextmanager
def clustered(settings: Settings, say: Say) -> Iterator[Service]:
    """A service over all machines of a cluster, this one among them. Raises ClusterError."""
    require_token(os.environ)
    address = settings.cluster_address or f"{next(iter(lan_addresses()), '127.0.0.1')}:{PORT}"
    host, port = split_address(address)
    try:
        from chatglm_backend.cluster.on_ray import RayRoster, connect, disconnect
    except ModuleNotFoundError:
        raise ClusterError(reason=Sentence("cluster.no_ray")) from None
    head = is_here(host)
    if not head and not reached(host, port, REACHING_S):
        raise ClusterError(reason=Sentence("cluster.unreachable", address=address))
    if head and not _free(host, port, _LEAVING_S):
        raise ClusterError(reason=Sentence("cluster.taken", address=address))
    for name in _OWN:  # a flag of the page is one of its machine, whose engine reads variables
        if (value := getattr(settings, name)) is not None:
            os.environ[f"CHATGLM_{name.upper()}"] = str(value)
    node = Node(node_command(address, head=head))
    ending, lost = threading.Event(), threading.Event()
    try:
        if not reached(host, port, _STARTING_S, node):
            raise ClusterError(reason=Sentence("cluster.no_node", reason=node.reason()))
        connect(address, _STARTING_S)
        members = Members(RayRoster(settings))
        watching = (node, address, ending, lost, members, say)
        threading.Thread(target=_end_without, args=watching, name="head", daemon=True).start()
        front = Front(members)
        members.start()
        say(str(Sentence("cluster.join_with", command=f"./launch.sh --join {address}")))
        try:
            yield Service(settings, note=lambda found: say(str(found)), loader=front.load, machines=front.machines)
        finally:
            members.close()
            if not lost.is_set():
                disconnect()
    finally:
        ending.set()
        node.end()
        if lost.is_set():
            os._exit(1)  # Ray's own end would look for the head for a quarter of a minute


def _free(host: str, port: int, timeout_s: float) -> bool:
    """Whether nobody listens there, or no more in time: a head that was killed needs a few seconds to end."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        if not reached(host, port, 0.1):
            return True
        time.sleep(0.2)
    return False


def _end_without(
    node: Node, address: str, ending: threading.Event, lost: threading.Event,
    members: Members, say: Say,
) -> None:  # fmt: skip
    """Stop all engines and end this process in good order when the head has ended; Ray would end it in none."""
    wait_for_end(node, address)
    if not ending.is_set():
        lost.set()
        members.give_up()
        say(str(Sentence("cluster.head_lost")))
        os.kill(os.getpid(), signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class Joining:
    """Seconds: a node that does not start is tried for ``trying_s``, again after ``again_s``."""

    trying_s: float = 600.0
    again_s: float = 10.0
    reaching_s: float = REACHING_S
    look_s: float = 1.0


def joining_command(address: str) -> list[str]:
    """What makes this machine a node of the cluster there. Raises ClusterError."""
    if importlib.util.find_spec("ray") is None:
        raise ClusterError(reason=Sentence("cluster.no_ray"))
    return node_command(address, head=False)


def main(argv: list[str], command: Callable[[str], list[str]] = joining_command, pace: Joining | None = None) -> int:
    """Be a node of the cluster at ``argv[0]``, and of the head that may come after it; returns the exit code."""
    try:
        require_token(os.environ)
        _join("".join(argv[:1]), command, pace or Joining())
    except ClusterError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        return 130


def _join(address: str, command: Callable[[str], list[str]], pace: Joining) -> NoReturn:
    host, port = split_address(address)
    if not reached(host, port, pace.reaching_s):
        raise ClusterError(reason=Sentence("cluster.unreachable", address=address))
    until = time.monotonic() + pace.trying_s
    while True:
        node = Node(command(address))
        try:
            wait_for_end(node, address, pace.look_s)
        finally:
            node.end()
        there = reached(host, port, pace.reaching_s)
        left = until - time.monotonic()
        if not there:
            _tell(Sentence("cluster.head_gone", address=address))
            while not reached(host, port, pace.reaching_s):
                pass
        elif node.joined.is_set():
            _tell(Sentence("cluster.ended", reason=node.reason()))
        elif left < 0:
            raise ClusterError(reason=Sentence("cluster.no_node", reason=node.reason()))
        else:
            _tell(Sentence("cluster.not_started", minutes=max(1, round(left / 60)), reason=node.reason()))
        if not there or node.joined.is_set():
            until = time.monotonic() + pace.trying_s
        if there:
            time.sleep(pace.again_s)


def _tell(what: Sentence) -> None:
    sys.stderr.write(f"{what}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
