"""The parts of a loaded model that are on the machines: its tokenizer, and the fine-tunes beside it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field

from chatglm_backend.cluster.members import Members, same_tune
from chatglm_backend.cluster.ports import Link, MachineLost
from chatglm_backend.core import AdapterInfo, LoadProgress
from chatglm_backend.errors import ChatGLMError, NoMachine, UnknownAdapter

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
        info: AdapterInfo | None = None
        done: list[Link] = []
        with self.members.tune() as (links, tell):
            try:
                for one, link in links:
                    found: AdapterInfo = link.call("add_adapter", source, timeout_s=_FETCHING_S)
                    done.append(link)
                    info = info or found
                    same_tune(one, found, info)
                if info is None:
                    raise NoMachine
                tell(info.name, info)
            except (ChatGLMError, MachineLost) as error:
                for link in done:
                    link.send("remove_adapter", info.name if info else "")
                if isinstance(error, MachineLost):
                    raise NoMachine from error
                raise
            return info

    def remove(self, name: str) -> AdapterInfo:
        """Offer it no more. Raises UnknownAdapter and NoMachine."""
        info = next((one for one in self.infos() if one.name == name), None)
        with self.members.tune() as (links, tell):
            for _, link in links:
                with contextlib.suppress(MachineLost, UnknownAdapter):  # it is compared with the others when it is back
                    info = link.call("remove_adapter", name, timeout_s=self.members.pace.silent_s)
            if not links:
                raise NoMachine
            if info is None:
                raise UnknownAdapter(name=name, names=", ".join(one.name for one in self.infos()) or "-")
            tell(name)
            return info
