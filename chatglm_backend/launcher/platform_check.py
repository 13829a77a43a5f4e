"""Says before anything is installed whether this machine can run it at all."""

from __future__ import annotations

import platform
import sys

from chatglm_backend.errors import UnsupportedPlatform
from chatglm_backend.sentences import Sentence


def check_platform(system: str, machine: str, bits: int, libc: str) -> None:
    """Raise ``UnsupportedPlatform`` unless this is 64-bit Linux (glibc) or Windows on x86-64."""
    if system not in ("Linux", "Windows") or machine.lower() not in ("x86_64", "amd64"):
        name = "macOS" if system == "Darwin" else system
        raise UnsupportedPlatform(platform=Sentence("platform.on", system=name, machine=machine))
    if bits != 64:
        raise UnsupportedPlatform(platform=Sentence("platform.python_32"))
    if system == "Linux" and libc != "glibc":
        raise UnsupportedPlatform(platform=Sentence("platform.no_glibc"))


def check_this_platform() -> None:
    """Check the machine and the Python that run this."""
    bits = 64 if sys.maxsize > 2**32 else 32
    check_platform(platform.system(), platform.machine(), bits, platform.libc_ver()[0])
