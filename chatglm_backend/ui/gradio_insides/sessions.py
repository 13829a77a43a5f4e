"""What Gradio keeps of each page that was opened, within limits: by itself it keeps ten thousand, closed ones too.

It also describes every component once for each of them, some hundred kilobytes, for links to a page as it stands, which
are not served here, lists all of them anew, and makes each that changed anew. It knows no components.
"""

from __future__ import annotations

import datetime as dt
from collections import ChainMap
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

from gradio.components import Component, State
from gradio.state_holder import SessionState, StateHolder


@dataclass(frozen=True)
class _Undescribed:
    """A page as a session's beginning sees it, with no component to describe."""

    default_config: Any
    blocks: dict[int, Any] = field(default_factory=dict)


class _Nothing(dict[int, Any]):
    """Stays empty whatever is put in."""

    def __setitem__(self, key: int, value: Any) -> None:  # noqa: ANN401 - Gradio's
        pass


Known = MutableMapping[tuple[int, str], Component]
"""The components that sessions hold in place of the page's own, by the number of that one and how they were made."""


class Session(SessionState):  # type: ignore[misc]
    """What a page's components hold for one visitor, without a description of each.

    Nothing changes a component once it was made, so that sessions share those that were made alike, as they share the
    page's own.
    """

    def __init__(self, blocks: Any, known: Known) -> None:  # noqa: ANN401 - Gradio's
        super().__init__(_Undescribed(blocks.default_config))
        self.config_values = _Nothing()
        self.blocks_config.blocks = ChainMap({}, blocks.default_config.blocks)
        self.blocks_config.fns = blocks.default_config.fns
        self._known = known

    def __setitem__(self, key: int, value: Any) -> None:  # noqa: ANN401 - Gradio's
        if isinstance(value, Component) and not isinstance(value, State):
            made = key, repr(value.constructor_args)
            self.blocks_config.blocks[key] = self._known.setdefault(made, value)
        else:
            super().__setitem__(key, value)

    def _update_config(self, key: int) -> None:
        pass

    def _update_value_in_config(self, key: int, value: Any) -> None:  # noqa: ANN401 - Gradio's
        pass


class Sessions(StateHolder):  # type: ignore[misc]
    """At most ``open_kept`` sessions, and of those at most ``closed_kept`` that are closed; the last used stay.

    Closed ones are kept for pages that were only cut off: they come back under the same name. Gradio never takes
    "closed" back, so a session counts as closed only after it has not been used for ``quiet`` either: a page that is
    alive asks for the model's state every few seconds.
    """

    def __init__(
        self,
        *,
        open_kept: int = 512,
        closed_kept: int = 16,
        quiet: dt.timedelta = dt.timedelta(minutes=2),
    ) -> None:
        super().__init__()
        self._open_kept, self._closed_kept, self._quiet = open_kept, closed_kept, quiet
        self._known: Known = WeakValueDictionary()

    def __getitem__(self, session_id: str) -> SessionState:
        """The session of that name, begun if it is new."""
        if session_id not in self.session_data:
            self.session_data[session_id] = Session(self.blocks, self._known)
        return super().__getitem__(session_id)

    def update(self, session_id: str) -> None:
        """Note that a session is in use, and give up what is too much. Called at every access."""
        with self.lock:
            if session_id in self.session_data:
                self.session_data.move_to_end(session_id)
            closed = [name for name in self.session_data if name != session_id and self._closed(name)]
            self._forget(closed[: max(0, len(closed) - self._closed_kept)])
            self._forget(list(self.session_data)[: max(0, len(self.session_data) - self._open_kept)])

    def _closed(self, name: str) -> bool:
        used = self.time_last_used.get(name, dt.datetime.min)  # local time without a zone, as Gradio notes it
        return bool(self.session_data[name].is_closed) and dt.datetime.now() - used >= self._quiet

    def _forget(self, names: list[str]) -> None:
        queue = self.blocks._queue
        for name in names:
            del self.session_data[name]
            self.time_last_used.pop(name, None)
            pending = queue.pending_event_ids_session
            if not any(event in queue.event_ids_to_events for event in pending.get(name, ())):
                pending.pop(name, None)
                queue.pending_messages_per_session.pop(name, None)
