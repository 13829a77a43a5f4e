"""What the scripts beside it share: named checks, and the two servers that they ask."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

BUNDLED, TOOLS, KEY = (os.environ.get(name, "") for name in ("BUNDLED_URL", "TOOLS_URL", "KEY"))
QUESTION, ANSWER = "What is AI?", "artificial intelligence"
"""What the bundled model is asked, and words of its answer."""

WEATHER = {
    "name": "get_weather",
    "description": "The weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
ASK_WEATHER, CITY, TOLD, SUNNY = "How is the weather in Beijing?", {"city": "Beijing"}, "21 degrees", "It is sunny."
"""What the scripted model is asked, the arguments of its call, the result that it is told, and its answer."""

_failed: list[str] = []


@contextmanager
def check(what: str) -> Iterator[None]:
    """Say whether a block ends without an error."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - told, and counted
        _failed.append(what)
        print(f"FAILED {what}: {type(error).__name__}: {str(error)[:600]}", flush=True)
    else:
        print(f"ok {what}", flush=True)


def same(found: object, expected: object) -> None:
    """Raise AssertionError unless they are equal."""
    if found != expected:
        raise AssertionError(f"{found!r} is not {expected!r}")


def holds(whole: str | None, part: str) -> None:
    """Raise AssertionError unless a text has a part."""
    if part.lower() not in (whole or "").lower():
        raise AssertionError(f"no {part!r} in {whole!r}")


def done(*packages: str) -> None:
    """Tell the versions that were used, and end."""
    print("versions " + ", ".join(f"{name} {version(name)}" for name in packages), flush=True)
    sys.exit(len(_failed))
