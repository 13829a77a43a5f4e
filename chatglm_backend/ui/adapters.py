"""Fine-tunes on the page: which one answers, and the list of those beside the model. Knows no components."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from queue import SimpleQueue

from chatglm_backend.core import AdapterInfo, LoadProgress, ModelInfo
from chatglm_backend.errors import ChatGLMError
from chatglm_backend.sentences import Texts
from chatglm_backend.service import Service
from chatglm_backend.ui.html import ListView, alert, paragraph, table
from chatglm_backend.ui.render import load_line
from chatglm_backend.units import size

BASE = "-"
"""The choice of the model itself: no fine-tune can have this name."""


@dataclass(frozen=True, slots=True)
class AdapterChoice:
    """What a page offers: labels with values, and the one that is chosen. Hidden where there is nothing to choose."""

    choices: tuple[tuple[str, str], ...]
    value: str | None
    visible: bool


def as_choice(adapter: str) -> str:
    """A fine-tune's name as a choice's value."""
    return adapter or BASE


def adapter_choice(texts: Texts, info: ModelInfo | None, chosen: str | None, *, lasting: bool = False) -> AdapterChoice:
    """The choices beside this model; ``chosen`` ``None`` becomes the first fine-tune.

    One that is not loaded any more gives way to that too, unless it is ``lasting``: a conversation keeps its own.
    """
    names = [one.name for one in info.adapters] if info is not None else []
    choices = [(texts("adapter.base"), BASE), *((name, name) for name in names)]
    if chosen not in (None, BASE, *names):
        if lasting or info is None:
            choices.append((texts("adapter.missing", name=chosen), str(chosen)))
        else:
            chosen = None
    if chosen is None and info is not None:
        chosen = as_choice(info.first_adapter) if names or not lasting else None
    return AdapterChoice(tuple(choices), chosen, len(choices) > 1)


class AdaptersPresenter:
    """The Model page's fine-tunes in one language."""

    def __init__(self, service: Service, texts: Texts) -> None:
        self.texts = texts
        self._service = service

    def view(self, said: str = "") -> ListView:
        """The list as it is now."""
        info = self._service.status().info
        found = () if info is None else info.adapters
        return ListView(self._table(found) if found else "", tuple(one.name for one in found), said)

    def add(self, source: str, *, allowed: bool) -> Iterator[ListView]:
        """Load a fine-tune beside the model, if this visitor may; while one is fetched, how far that is."""
        if not allowed or not source.strip():
            yield self.view()
            return
        steps: SimpleQueue[LoadProgress | None] = SimpleQueue()
        with ThreadPoolExecutor(1, "adding") as pool:
            added = pool.submit(self._service.add_adapter, source.strip(), steps.put)
            added.add_done_callback(lambda _: steps.put(None))
            lines = (load_line(self.texts, step)[0] for step in iter(steps.get, None))
            for line, _ in groupby(lines):
                yield self.view(_said(line))
        try:
            info = added.result()
        except (ChatGLMError, OSError) as error:
            yield self.view(alert(self.texts.say(error)))
        else:
            yield self.view(_said(self.texts("adapter.added", name=info.name, size=size(info.nbytes))))

    def remove(self, name: str, *, allowed: bool) -> ListView:
        """Offer it no more, if this visitor may."""
        if not allowed or not name:
            return self.view()
        try:
            info = self._service.remove_adapter(name)
        except ChatGLMError as error:
            return self.view(alert(self.texts.say(error)))
        return self.view(_said(self.texts("adapter.removed", name=info.name)))

    def _table(self, found: tuple[AdapterInfo, ...]) -> str:
        t = self.texts
        head = [t(f"adapter.column.{key}") for key in ("name", "kind", "bytes", "base")]
        rows = [
            (one.name, t(f"adapter.kind.{one.kind}", size=one.size), size(one.nbytes), one.base or "–") for one in found
        ]
        return table(t("adapter.title"), head, rows)


def _said(text: str) -> str:
    return paragraph(text, "cg-status", "status")
