"""A node of a Ray cluster: its address, the process that makes this machine one, and the end of it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import MutableMapping
from pathlib import Path
from typing import IO

from chatglm_backend.errors import ClusterError
from chatglm_backend.hardware import Wishes, plan_threads, read_machine
from chatglm_backend.launcher.command import page_environment
from chatglm_backend.sentences import Sentence

PORT = 6379
REACHING_S = 5.0
_LOOK_S, _REFUSALS, _ENDING_S = 1.0, 2, 20.0
_ROOT = Path(__file__).resolve().parents[2]
_OBJECT_STORE = 100_000_000  # bytes; what passes between machines is small
_LINES, _LINE, _REASON = 40, 1000, 400
_JOINED = "Ray runtime started"
_FAULT = re.compile(r"[\w.]*(Error|Exception)\b|Error: |.*exited unexpectedly")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def split_address(address: str) -> tuple[str, int]:
    """Host and port, over IPv4. Raises ClusterError."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ClusterError(reason=Sentence("cluster.address", address=address))
    if ":" in host:
        raise ClusterError(reason=Sentence("cluster.ipv6", address=address))
    with contextlib.suppress(OSError):  # a name
        if not any(socket.inet_aton(host)):
            raise ClusterError(reason=Sentence("cluster.any_address", address=address))
    return host, int(port)


def node_command(address: str, *, head: bool, own: str = "") -> list[str]:
    """What makes this machine a node, for as long as it runs; of the head, ``address`` is its own.

    ``own`` is a further node's address, which else is that from which the head is reached. Never shown to be copied:
    without this process's variables it would start a node that asks nobody for a token.
    """
    host, port = split_address(address)
    where = [f"--address={address}", f"--node-ip-address={own or _route_to(host)}"]
    if head:
        where = ["--head", f"--node-ip-address={host}", f"--port={port}", "--include-dashboard=false"]
    # Without CPUs of its own to give away, a node starts no spare workers.
    options = ["--block", "--num-cpus=0", "--disable-usage-stats", f"--object-store-memory={_OBJECT_STORE}"]
    return [sys.executable, "-u", "-m", "ray.scripts.scripts", "start", *where, *options]


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


class Node:
    """The process of ``command``. ``joined`` is set once it has said that it is a node; its last lines are kept.

    A Ctrl-C is for this process alone, whose end is the node's.
    """

    def __init__(self, command: list[str]) -> None:
        self.joined = threading.Event()
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter
            command, env=node_environment(os.environ), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=_end_with_parent,
        )  # fmt: skip
        self._said: deque[str] = deque(maxlen=_LINES)
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), name="node", daemon=True)
        self._reader.start()

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def wait(self, timeout_s: float) -> bool:
        """Whether it has ended in that time."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)
        return not self.running

    def end(self) -> None:
        """End it with all its processes."""
        self._process.terminate()
        if not self.wait(_ENDING_S):
            self._process.kill()

    def reason(self) -> str:
        """Why it has ended or did not start: the last error that it told, else its last line, else its exit code."""
        if not self.running:
            self._reader.join(1.0)
        said = list(self._said)
        begins = max((n for n, line in enumerate(said) if _FAULT.match(line)), default=len(said) - 1)
        return " ".join(said[max(begins, 0) :]).rstrip(".")[:_REASON] or f"exit code {self._process.poll()}"

    def _read(self, told: IO[bytes]) -> None:
        with told:
            for line in iter(lambda: told.readline(_LINE), b""):
                text = _COLOUR.sub("", line.decode(errors="replace")).strip()
                if text:
                    self._said.append(text)
                if _JOINED in text:
                    self.joined.set()


def wait_for_end(node: Node, address: str, look_s: float = _LOOK_S) -> None:
    """Wait for the end of a node, or of its head, which Ray would look for during a minute.

    A head that does not answer at all may only be cut off, and is left to Ray; engines stop by themselves then.
    """
    host, port = split_address(address)
    refused = 0
    while refused < _REFUSALS and not node.wait(look_s):
        try:
            socket.create_connection((host, port), REACHING_S).close()
            refused = 0
        except ConnectionRefusedError:  # noqa: PERF203 - once a second
            refused += 1
        except OSError:
            refused = 0


def is_here(host: str) -> bool:
    """Whether an address is this machine's own."""
    try:
        with socket.create_server((host, 0)):
            return True
    except OSError:
        return False


def reached(host: str, port: int, timeout_s: float, node: Node | None = None) -> bool:
    """Whether somebody listens there in time, as long as the ``node`` lives that is to."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until and (node is None or node.running):
        with contextlib.suppress(OSError), socket.create_connection((host, port), 1.0):
            return True
        time.sleep(0.2)
    return False


def _route_to(host: str) -> str:
    """The address from which this machine reaches another; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, PORT))
        return str(probe.getsockname()[0])


def _end_with_parent() -> None:
    """Let the system end this process when the one that started it has ended, however that was."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
