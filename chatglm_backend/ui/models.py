"""The Model page beyond loading: what is kept, what a model needs, the doctor's report. Knows no components."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from chatglm_backend.checkpoint.cache import CacheEntry
from chatglm_backend.checkpoint.known import disk_bytes
from chatglm_backend.core import ModelState
from chatglm_backend.errors import ChatGLMError
from chatglm_backend.sentences import Texts
from chatglm_backend.service import Service
from chatglm_backend.service.keeping import Keeper
from chatglm_backend.service.needs import Offer
from chatglm_backend.service.speed import Speed
from chatglm_backend.store.folder import shown_path
from chatglm_backend.ui.html import alert, paragraph, terms
from chatglm_backend.units import rate, size


class ModelsPresenter:
    """The Model page's logic in one language. ``shared`` says that other machines reach the page."""

    def __init__(self, service: Service, keeper: Keeper, texts: Texts, shared: bool) -> None:  # noqa: FBT001
        self.texts = texts
        self.shared = shared
        self._service = service
        self._keeper = keeper

    def kept(self, *, allowed: bool) -> str:
        """What is kept on the disk, each with its button and the question that it asks first."""
        try:
            entries = self._keeper.entries()
        except OSError as error:
            return alert(self.texts.say(error))
        if not entries:
            return paragraph(self.texts("kept.nothing"))
        return _listed(self.texts("kept.title"), "", [self._entry(entry, allowed) for entry in entries])

    def delete(self, name: str, *, allowed: bool) -> str:
        """Delete one entry, if this visitor may; says what became of it."""
        if not allowed:
            return self.refusal()
        info = self._service.status().info
        try:
            entry = self._keeper.delete(name, None if info is None else info.name)
        except (ChatGLMError, OSError) as error:
            return alert(self.texts.say(error))
        return paragraph(self.texts("kept.deleted", name=entry.name, size=size(entry.nbytes)), "cg-status", "status")

    def needs(self, model: str, *, allowed: bool = True) -> str:
        """What a folder or hub id takes, beside what there is; empty where that cannot be told.

        Nor is it told to visitors who may not load: the answer says which folders there are.
        """
        if not allowed:
            return ""
        try:
            needs = self._keeper.needs(model.strip()) if model.strip() else None
        except (ChatGLMError, OSError) as error:
            return alert(self.texts.say(error))
        if needs is None:
            return ""
        text = self.texts(
            "needs.line", disk=size(needs.disk), free_disk=size(needs.free_disk), memory=size(needs.memory),
            free_memory=size(needs.free_memory),
        )  # fmt: skip
        if needs.enough:
            return paragraph(text, role="status")
        return paragraph(f"{text} {self.texts('needs.short')}", "cg-demo", "status")

    def offers(self, *, allowed: bool) -> str:
        """The models that people can get, each with its button; without buttons that work while one is loading."""
        try:
            offers = self._keeper.offers()
        except OSError as error:
            return alert(self.texts.say(error))
        status = self._service.status()
        ready = allowed and status.state is not ModelState.LOADING
        speed = None if status.info is None else self._keeper.speed(status.info.threads)
        rows = [self._offer(offer, ready, speed) for offer in offers]
        return _listed(self.texts("known.title"), self.texts("known.note"), rows)

    def _entry(self, entry: CacheEntry, allowed: bool) -> str:  # noqa: FBT001
        t, taken = self.texts, size(entry.nbytes)
        kind = t(f"kept.kind.{entry.kind}") + ("" if entry.complete else f" ({t('kept.incomplete')})")
        asked = "kept.ask_kv" if entry.kind == "kv" else "kept.ask"
        question = t(asked, name=entry.name, size=taken)
        return (
            f"<li><div><b>{escape(entry.name)}</b><br><small>{escape(kind)} · {taken}</small></div>"
            f'<button type="button" class="cg-chip" data-kept="{escape(entry.name)}" data-confirm="{escape(question)}" '
            f'aria-label="{escape(t("kept.delete_of", name=entry.name))}"{"" if allowed else " disabled"}>'
            f"{escape(t('kept.delete'))}</button></li>"
        )

    def _offer(self, offer: Offer, ready: bool, speed: Speed | None) -> str:  # noqa: FBT001
        t, model, needs = self.texts, offer.model, offer.needs
        here = f"{t(f'known.here.{offer.here}')} · " if offer.here else ""
        facts = t(
            "known.facts", download=size(model.download_bytes), disk=size(disk_bytes(model.config)),
            memory=size(needs.memory), tokens=needs.context,
        )  # fmt: skip
        facts += "" if model.checked else f" · {t('known.unchecked')}"
        word, said = ("model.load", "known.load_of") if offer.here else ("known.get", "known.get_of")
        fit = f"{here}{t.say(needs.hint)}"
        if speed is not None and needs.fit in ("full", "short"):
            fit += f" · {t('known.rate', rate=rate(speed.rate(model.config)))}"
        label = escape(t(said, name=model.name)) + ('"' if ready else '" disabled')
        return (
            f"<li><div><b>{escape(model.name)}</b> {escape(t.say(model.use))}<br><small>{escape(facts)}</small><br>"
            f'<small class="cg-fit" data-fit="{needs.fit}">{escape(fit)}</small></div>'
            f'<button type="button" class="cg-chip" data-load="{escape(model.hub_id)}" '
            f'aria-label="{label}>{escape(t(word))}</button></li>'
        )

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
        return terms(self.texts("doctor.title"), [(self.texts(f"doctor.{key}"), lines) for key, lines in rows])

    def refusal(self) -> str:
        """Why this visitor may look but not change."""
        return paragraph(self.texts("model.only_here"), "cg-demo", "note")


def _listed(title: str, note: str, rows: Iterable[str]) -> str:
    """A heading, a remark, and what there is."""
    below = paragraph(note) if note else ""
    return f'<h2 class="cg-heading">{escape(title)}</h2>{below}<ul class="cg-models">{"".join(rows)}</ul>'
