"""Starting: this machine as the front and the head of a cluster, or as one more node of it.

    python -m chatglm_backend.cluster.start HEAD:PORT      what ./launch.sh --join HEAD:PORT runs

Whoever reaches a node's ports could run programs on it, so nothing starts without Ray's token authentication.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, MutableMapping
from pathlib import Path

from chatglm_backend.access.tokens import lan_addresses
from chatglm_backend.cluster.front import Front
from chatglm_backend.cluster.members import Members
from chatglm_backend.errors import ClusterError
from chatglm_backend.hardware import Wishes, plan_threads, read_machine
from chatglm_backend.launcher.command import page_environment
from chatglm_backend.logs import Say
from chatglm_backend.sentences import Sentence
from chatglm_backend.service import Service
from chatglm_backend.settings import Settings

_PORT = 6379
_OWN = ("threads", "cache", "kernel")
_REACHING_S, _STARTING_S, _ENDING_S = 5.0, 90.0, 20.0
_JOINING_S, _AGAIN_S = 600.0, 10.0
_LOOK_S, _REFUSALS = 1.0, 2
_ROOT = Path(__file__).resolve().parents[2]
_OBJECT_STORE = 100_000_000  # bytes; what passes between machines is small


def require_token(environ: MutableMapping[str, str]) -> None:
    """See that Ray runs here with token authentication, and has a token. Raises ClusterError."""
    if not sys.platform.startswith("linux"):
        raise ClusterError(reason=Sentence("cluster.linux"))
    mode = environ.setdefault("RAY_AUTH_MODE", "token").lower()
    if mode != "token":
        raise ClusterError(reason=Sentence("cluster.no_auth", mode=mode))
    home = environ.get("HOME") or str(Path.home())
    kept = environ.get("RAY_AUTH_TOKEN_PATH") or str(Path(home, ".ray", "auth_token"))
    if not environ.get("RAY_AUTH_TOKEN") and not Path(kept).is_file():
        ray = Path(sys.executable).with_name("ray")
        raise ClusterError(
            reason=Sentence(
                "cluster.no_token", command=f"umask 077; {ray} get-auth-token --generate > /dev/null", path=kept
            )
        )


def split_address(address: str) -> tuple[str, int]:
    """Host and port. Raises ClusterError."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ClusterError(reason=Sentence("cluster.address", address=address))
    return host.strip("[]"), int(port)


def node_command(address: str, *, head: bool, own: str = "") -> list[str]:
    """What makes this machine a node, for as long as it runs; of the head, ``address`` is its own.

    ``own`` is a further node's address, which else is that from which the head is reached.
    """
    host, port = split_address(address)
    where = [f"--address={address}", f"--node-ip-address={own or _route_to(host)}"]
    if head:
        where = ["--head", f"--node-ip-address={host}", f"--port={port}", "--include-dashboard=false"]
    # Without CPUs of its own to give away, a node starts no spare workers.
    options = ["--block", "--num-cpus=0", "--disable-usage-stats", f"--object-store-memory={_OBJECT_STORE}"]
    return [sys.executable, "-m", "ray.scripts.scripts", "start", *where, *options]


def node_environment(environ: MutableMapping[str, str]) -> dict[str, str]:
    """The variables of a node: its engine finds this program, has the threads of the plan, and tells nobody of itself.

    Nor is it ended for the memory that it was promised, and it ends without asking the head first, which may be gone.
    """
    path = os.pathsep.join(filter(None, [str(_ROOT), environ.get("PYTHONPATH")]))
    plan = page_environment(plan_threads(read_machine(), Wishes(), environ), threads_asked=False)
    return {
        **environ, **plan, "PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0", "RAY_memory_monitor_refresh_ms": "0",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    }  # fmt: skip


@contextlib.contextmanager
def clustered(settings: Settings, say: Say) -> Iterator[Service]:
    """A service over all machines of a cluster, this one among them. Raises ClusterError."""
    require_token(os.environ)
    address = settings.cluster_address or f"{next(iter(lan_addresses()), '127.0.0.1')}:{_PORT}"
    host, port = split_address(address)
    try:
        from chatglm_backend.cluster.on_ray import RayRoster, connect, disconnect
    except ModuleNotFoundError:
        raise ClusterError(reason=Sentence("cluster.no_ray")) from None
    head = _is_here(host)
    if not head and not _reached(host, port, _REACHING_S):
        raise ClusterError(reason=Sentence("cluster.unreachable", address=address))
    for name in _OWN:  # a flag of the page is one of its machine, whose engine reads variables
        if (value := getattr(settings, name)) is not None:
            os.environ[f"CHATGLM_{name.upper()}"] = str(value)
    node = _node(node_command(address, head=head))
    ending, lost = threading.Event(), threading.Event()
    try:
        if not _reached(host, port, _STARTING_S, node):
            raise ClusterError(reason=Sentence("cluster.no_head", command=" ".join(node_command(address, head=True))))
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
        end_node(node)
        if lost.is_set():
            os._exit(1)  # Ray's own end would look for the head for a quarter of a minute


