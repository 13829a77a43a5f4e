"""Splits a command line into the launcher's own flags and those for the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, cast

from chatglm_backend.errors import ConfigError
from chatglm_backend.hardware import Allocator, Profile, Wishes
from chatglm_backend.sentences import Sentence

Action = Literal["start", "help", "print-env", "dry-run", "setup-only"]

FLAGS: dict[str, tuple[str, ...]] = {
    "--profile": ("server", "client"),
    "--threads": (),
    "--allocator": ("none", "tcmalloc", "jemalloc"),
    "--shell": ("sh", "powershell"),
}
"""Flags with a value, and the values allowed (none listed: a number)."""

_ACTIONS: dict[str, Action] = {
    "-h": "help",
    "--help": "help",
    "--print-env": "print-env",
    "--dry-run": "dry-run",
    "--setup-only": "setup-only",
}
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
  --dev                     install requirements-dev.txt as well
  --help                    this text

Everything else goes to the page, for example: --model PATH, --host 127.0.0.1, --port 7860.
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


def parse_options(argv: Sequence[str]) -> LaunchOptions:
    """Read the flags wherever they stand; ``--`` ends the launcher's own. Raises ``ConfigError``."""
    options, wishes = LaunchOptions(), Wishes()
    page: list[str] = []
    waiting = list(argv)
    while waiting:
        word = waiting.pop(0)
        name, equals, value = word.partition("=")
        if word == "--":
            page += waiting
            break
        if name in FLAGS:
            if not equals:
                value = waiting.pop(0) if waiting else ""
            options, wishes = _with_value(options, wishes, name, value)
        elif word in _ACTIONS:
            action = min(options.action, _ACTIONS[word], key=_LEAST_FIRST.index)
            options = replace(options, action=action)
        elif word == "--dev":
            options = replace(options, dev=True)
        elif word == "--intel-openmp":
            wishes = replace(wishes, intel_openmp=True)
        else:
            page.append(word)
    return replace(options, wishes=wishes, page_args=tuple(page))


def _with_value(options: LaunchOptions, wishes: Wishes, name: str, value: str) -> tuple[LaunchOptions, Wishes]:
    allowed = FLAGS[name]
    if allowed and value not in allowed:
        raise ConfigError(
            name=name,
            value=value or Sentence("value.empty"),
            reason=Sentence("use.choices", names=", ".join(allowed[:-1]), last=allowed[-1]),
        )
    if name == "--threads":
        if not value.isdecimal() or len(value) > 9:
            raise ConfigError(name=name, value=value or Sentence("value.empty"), reason=Sentence("use.whole_number"))
        return options, replace(wishes, threads=int(value))
    if name == "--profile":
        return options, replace(wishes, profile=cast("Profile", value))
    if name == "--allocator":
        return options, replace(wishes, allocator=cast("Allocator", value))
    return replace(options, shell=cast("Literal['sh', 'powershell']", value)), wishes
