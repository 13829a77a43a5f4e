"""The server's end: asked to stop, it returns, so that the model's threads are ended in order."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import uvicorn
from chatglm_backend.access.policy import AccessPolicy
from chatglm_backend.access.server import OrderlyServer, server_options
from chatglm_backend.settings import Settings

async def app(scope, receive, send):
    while scope["type"] == "lifespan":
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"].endswith("shutdown"):
            return
        print("started", flush=True)

options = server_options(AccessPolicy(), Settings())
OrderlyServer(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", **options)).run()
print("cleaned up", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to catch")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_and_not_the_process(project_root: Path, number: signal.Signals) -> None:
    """What stands after it is done, and the exit code is 0."""
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT], cwd=project_root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        process.send_signal(number)
        rest, _ = process.communicate(timeout=30)
        assert (process.returncode, rest) == (0, "cleaned up\n")
