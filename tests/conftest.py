"""What every test gets: its own folders, a clean environment, and no way out of the machine."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest


def pytest_report_header() -> str:
    """Print the versions that matter when a test fails elsewhere."""
    names = ("torch", "bigdl-llm", "transformers", "gradio", "numba", "sentencepiece")
    return "versions: " + ", ".join(f"{name} {_version(name)}" for name in names)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of compiled kernels for all tests: each would take seconds to make and to choose its own.

    ``CHATGLM_TEST_KERNELS`` is one that the processes and the steps of a whole run share.
    """
    return Path(os.environ.get("CHATGLM_TEST_KERNELS") or tmp_path_factory.mktemp("kernels"))


@pytest.fixture(autouse=True)
def own_environment(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, compiled: Path) -> None:
    """Give each test a cache with nothing but kernels, an empty data folder, and none of the developer's settings."""
    for name in list(os.environ):
        if name.startswith("CHATGLM_") and name != "CHATGLM_TEST_TOKENIZERS":
            monkeypatch.delenv(name)
    home = tmp_path_factory.mktemp("home")
    (home / "cache").mkdir()
    with contextlib.suppress(OSError):  # Windows lets only some make links
        (home / "cache" / "kernels").symlink_to(compiled, target_is_directory=True)
    monkeypatch.setenv("CHATGLM_CACHE", str(home / "cache"))
    monkeypatch.setenv("CHATGLM_DATA", str(home / "data"))
    monkeypatch.setenv("CHATGLM_CONFIG", str(home / "config.toml"))
    monkeypatch.setenv("HF_HOME", str(home / "huggingface"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(autouse=True)
def loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse every connection that would leave this machine."""
    real_connect = socket.socket.connect

    def connect(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            host = str(address[0])
            local = host == "localhost"
            if not local:
                try:
                    local = ipaddress.ip_address(host).is_loopback
                except ValueError:
                    local = False
            if not local:
                raise AssertionError(f"a test tried to reach {host}")
        return real_connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)


@pytest.fixture
def project_root() -> Path:
    """Return the folder that holds webui.py."""
    return Path(__file__).resolve().parent.parent
