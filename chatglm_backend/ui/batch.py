"""The Batch page: one file of each visitor, its template, its answers. Knows no components.

Everything is in a folder for each visitor, so that it outlives a reload and a restart; after a day it is deleted.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from chatglm_backend.api.answering import Answering
from chatglm_backend.batch.inputs import KINDS, read_lines
from chatglm_backend.batch.journal import Journal
from chatglm_backend.batch.runner import BatchRun
from chatglm_backend.core import Clock, uptime_clock
from chatglm_backend.errors import BatchRefused, ChatGLMError
from chatglm_backend.sentences import Sentence, Texts
from chatglm_backend.service import Service
from chatglm_backend.settings import Settings
from chatglm_backend.store.folder import data_folder, private_folder
from chatglm_backend.ui.html import alert, bar, paragraph, status_line

_KEPT_S, _MOST_KEPT, _MOST_LINES = 86_400.0, 50, 10_000
_JUMP_S = 3600.0
_PACE_S = 0.5


class BatchDesk:
    """The files of all visitors, and what is being answered. One per process; thread-safe."""

    def __init__(
        self,
        service: Service,
        settings: Settings,
        *,
        now: Callable[[], float] = time.time,
        clock: Clock = uptime_clock,
    ) -> None:
        self._now, self._clock, self._apart = now, clock, now() - clock()
        self._answering = Answering(service, settings)
        # One of the visitor's places is left for what they ask beside.
        self._at_once = max(1, settings.visitor_limit - 1)
        self._root = data_folder(settings) / "batches"
        self._lock = threading.Lock()
        self._runs: dict[str, BatchRun] = {}

    async def keep_tidy(self) -> None:
        """Delete what is old, now and every hour."""
        while True:
            await asyncio.to_thread(self._tidy)
            await asyncio.sleep(3600)

    def take(self, visitor: str, name: str, data: bytes) -> None:
        """Keep a file in place of the one before. Raises BatchRefused, HistoryUnavailable, OSError."""
        kind = Path(name).suffix.lower()
        if kind not in KINDS:
            raise BatchRefused(path=name, reason=Sentence("batch.kinds"))
        if data.count(b"\n") > _MOST_LINES:
            raise BatchRefused(path=name, reason=Sentence("batch.too_many", most=_MOST_LINES))
        with self._lock:
            if self.running(visitor):
                raise BatchRefused(path=name, reason=Sentence("batch.running"))
            self._runs.pop(visitor, None)
            folder = self._folder(visitor)
            shutil.rmtree(folder, ignore_errors=True)
            private_folder(folder)
            (folder / f"input{kind}").write_bytes(data)
        self.choose(visitor, "", name)
        self._tidy()

    def choose(self, visitor: str, template: str, name: str | None = None) -> None:
        """Remember what is shown."""
        with suppress(OSError):
            about = {"name": name or self.about(visitor)["name"], "template": template}
            (self._folder(visitor) / "about.json").write_text(json.dumps(about), encoding="utf-8")

    def about(self, visitor: str) -> dict[str, str]:
        """The file's ``name``, empty where there is none, and the ``template``."""
        try:
            found = json.loads((self._folder(visitor) / "about.json").read_text(encoding="utf-8"))
            return {"name": str(found["name"]), "template": str(found["template"])}
        except (OSError, ValueError, LookupError, TypeError):
            return {"name": "", "template": ""}

    def source(self, visitor: str) -> Path:
        """The visitor's file. Raises BatchRefused where there is none."""
        for kind in KINDS:
            if (path := self._folder(visitor) / f"input{kind}").exists():
                return path
        raise BatchRefused(path="–", reason=Sentence("batch.none"))

    def target(self, visitor: str) -> Path:
        """Where the answers are; each template has a file of its own."""
        template = self.about(visitor)["template"]
        return self._folder(visitor) / f"{hashlib.sha256(template.encode('utf-8', 'replace')).hexdigest()[:12]}.jsonl"

    def start(self, visitor: str, template: str, texts: Texts) -> None:
        """Go on with the visitor's file; its errors are told in the page's words. Raises BatchRefused, OSError."""
        with self._lock:
            if self.running(visitor):
                return
            lines = read_lines(self.source(visitor), template)
            self.choose(visitor, template)
            journal = Journal(self.target(visitor))
            try:
                self._runs[visitor] = BatchRun(
                    self._answering, lines, journal, visitor=visitor, at_once=self._at_once, say=texts.say
                )
            except BaseException:
                journal.close()
                raise

    def stop(self, visitor: str) -> None:
        """End the visitor's batch; what is answered stays."""
        if run := self._runs.get(visitor):
            run.stop()

    def run(self, visitor: str) -> BatchRun | None:
        """The visitor's batch of this process."""
        return self._runs.get(visitor)

    def running(self, visitor: str) -> bool:
        """Whether something of the visitor's is being answered."""
        run = self._runs.get(visitor)
        return run is not None and not run.ended

    def _folder(self, visitor: str) -> Path:
        return self._root / hashlib.sha256(visitor.encode()).hexdigest()[:32]

    def _tidy(self) -> None:
        """Delete what is old, and the oldest of too many, but for what is being answered.

        After the time of day has jumped, all that is there counts as new.
        """
        with self._lock, suppress(OSError):
            now, before, self._apart = self._now(), self._apart, self._now() - self._clock()
            jumped = abs(self._apart - before) > _JUMP_S
            self._runs = {visitor: run for visitor, run in self._runs.items() if self._folder(visitor).exists()}
            busy = {self._folder(visitor) for visitor in self._runs if self.running(visitor)}
            found = sorted((path.stat().st_mtime, path) for path in self._root.iterdir() if path not in busy)
            for number, (changed, path) in enumerate(found):
                if len(found) - number > _MOST_KEPT or (now - changed > _KEPT_S and not jumped):
                    shutil.rmtree(path, ignore_errors=True)
                elif jumped:
                    os.utime(path, (now, now))