def _is_here(host: str) -> bool:
    """Whether an address is this machine's own."""
    try:
        with socket.create_server((host, 0)):
            return True
    except OSError:
        return False


def _route_to(host: str) -> str:
    """The address from which this machine reaches another; nothing is sent."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, _PORT))
        return str(probe.getsockname()[0])


def _reached(host: str, port: int, timeout_s: float, node: subprocess.Popen[bytes] | None = None) -> bool:
    """Whether somebody listens there in time, as long as the ``node`` lives that is to."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until and (node is None or node.poll() is None):
        with contextlib.suppress(OSError), socket.create_connection((host, port), 1.0):
            return True
        time.sleep(0.2)
    return False


def _node(command: list[str]) -> subprocess.Popen[bytes]:
    """Start it. A Ctrl-C is for this process alone, whose end is the node's."""
    return subprocess.Popen(  # noqa: S603 - our own interpreter
        command, env=node_environment(os.environ), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True, preexec_fn=_end_with_parent,
    )  # fmt: skip


def end_node(node: subprocess.Popen[bytes]) -> None:
    """End it with all its processes."""
    node.terminate()
    try:
        node.wait(_ENDING_S)
    except subprocess.TimeoutExpired:
        node.kill()


def wait_for_end(node: subprocess.Popen[bytes], address: str, look_s: float = _LOOK_S) -> None:
    """Wait for the end of a node, or of its head, which Ray would look for during a minute.

    A head that does not answer at all may only be cut off, and is left to Ray; engines stop by themselves then.
    """
    host, port = split_address(address)
    refused = 0
    while refused < _REFUSALS:
        with contextlib.suppress(subprocess.TimeoutExpired):
            node.wait(look_s)
            return
        try:
            socket.create_connection((host, port), _REACHING_S).close()
            refused = 0
        except ConnectionRefusedError:
            refused += 1
        except OSError:
            refused = 0


def _end_without(
    node: subprocess.Popen[bytes], address: str, ending: threading.Event, lost: threading.Event,
    members: Members, say: Say,
) -> None:  # fmt: skip
    """Stop all engines and end this process in good order when the head has ended; Ray would end it in none."""
    wait_for_end(node, address)
    if not ending.is_set():
        lost.set()
        members.give_up()
        say(str(Sentence("cluster.head_lost")))
        os.kill(os.getpid(), signal.SIGTERM)


def _end_with_parent() -> None:
    """Let the system end this process when the one that started it has ended, however that was."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def main(argv: list[str]) -> int:
    """Be a node of the cluster at ``argv[0]``, and of the head that may come after it; returns the exit code."""
    try:
        require_token(os.environ)
        host, port = split_address(argv[0])
        if importlib.util.find_spec("ray") is None:
            raise ClusterError(reason=Sentence("cluster.no_ray"))
        if not _reached(host, port, _REACHING_S):
            raise ClusterError(reason=Sentence("cluster.unreachable", address=argv[0]))
        command = node_command(argv[0], head=False)
        until = time.monotonic() + _JOINING_S
        while True:
            began = time.monotonic()
            node = _node(command)
            wait_for_end(node, argv[0])
            end_node(node)
            now, shown = time.monotonic(), " ".join(command)
            if now - began > _STARTING_S or not _reached(host, port, _REACHING_S):
                _tell(Sentence("cluster.head_gone", address=argv[0]))
                while not _reached(host, port, _REACHING_S):
                    pass
                until = time.monotonic() + _JOINING_S
            elif now > until:
                raise ClusterError(reason=Sentence("cluster.no_head", command=shown))
            else:
                _tell(Sentence("cluster.again", minutes=max(1, round((until - now) / 60)), command=shown))
                time.sleep(_AGAIN_S)
    except ClusterError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        return 130


def _tell(what: Sentence) -> None:
    sys.stderr.write(f"{what}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
