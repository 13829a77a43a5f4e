"""The flags that benchmarks have in common."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from chatglm_backend.hardware import plan_threads, read_machine


def read_flags(doc: str | None, models: Sequence[str] = (), /, **defaults: str | int) -> argparse.Namespace:
    """Read the command line: a flag for each of ``defaults``, of its type; one that is among ``models`` takes those.

    ``threads`` 0 become as many as the page would use here. ``doc`` is the module's, whose first line --help shows.
    """
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    for name, default in defaults.items():
        choices = models if default in models else None
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default, choices=choices)
    options = parser.parse_args()
    options.threads = options.threads or plan_threads(read_machine()).threads
    return options
