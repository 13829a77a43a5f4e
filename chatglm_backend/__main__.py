"""``python -m chatglm_backend``; a Python without our packages gets one sentence instead of a traceback."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from chatglm_backend.installed import missing_sentence

INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells expect it."""


def start(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    try:
        from chatglm_backend.cli.app import main
    except ModuleNotFoundError as error:
        sentence = missing_sentence(error)
        if not sentence:
            raise
        return _tell(sentence, as_json="--json" in arguments)
    except KeyboardInterrupt:
        return INTERRUPTED
    return main(arguments)


def _tell(sentence: str, *, as_json: bool) -> int:
    sys.stderr.write(sentence + "\n")
    if as_json:
        document = {"ok": False, "error": {"code": "not_installed", "message": sentence}}
        sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
    return 1


def end(code: int) -> NoReturn:
    """End the program; after Ctrl-C without waiting for threads that are in the middle of something."""
    if code == INTERRUPTED:
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    end(start(sys.argv[1:]))
