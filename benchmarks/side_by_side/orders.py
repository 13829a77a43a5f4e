"""What every system under test does: it says that it is ready, and then measures itself on orders.

One JSON object a line each way, by standard input and output. Standard library only: peers run it with interpreters
of their own, from this folder.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable


def serve(measure: Callable[..., dict[str, object]], **greeting: object) -> None:
    """Answer each order, whose fields are the arguments of ``measure``, until standard input ends."""
    print(json.dumps({"ready": True, **greeting}), flush=True)
    for line in sys.stdin:
        print(json.dumps(measure(**json.loads(line))), flush=True)
