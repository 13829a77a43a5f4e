"""The Model page beyond loading: what is kept, what a model needs, the doctor's report. Knows no components."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Protocol

from chatglm_backend.checkpoint.cache import CacheEntry
from chatglm_backend.errors import ChatGLMError
from chatglm_backend.sentences import Texts
from chatglm_backend.service.keeping import Needs
from chatglm_backend.service.report import Findings
from chatglm_backend.store.folder import shown_path
from chatglm_backend.ui.ports import PageService
from chatglm_backend.units import size

__all__ = ["KeptView", "ModelKeeper", "ModelsPresenter"]


class ModelKeeper(Protocol):
    """The part of the service's keeper that the page uses."""

    def entries(self) -> tuple[CacheEntry, ...]:
        """Everything kept."""
        ...

    def delete(self, name: str, in_use: str | None) -> CacheEntry:
        """Delete one entry."""
        ...

    def report(self) -> Findings:
        """The doctor's report."""
        ...

    def needs(self, model: str) -> Needs | None:
        """What a model takes."""
        ...


@dataclass(frozen=True, slots=True)
class KeptView:
    """What is kept: a table, the names one can delete, and what was just said."""

    table: str
    names: tuple[str, ...]
    said: str = ""


class ModelsPresenter:
    """The Model page's logic in one language."""

    def __init__(self, service: PageService, keeper: ModelKeeper, texts: Texts) -> None:
        self.texts = texts
        self._service = service
        self._keeper = keeper

    def kept(self, said: str = "") -> KeptView:
        """The list as it is now."""
        try:
            entries = self._keeper.entries()
        except OSError as error:
            return KeptView(self._alert(error), ())
        if not entries:
            return KeptView(f'<p class="cg-facts">{escape(self.texts("kept.nothing"))}</p>', (), said)
        return KeptView(self._table(entries), tuple(entry.name for entry in entries), said)

    def ask(self, name: str | None) -> str:
        """The question before a deletion; empty where nothing was chosen."""
        entry = next((entry for entry in self._keeper.entries() if entry.name == name), None)
        if entry is None:
            return ""
        question = self.texts("kept.ask", name=entry.name, size=size(entry.nbytes))
        return f'<p class="cg-demo" role="alert">{escape(question)}</p>'

    def delete(self, name: str, *, allowed: bool) -> KeptView:
        """Delete one entry, if this visitor may."""
        if not allowed:
            return self.kept(self.refusal())
        info = self._service.status().info
        try:
            entry = self._keeper.delete(name, None if info is None else info.name)
        except (ChatGLMError, OSError) as error:
            return self.kept(self._alert(error))
        said = self.texts("kept.deleted", name=entry.name, size=size(entry.nbytes))
        return self.kept(f'<p class="cg-status" role="status">{escape(said)}</p>')

    def needs(self, model: str, *, allowed: bool = True) -> str:
        """What a folder or hub id takes, beside what there is; empty where that cannot be told.

        Nor is it told to visitors who may not load: the answer says which folders there are.
        """
        if not allowed:
            return ""
        try:
            needs = self._keeper.needs(model.strip()) if model.strip() else None
        except (ChatGLMError, OSError) as error:
            return self._alert(error)
        if needs is None:
            return ""
        text = self.texts(
            "needs.line", disk=size(needs.disk), free_disk=size(needs.free_disk), memory=size(needs.memory),
            free_memory=size(needs.free_memory),
        )  # fmt: skip
        if needs.enough:
            return f'<p class="cg-facts" role="status">{escape(text)}</p>'
        return f'<p class="cg-demo" role="status">{escape(text)} {escape(self.texts("needs.short"))}</p>'

    def report(self, *, allowed: bool = True) -> str:
        """The doctor's report; it names folders, so not for visitors elsewhere."""
        if not allowed:
            return self.refusal()
        found, said = self._keeper.report(), self.texts.say
        hardware, plan = found.hardware, found.hardware["plan"]
        memory = f"{size(hardware['memory_available'])} / {size(hardware['memory_total'])}"
        rows = [
            ("cpu", [f"{hardware['cpu'] or '–'} ({hardware['system']}, {hardware['architecture']})"]),
            ("cores", [f"{hardware['physical_cores']} / {hardware['logical_cpus']}"]),
            ("memory", [memory]),
            ("threads", [str(plan["threads"]), *map(said, plan["reasons"])]),
            ("library", [str(found.int4.get("variant", "–")), said(found.int4.get("library_reason", ""))]),
            ("kernel", [str(found.int4.get("kernel") or "–"), said(found.int4.get("kernel_reason", ""))]),
            ("versions", [f"{name} {said(number)}" for name, number in found.versions.items()]),
            ("folders", [f"{self.texts(f'place.{name}')}: {shown_path(path)}" for name, path in found.folders.items()]),
            ("fixes", [said(fix) for fix in found.fixes] or [self.texts("doctor.nothing")]),
        ]
        cells = "".join(
            f"<dt>{escape(self.texts(f'doctor.{key}'))}</dt><dd>{_lines(lines)}</dd>" for key, lines in rows
        )
        return f'<dl class="cg-table" aria-label="{escape(self.texts("doctor.title"))}">{cells}</dl>'

    def refusal(self) -> str:
        """Why this visitor may look but not change."""
        return f'<p class="cg-demo" role="note">{escape(self.texts("model.only_here"))}</p>'

    def _table(self, entries: tuple[CacheEntry, ...]) -> str:
        t = self.texts
        head = "".join(f'<th scope="col">{escape(t(f"kept.{name}"))}</th>' for name in ("name", "kind", "size"))
        rows = ""
        for entry in entries:
            kind = t(f"kept.kind.{entry.kind}") + ("" if entry.complete else f" ({t('kept.incomplete')})")
            rows += f"<tr><td>{escape(entry.name)}</td><td>{escape(kind)}</td><td>{size(entry.nbytes)}</td></tr>"
        return (
            f'<div class="cg-scroll" tabindex="0" role="region" aria-label="{escape(t("kept.title"))}">'
            f'<table class="cg-grid-table"><caption>{escape(t("kept.title"))}</caption><thead><tr>{head}</tr></thead>'
            f"<tbody>{rows}</tbody></table></div>"
        )

    def _alert(self, error: BaseException) -> str:
        return f'<div class="cg-alert" role="alert">{escape(self.texts.say(error))}</div>'


def _lines(lines: list[str]) -> str:
    return "<br>".join(escape(line) for line in lines if line)