@dataclass(frozen=True, slots=True)
class BatchView:
    """The page at a moment: small HTML each."""

    running: bool
    name: str
    status: str
    download: str


class BatchPresenter:
    """The Batch page's logic in one language."""

    def __init__(self, desk: BatchDesk, texts: Texts) -> None:
        self.texts = texts
        self.desk = desk

    def view(self, visitor: str, problem: Exception | None = None) -> BatchView:
        """What there is now."""
        t, run, name = self.texts, self.desk.run(visitor), self.desk.about(visitor)["name"]
        running = run is not None and not run.ended
        problem = problem or (run.error if run is not None and not running else None)
        if problem is not None:
            status = alert(t.say(said(problem)))
        elif run is None:
            status = status_line("idle", t("batch.ready" if name else "batch.idle"), spoken=True)
        elif running:
            now = run.progress()
            share = bar(t("tab.batch"), "progressbar", now.done / now.total, now.done, now.total)
            status = status_line("writing", t.say(now.line), busy=True, spoken=True) + share
        else:
            now = run.progress()
            whole = now.done == now.total
            text = t.say(now.summary) if whole else t("batch.stopped", done=now.done, total=now.total)
            status = status_line("done", text, spoken=True)
        ready = bool(name) and _has_content(self.desk.target(visitor))
        link = f'<a class="cg-tool" href="./batch/output" download>{t("batch.download")}</a>' if ready else ""
        return BatchView(running, paragraph(t("batch.file", name=name)) if name else "", status, link)

    def preview(self, visitor: str, template: str) -> str:
        """The first line's question, or why there is none."""
        if not self.desk.about(visitor)["name"]:
            return ""
        try:
            lines = read_lines(self.desk.source(visitor), template)
        except (ChatGLMError, OSError) as error:
            return paragraph(self.texts.say(said(error)), "cg-note")
        asked = self.texts.say(lines[0].problem) if lines[0].problem else _question(lines[0].body)
        return paragraph(self.texts("batch.preview", count=len(lines), prompt=asked[:500]), "cg-note")

    async def follow(self, visitor: str) -> AsyncGenerator[BatchView, None]:
        """Views from now to the end of what is being answered."""
        while True:
            view = await asyncio.to_thread(self.view, visitor)
            yield view
            if not view.running:
                return
            await asyncio.sleep(_PACE_S)

    async def start(self, visitor: str, template: str) -> AsyncGenerator[BatchView, None]:
        """Views from the click to the end. Leaving does not stop it."""
        try:
            await asyncio.to_thread(self.desk.start, visitor, template, self.texts)
        except (ChatGLMError, OSError) as error:
            yield self.view(visitor, error)
            return
        async for view in self.follow(visitor):
            yield view


def said(problem: Exception) -> Exception | Sentence:
    """What has gone wrong, without where on the server it is."""
    if isinstance(problem, OSError):
        reason = problem.strerror or type(problem).__name__
        return Sentence("file.unusable", path=Path(problem.filename or "–").name, problem=reason)
    return problem


def _question(body: object) -> str:
    """What a request's last message or prompt says, as far as it can be told."""
    asked = body if isinstance(body, dict) else {}
    messages = asked.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else {}
    return str(last.get("content", "") if isinstance(last, dict) and last else asked.get("prompt", ""))


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False
