"""The Speed page: a small benchmark of the loaded model, its table, its plots, its download.

One test at a time for the whole server; it goes through the queue that all answers take. Knows no components.
"""

from __future__ import annotations

import asyncio
import base64
import json
import statistics
import threading
from collections.abc import AsyncGenerator, Sequence
from dataclasses import asdict, dataclass
from html import escape

from chatglm_backend.benchmark.quick import QUICK_PLAN, QUICK_RUNS, QuickItem, QuickResult, measure, wait_until_idle
from chatglm_backend.checkpoint.known import known_model
from chatglm_backend.core import CancelToken, ModelInfo
from chatglm_backend.errors import ChatGLMError, ModelNotReady
from chatglm_backend.sentences import Texts, plain
from chatglm_backend.service import Service
from chatglm_backend.service.kernels import kernel_cache
from chatglm_backend.service.speed import measured, remember
from chatglm_backend.ui.html import alert, bar, paragraph, status_line, table
from chatglm_backend.ui.plots import Spread, bar_plot
from chatglm_backend.units import digits, seconds, spread


@dataclass(frozen=True, slots=True)
class SpeedView:
    """The page at a moment: small HTML each."""

    running: bool
    status: str
    table: str = ""
    plots: str = ""
    download: str = ""


class SpeedDesk:
    """Who measures now, on the whole server: two tests at once would measure each other."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: tuple[str, CancelToken] | None = None

    def begin(self, session: str) -> CancelToken | None:
        """A token for the test that may begin; ``None`` while another one runs."""
        with self._lock:
            if self._running is not None:
                return None
            self._running = (session, CancelToken())
            return self._running[1]

    def end(self, token: CancelToken) -> None:
        """Let the next one begin."""
        with self._lock:
            if self._running is not None and self._running[1] is token:
                self._running = None

    def stop(self, session: str) -> None:
        """Stop this visitor's test."""
        with self._lock:
            if self._running is not None and self._running[0] == session:
                self._running[1].cancel()


