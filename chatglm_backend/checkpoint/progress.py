"""How the long steps of this room report progress and hear of cancellation. Standard library only."""

from __future__ import annotations

from collections.abc import Callable

from chatglm_backend.core import CancelToken, LoadProgress
from chatglm_backend.errors import LoadCancelled
from chatglm_backend.sentences import Sentence

Progress = Callable[[LoadProgress], None]
Note = Callable[[Sentence], None]
"""Takes one sentence for the user."""


def silent(_: object) -> None:
    """Report nothing."""


def check_cancel(cancel: CancelToken | None, model: str) -> None:
    """Raise LoadCancelled when the user asked for the end."""
    if cancel is not None and cancel.cancelled:
        raise LoadCancelled(model=model)
