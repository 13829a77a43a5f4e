"""The real server in a process of its own, and what can be seen of it from outside: counters, memory, log, exit."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

_ROOT = Path(__file__).resolve().parents[2]
_START_S = 180.0
_SAMPLE_S = 1.0


@dataclass(frozen=True, slots=True)
class Sample:
    """The process at one moment. ``at`` is in seconds since the server was ready; memory in bytes."""

    at: float
    resident: int
    threads: int
    files: int
    running: int
    waiting: int


class Server:
    """``webui.py`` of ``root`` on 127.0.0.1 with a token, its data and ``log`` in ``folder``.

    A context, at whose end it is gone.
    """

    def __init__(
        self, folder: Path, token: str, flags: Sequence[str] = (), root: Path = _ROOT, log: str = "log.jsonl"
    ) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.token, self.port = token, int(probe.getsockname()[1])
        self.samples: list[Sample] = []
        self._log = folder / log
        command = [
            sys.executable, str(root / "webui.py"), "--listen", "--host", "127.0.0.1", "--port", str(self.port),
            "--token", token, "--log-format", "json", "--log-level", "info", "--data", str(folder), *flags,
        ]  # fmt: skip
        self._began = time.monotonic()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=root)
        self._watched = psutil.Process(self._process.pid)
        self._end = threading.Event()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(20)

    def seconds_until(self, path: str) -> float:
        """Wait for a route to answer 200; seconds since the process began. Raises RuntimeError with the log's end."""
        while self._process.poll() is None and time.monotonic() - self._began < _START_S:
            try:
                self.get(path)
            except OSError:
                time.sleep(0.02)
                continue
            return time.monotonic() - self._began
        raise RuntimeError(f"{path} never answered: {self.raw_log()[-2000:]}")

    def processor_seconds(self) -> float:
        """What the process has taken of all cores so far: other work on the machine changes it little."""
        times = self._watched.cpu_times()
        return times.user + times.system

    def wait_ready(self) -> None:
        """Until the model answers; from then on a sample is taken every second."""
        self.seconds_until("/ready")
        threading.Thread(target=self._sample, args=(time.monotonic(),), daemon=True).start()

    def open(self, path: str, body: object = None) -> Any:  # noqa: ANN401  urllib's reply
        """Ask a route, past any proxy: GET without a body, POST with one."""
        headers = {"authorization": f"Bearer {self.token}", "content-type": "application/json"}
        raw = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", raw, headers)
        return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60)

    def get(self, path: str) -> str:
        """A route's whole reply."""
        with self.open(path) as reply:
            return str(reply.read().decode())

    def counters(self) -> dict[str, float]:
        """All of ``/metrics``, by name and labels as they are written there."""
        lines = (line.rpartition(" ") for line in self.get("/metrics").splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in lines}

    def wait_idle(self, seconds: float) -> dict[str, float]:
        """The counters once nothing runs or waits, or when time is up."""
        until = time.monotonic() + seconds
        while True:
            found = self.counters()
            if not (found["chatglm_running"] or found["chatglm_waiting"]) or time.monotonic() > until:
                return found
            time.sleep(0.2)

    def log(self) -> list[dict[str, Any]]:
        """Everything logged so far. Raises ValueError for a line that is no JSON."""
        return [json.loads(line) for line in self.raw_log().splitlines()]

    def raw_log(self) -> str:
        """The log as it was written."""
        return self._log.read_text(encoding="utf-8")

    def terminate(self, seconds: float = 60.0) -> int:
        """SIGTERM, and the exit code."""
        self._end.set()
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(seconds)

    def kill(self) -> None:
        """SIGKILL: no goodbye, as when memory or power is gone."""
        self._end.set()
        self._process.kill()
        self._process.wait(20)

    def _sample(self, ready_at: float) -> None:
        while not self._end.wait(_SAMPLE_S):
            try:
                found, seen = self.counters(), self._watched
                sizes = seen.memory_info().rss, seen.num_threads(), seen.num_fds()
            except (OSError, psutil.Error):
                continue
            counts = (int(found.get(f"chatglm_{name}", 0)) for name in ("running", "waiting"))
            self.samples.append(Sample(time.monotonic() - ready_at, *sizes, *counts))
