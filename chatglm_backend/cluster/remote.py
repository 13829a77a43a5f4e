"""The parts of a loaded model that are on the machines: its tokenizer, and the fine-tunes beside it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field

from chatglm_backend.cluster.members import Member, Members, same_tune
from chatglm_backend.cluster.ports import Link, MachineLost
from chatglm_backend.core import AdapterInfo, LoadProgress
from chatglm_backend.errors import ChatGLMError, NoMachine

_FETCHING_S = 600.0


@dataclass(slots=True)
class RemoteTokenizer:
    """Decodes on a machine. ``ask`` takes a visitor, a method and its arguments."""

    ask: Callable[..., object]
    _ids: list[int] = field(default_factory=list)

    def stream(self) -> RemoteTokenizer:
        """A decoder of its own."""
        return RemoteTokenizer(self.ask)

    def add(self, token_id: int) -> str:
        """Nothing yet."""
        self._ids.append(token_id)
        return ""

    def finish(self) -> str:
        """The whole text. Raises NoMachine."""
        return str(self.ask("", "decode", self._ids))


@dataclass(slots=True)
class RemoteAdapters:
    """The fine-tunes that all machines have."""

    members: Members

    def infos(self) -> tuple[AdapterInfo, ...]:
        """What they have, in the order in which it was added."""
        return self.members.tunes or ()

    def add(self, source: str, progress: Callable[[LoadProgress], None] | None = None) -> AdapterInfo:
        """Offer it on every machine, or on none. Raises what a machine refuses it with, AdapterError and NoMachine."""
        del progress
        with self.members.tuning:
            info: AdapterInfo | None = None
            done: list[Link] = []
            try:
                for one, link in self._links():
                    found: AdapterInfo = link.call("add_adapter", source, timeout_s=_FETCHING_S)
                    done.append(link)
                    info = info or found
                    same_tune(one, found, info)
            except (ChatGLMError, MachineLost) as error:
                for link in done:
                    link.send("remove_adapter", info.name if info else "")
                if isinstance(error, MachineLost):
                    raise NoMachine from error
                raise
            return self._tell(info, (*self.infos(), *((info,) if info else ())))

    def remove(self, name: str) -> AdapterInfo:
        """Offer it no more. Raises UnknownAdapter and NoMachine."""
        with self.members.tuning:
            info = None
            for _, link in self._links():
                with contextlib.suppress(MachineLost):
                    info = link.call("remove_adapter", name, timeout_s=self.members.pace.silent_s)
            return self._tell(info, tuple(one for one in self.infos() if one.name != name))

    def _links(self) -> list[tuple[Member, Link]]:
        return [(one, one.link) for one in self.members.ready() if one.link is not None]

    def _tell(self, info: AdapterInfo | None, tunes: tuple[AdapterInfo, ...]) -> AdapterInfo:
        if info is None:
            raise NoMachine
        self.members.tunes = tunes
        return info