class SpeedPresenter:
    """The Speed page's logic in one language."""

    def __init__(
        self,
        service: Service,
        desk: SpeedDesk,
        texts: Texts,
        plan: Sequence[QuickItem] = QUICK_PLAN,
        *,
        runs: int = QUICK_RUNS,
        patience_s: float = 120.0,
    ) -> None:
        """The plan is gone through ``runs`` times, so that a slow moment of the machine does not strike one item alone.

        ``patience_s``: how long others' answers are waited for before each measurement.
        """
        self.texts = texts
        self._patience_s = patience_s
        self._service = service
        self._desk = desk
        self._items = len(plan)
        self._plan = tuple(plan) * runs

    def blank(self) -> SpeedView:
        """The page before a test."""
        return SpeedView(running=False, status=self._line("idle", "speed.idle"))

    async def run(self, session: str) -> AsyncGenerator[SpeedView, None]:
        """Views from the click to the end. Leaving early stops the test."""
        token = self._desk.begin(session)
        if token is None:
            yield SpeedView(running=False, status=self._line("idle", "speed.busy"))
            return
        results: list[QuickResult] = []
        info = self._service.status().info
        try:
            if info is None:
                raise ModelNotReady
            for number, item in enumerate(self._plan):
                if self._busy():
                    yield self._view(info, results, running=True, status=self._progress(number, "speed.waiting"))
                    if not await asyncio.to_thread(wait_until_idle, self._busy, token, self._patience_s):
                        break
                yield self._view(info, results, running=True, status=self._progress(number, "speed.measuring", item))
                found = await asyncio.to_thread(measure, self._service, item, token, visitor=session)
                if found is None:
                    break
                results.append(found)
            if len(results) == len(self._plan):
                self._remember(info, results)
            key = "speed.stopped" if token.cancelled else "speed.gave_way"
            line = self._line("done", "speed.done" if len(results) == len(self._plan) else key)
            yield self._view(info, results, running=False, status=line)
        except ChatGLMError as error:
            yield self._view(info, results, running=False, status=alert(self.texts.say(error)))
        finally:
            token.cancel()
            self._desk.end(token)

    def stop(self, session: str) -> None:
        """Stop this visitor's test; what was measured stays."""
        self._desk.stop(session)

    def _busy(self) -> int:
        metrics = self._service.metrics()
        return 0 if metrics is None else metrics.running + metrics.waiting

    def _line(self, phase: str, key: str) -> str:
        return status_line(phase, self.texts(key), spoken=True)

    def _progress(self, number: int, key: str, item: QuickItem | None = None) -> str:
        text = self.texts(
            key, number=number + 1, total=len(self._plan), tokens=item.prompt_tokens if item else 0,
            batch=item.batch if item else 0,
        )  # fmt: skip
        share = number / len(self._plan)
        progress = bar(self.texts("tab.speed"), "progressbar", share, 100 * number // len(self._plan), 100)
        return status_line("writing", text, busy=True, spoken=True) + progress

    def _view(self, info: ModelInfo | None, results: Sequence[QuickResult], *, running: bool, status: str) -> SpeedView:
        if not results:
            return SpeedView(running=running, status=status)
        download = "" if running or info is None else self._download(info, results)
        return SpeedView(running, status, self._table(results), self._plots(results), download)

    def _table(self, results: Sequence[QuickResult]) -> str:
        t = self.texts
        names = ("prompt", "batch", "ttft", "prefill", "decode")
        rows = [
            (str(runs[0].prompt_tokens), str(runs[0].batch), spread(seconds, [run.ttft_s for run in runs]),
             spread(digits, [run.prefill_tok_s for run in runs]),
             spread(digits, [run.decode_tok_s for run in runs]) + (" *" if any(run.disturbed for run in runs) else ""))
            for runs in self._groups(results)
        ]  # fmt: skip
        note = paragraph(t("speed.disturbed"), "cg-keys") if any(run.disturbed for run in results) else ""
        return table(t("speed.table"), [t(f"speed.column.{name}") for name in names], rows, " cg-measured") + note

    def _groups(self, results: Sequence[QuickResult]) -> list[Sequence[QuickResult]]:
        """The runs of each item that was measured."""
        return [results[place :: self._items] for place in range(min(self._items, len(results)))]

    def _plots(self, results: Sequence[QuickResult]) -> str:
        t, groups = self.texts, self._groups(results)
        alone = sorted((runs for runs in groups if runs[0].batch == 1), key=lambda runs: runs[0].prompt_tokens)
        unit, axis = (
            (1, "seconds") if max(run.ttft_s for runs in alone for run in runs) >= 1 else (1000, "milliseconds")
        )
        waits = [(str(runs[0].prompt_tokens), _spread([run.ttft_s * unit for run in runs])) for runs in alone]
        rates = [
            (str(runs[0].batch), _spread([run.decode_tok_s for run in runs]))
            for runs in groups
            if runs[0].batch > 1 or runs is alone[0]
        ]
        plots = {
            "ttft": bar_plot(t("speed.plot.ttft"), waits, t("speed.axis.prompt"), t(f"speed.axis.{axis}")),
            "decode": bar_plot(t("speed.plot.decode"), rates, t("speed.axis.batch"), t("speed.axis.rate")),
        }
        body = "".join(
            f"<figure>{plot}<figcaption>{escape(t(f'speed.meaning.{name}'))}</figcaption></figure>"
            for name, plot in plots.items()
        )
        meaning = paragraph(t("speed.spread", runs=len(groups[0])), "cg-note")
        return f'{meaning}<div class="cg-plots" id="cg-speed-figures">{body}</div>'

    def _remember(self, info: ModelInfo, results: Sequence[QuickResult]) -> None:
        """Keep the middle of the longest prompt's runs, from which the speed of other models is estimated."""
        row, alone = known_model(info.name), [runs for runs in self._groups(results) if runs[0].batch == 1]
        if row is not None and alone:
            runs = max(alone, key=lambda runs: runs[0].prompt_tokens)
            prefill, decode = (
                statistics.median(found)
                for found in ([run.prefill_tok_s for run in runs], [run.decode_tok_s for run in runs])
            )
            kv = info.kv_bytes_per_token
            speed = measured(row.config, info.threads, runs[0].prompt_tokens, prefill, decode, kv)
            remember(kernel_cache(self._service.settings), row.config, speed)

    def _download(self, info: ModelInfo, results: Sequence[QuickResult]) -> str:
        document = {"model": plain(info), "runs": [asdict(run) for run in results]}
        data = base64.b64encode(json.dumps(document, ensure_ascii=False, indent=2).encode()).decode()
        return (
            f'<div class="cg-chips"><a class="cg-tool" download="chatglm-speed.json" '
            f'href="data:application/json;base64,{data}">{escape(self.texts("speed.json"))}</a>'
            f'<button type="button" class="cg-tool" data-action="png" data-from="cg-speed-figures">'
            f"{escape(self.texts('speed.png'))}</button></div>"
        )


def _spread(values: Sequence[float]) -> Spread:
    return min(values), statistics.median(values), max(values)
