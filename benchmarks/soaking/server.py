"""The real server in a process of its own, and what can be seen of it from outside: counters, memory, log, exit."""

from __future__ import annotations

import json
import os
import re
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

__all__ = ["Sample", "Server"]

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
    """``webui.py`` on 127.0.0.1 with a token, its log in ``folder``. A context, at whose end it is gone."""

    def __init__(self, folder: Path, token: str, flags: Sequence[str] = ()) -> None:
        self.token, self.port = token, _free_port()
        self.samples: list[Sample] = []
        self._log = folder / "log.jsonl"
        command = [
            sys.executable, str(_ROOT / "webui.py"), "--listen", "--host", "127.0.0.1", "--port", str(self.port),
            "--token", token, "--log-format", "json", "--log-level", "info", "--data", str(folder), *flags,
        ]  # fmt: skip
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=_ROOT, env={**os.environ})
        self._watched = psutil.Process(self._process.pid)
        self._end = threading.Event()
        self._ready_at = 0.0

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(20)

    def wait_ready(self) -> None:
        """Until the model answers. Raises RuntimeError with the log's end when it does not."""
        until = time.monotonic() + _START_S
        while time.monotonic() < until and self._process.poll() is None:
            try:
                self._get("/ready")
            except OSError:
                time.sleep(0.2)
                continue
            self._ready_at = time.monotonic()
            threading.Thread(target=self._sample, daemon=True).start()
            return
        raise RuntimeError(f"the server does not get ready: {self._log.read_text(encoding='utf-8')[-2000:]}")

    def get_json(self, path: str) -> Any:  # noqa: ANN401  whatever the route gives
        """A route's reply."""
        return json.loads(self._get(path))

    def counters(self) -> dict[str, float]:
        """All of ``/metrics``, by name and labels as they are written there."""
        lines = (line.rpartition(" ") for line in self._get("/metrics").splitlines() if not line.startswith("#"))
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
        return [json.loads(line) for line in self._log.read_text(encoding="utf-8").splitlines()]

    def raw_log(self) -> str:
        """The log as it was written."""
        return self._log.read_text(encoding="utf-8")

    def terminate(self, seconds: float = 60.0) -> int:
        """SIGTERM, and the exit code."""
        self._end.set()
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(seconds)

    def _get(self, path: str) -> str:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", headers={"authorization": f"Bearer {self.token}"}
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=30) as reply:
            return str(reply.read().decode())

    def _sample(self) -> None:
        while not self._end.wait(_SAMPLE_S):
            try:
                text = self._get("/metrics")
                with self._watched.oneshot():
                    memory, threads, files = (
                        self._watched.memory_info().rss, self._watched.num_threads(), self._watched.num_fds(),
                    )  # fmt: skip
            except (OSError, psutil.Error):
                continue
            running, waiting = (
                int(float(found[1])) if (found := re.search(rf"^chatglm_{name} (\S+)$", text, re.MULTILINE)) else 0
                for name in ("running", "waiting")
            )
            at = time.monotonic() - self._ready_at
            self.samples.append(Sample(at, memory, threads, files, running, waiting))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
