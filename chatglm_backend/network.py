"""Environment variables that keep the page local and quiet, and a home for users without one.

Must run before gradio or httpx are imported.

Standard library only. Knows nothing of the page.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping
from pathlib import Path

__all__ = ["LOCAL_HOSTS", "QUIET", "bypass_proxy_for_localhost", "give_home", "quiet_environment"]

LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")

QUIET: dict[str, str] = {
    "GRADIO_ANALYTICS_ENABLED": "False",  # also switches off Gradio's version check
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Variables that switch off reports to others and idle chatter."""


def quiet_environment(environ: MutableMapping[str, str]) -> None:
    """Switch off telemetry and let nothing local go through a proxy. What the user has set himself stays."""
    for name, value in QUIET.items():
        environ.setdefault(name, value)
    bypass_proxy_for_localhost(environ)
    give_home(environ)


def give_home(environ: MutableMapping[str, str]) -> None:
    """Let ``HOME`` be a folder of the program's where nobody knows it, as with a container's ``--user 12345``.

    Not in a folder that others can write to: compiled code is kept below it.
    """
    if sys.platform == "win32" or environ.get("HOME"):
        return
    import pwd

    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        environ["HOME"] = str(Path(__file__).resolve().parents[1] / ".home")


def bypass_proxy_for_localhost(environ: MutableMapping[str, str]) -> None:
    """Add this machine's names to ``NO_PROXY`` and ``no_proxy``, which libraries read in different order."""
    hosts: list[str] = []
    for name in ("no_proxy", "NO_PROXY"):
        hosts += [host.strip() for host in environ.get(name, "").split(",")]
    if "*" not in hosts:
        hosts += LOCAL_HOSTS
    joined = ",".join(dict.fromkeys(host for host in hosts if host))
    environ["no_proxy"] = environ["NO_PROXY"] = joined
