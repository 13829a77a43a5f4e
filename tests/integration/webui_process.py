"""Starts the whole page in a process of its own, as people do, on a scripted model: ``webui_process.py [flags]``.

The test's side of it is :class:`Running`.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Running:
    """A page in another process. ``log`` is what it writes to standard error."""

    url: str
    process: subprocess.Popen[bytes]
    log_file: Path

    @property
    def log(self) -> str:
        """Everything said so far."""
        return self.log_file.read_text(encoding="utf-8")

    def client(self, **options: object) -> httpx.Client:
        """A browser without a picture: it keeps cookies."""
        return httpx.Client(base_url=self.url, timeout=60, trust_env=False, **options)  # type: ignore[arg-type]

    def end(self, number: signal.Signals = signal.SIGTERM, seconds: float = 60) -> int:
        """Send a signal; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(seconds)


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_page(
    folder: Path, *flags: str, scheme: str = "http", real: bool = False, **environment: str
) -> Iterator[Running]:
    """The page on a free port, once its model is ready: the scripted one, or with ``real`` what the flags say."""
    port, log_file = free_port(), folder / "log.txt"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "webui.py") if real else __file__, "--port", str(port), *flags],
            env={**os.environ, **environment}, cwd=ROOT, stdout=log, stderr=log,
        )  # fmt: skip
    page = Running(f"{scheme}://127.0.0.1:{port}", process, log_file)
    try:
        _wait_until_open(page)
        yield page
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(20)


def _wait_until_open(page: Running) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if page.process.poll() is not None:
            raise AssertionError(f"the page ended with {page.process.returncode}: {page.log}")
        try:
            if httpx.get(f"{page.url}/ready", verify=False, trust_env=False).status_code == 200:  # noqa: S501
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"the page does not open: {page.log}")


def token_of(log: str) -> str:
    """The token in the address that was printed."""
    found = re.search(r"\?token=([A-Za-z0-9_-]+)", log)
    assert found is not None, log
    return found[1]


def ask_page(page: Running, prompt: str, **headers: str) -> str:
    """One prompt through the page's named endpoint, with Gradio's own client; all that comes back, as JSON."""
    from gradio_client import Client

    client = Client(f"{page.url}/en/", headers=headers, verbose=False, analytics_enabled=False)
    try:
        names = client.view_api(print_info=False, return_format="dict")["named_endpoints"]
        assert set(names) == {"/generate"}
        rest = [field.get("parameter_default") for field in names["/generate"]["parameters"][1:]]
        return json.dumps(client.predict(prompt, *rest, api_name="/generate"))
    finally:
        client.close()


def main() -> None:
    """The other process."""
    sys.path.insert(0, str(ROOT))
    from chatglm_backend.access.policy import policy_from
    from chatglm_backend.logs import start_logging
    from chatglm_backend.network import quiet_environment
    from chatglm_backend.service import Service
    from chatglm_backend.testing import ScriptedModel
    from chatglm_backend.ui.listen import take_port
    from chatglm_backend.ui.options import page_settings
    from webui import run_page

    quiet_environment(os.environ)
    settings = page_settings()
    policy = policy_from(settings)
    service, listener = Service(settings, loader=ScriptedModel()), take_port(policy.bind_host, policy.port)
    run_page(service, settings, policy, listener, start_logging(settings))


if __name__ == "__main__":
    main()
