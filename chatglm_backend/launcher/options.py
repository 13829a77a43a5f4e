"""Splits a command line into the launcher's own flags and those for the page."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from chatglm_backend.errors import ConfigError
from chatglm_backend.hardware import Wishes
from chatglm_backend.sentences import Sentence

Action = Literal["start", "help", "print-env", "dry-run", "setup-only"]

# Of several, the one that does least wins, whatever their order.
_LEAST_FIRST: tuple[Action, ...] = ("help", "dry-run", "print-env", "setup-only", "start")

HELP = """\
Starts the page, after making its Python environment in .venv on the first run.

  {script} [flags of this launcher] [flags of the page]

  --profile server|client   server: the physical cores of one socket, on its own memory (numactl).
                            client: all cores; the fast ones first. Default: chosen from the machine.
  --threads N               exactly N threads
  --allocator NAME          preload tcmalloc or jemalloc from bigdl-llm (Linux; default none)
  --intel-openmp            preload libiomp5, if the package intel-openmp is installed (Linux)
  --print-env               print the variables that would be set, for eval, and stop
  --dry-run                 say what would be done, and do nothing
  --setup-only              make the environment and stop
  --join HEAD:PORT          be one more machine of a cluster instead of a page (docs/cluster.md; Linux)
  --dev                     install requirements-dev.txt as well
  --help                    this text

Everything else goes to the page, for example: --model PATH, --host 127.0.0.1, --port 7860.
--model also takes a name such as chatglm3-6b; docs/models.md lists them.
All flags of the page: {python} webui.py --help

Variables: PYTHON (which Python makes the environment), CHATGLM_VENV (where it lies, default .venv),
CHATGLM_TORCH_INDEX (where torch without CUDA comes from on Linux; 'none' leaves it to pip),
OMP_NUM_THREADS (yours is kept).
"""


@dataclass(frozen=True, slots=True)
class LaunchOptions:
    """What the user asked of the launcher; ``page_args`` are handed on untouched, in order."""

    action: Action = "start"
    wishes: Wishes = field(default_factory=Wishes)
    dev: bool = False
    shell: Literal["sh", "powershell"] = "sh"
    page_args: tuple[str, ...] = ()
    join: str = ""

    @property
    def cluster(self) -> bool:
        """Whether this machine is one of several."""
        return bool(self.join) or "--cluster" in self.page_args


def parse_options(argv: Sequence[str]) -> LaunchOptions:
    """Read the flags wherever they stand; ``--`` ends the launcher's own. Raises ``ConfigError``."""
    end = argv.index("--") if "--" in argv else len(argv)
    own = ["--help" if word == "-h" else word for word in argv[:end]]
    found, page = _parser().parse_known_args(own)
    action = min(found.actions, key=_LEAST_FIRST.index)
    if found.join and (page or argv[end + 1 :]):
        raise _wrong("--join", " ".join((found.join, *page, *argv[end + 1 :])), Sentence("use.join"))
    wishes = Wishes(found.profile, found.threads, found.allocator, found.intel_openmp)
    return LaunchOptions(action, wishes, found.dev, found.shell, (*page, *argv[end + 1 :]), found.join or "")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for action in _LEAST_FIRST[:-1]:
        parser.add_argument(f"--{action}", dest="actions", action="append_const", const=action, default=["start"])
    for switch in ("--dev", "--intel-openmp"):
        parser.add_argument(switch, action="store_true")
    for name, default, allowed in (
        ("--profile", None, ("server", "client")),
        ("--allocator", "none", ("none", "tcmalloc", "jemalloc")),
        ("--shell", "sh", ("sh", "powershell")),
    ):
        parser.add_argument(name, nargs="?", const="", default=default, type=_one_of(name, allowed))
    parser.add_argument("--join", nargs="?", const="", default=None, type=_address)
    parser.add_argument("--threads", nargs="?", const="", type=_whole_number)
    return parser


def _one_of(name: str, allowed: Sequence[str]) -> Callable[[str], str]:
    def check(value: str) -> str:
        if value not in allowed:
            raise _wrong(name, value, Sentence("use.choices", names=", ".join(allowed[:-1]), last=allowed[-1]))
        return value

    return check


def _address(value: str) -> str:
    host, _, port = value.rpartition(":")
    if not host or not port.isdecimal():
        raise _wrong("--join", value, Sentence("use.address"))
    return value


def _whole_number(value: str) -> int:
    if not value.isdecimal() or len(value) > 9:
        raise _wrong("--threads", value, Sentence("use.whole_number"))
    return int(value)


def _wrong(name: str, value: str, reason: Sentence) -> ConfigError:
    return ConfigError(name=name, value=value or Sentence("value.empty"), reason=reason)
