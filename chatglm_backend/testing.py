"""A scripted service for pages and endpoints: answers that no small model can be made to give.

It streams prepared pieces of text with delays, errors, HTML, LaTeX or thousands of tokens, and
plays a model that loads slowly or fails. It keeps to the interface that the real service has,
so that the page under test is the page people use. No flag reaches it: tests start it themselves.
It knows no model, no page and no HTTP.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from chatglm_backend.core import (
    CancelToken,
    Clock,
    Completed,
    Event,
    FinishReason,
    GenerationRequest,
    LoadProgress,
    ModelInfo,
    ModelState,
    ModelStatus,
    PrefillProgress,
    Queued,
    Timing,
    TokenEvent,
    Usage,
    monotonic_clock,
)
from chatglm_backend.errors import ChatGLMError, EngineFailure, ModelNotReady, ShuttingDown

__all__ = ["SCENES", "Script", "ScriptedPrompt", "ScriptedService", "ScriptedTicket", "scripted_model"]


@dataclass(frozen=True, slots=True)
class Script:
    """One prepared answer. ``delay_s`` is the pause before every piece; ``queue`` the positions shown first.

    ``refuse`` is raised at submission; ``fail_after`` pieces, the stream raises instead of going on.
    """

    pieces: tuple[str, ...]
    delay_s: float = 0.01
    queue: tuple[int, ...] = ()
    prompt_tokens: int = 12
    prefill_units: int = 4
    refuse: ChatGLMError | None = None
    fail_after: int | None = None


@dataclass(frozen=True, slots=True)
class ScriptedPrompt:
    """What the preview shows: the fields of the real encoded prompt."""

    ids: tuple[int, ...]
    text: str


SCENES: Mapping[str, Script] = {
    "AI是什么": Script(("AI", "是", "人工", "智能", "的", "缩写", "，", "它", "让", "机器", "学会", "思考", "。")),
    "What is AI": Script(("AI", " is", " the", " study", " of", " machines", " that", " learn", ".")),
    "slow": Script(tuple(f"word{i} " for i in range(2000)), delay_s=0.05),
    "html": Script(
        ('<img src=x onerror="window.hacked=1">', "<script>window.hacked=2</script>", "<b>not bold</b>", " done")
    ),
    "latex": Script(("Pythagoras: ", "$$a^2+b^2=c^2$$", " and inline ", "$e^{i\\pi}=-1$", ".")),
    "code": Script(("Here:\n\n```python\n", "def add(a, b):\n", "    return a + b\n", "```\n", "That adds.")),
    "markup": Script(
        ("A <b>tag</b>, ", "`<i>`:\n\n~~~python\n", "if a < b:\n", '    print("<p>&lt;</p>")\n', "~~~\n", "Done.")
    ),
    "hostile": Script(
        (
            "<svg onload=window.hacked=2> ",
            "$<img src=x onerror=window.hacked=3>$ ",
            "`</code><script>",
            "window.hacked=4</script>`\n\n",
            "<iframe srcdoc='<script>parent.hacked=5</script>'></iframe>\n\n",
            "[click](javascript:window.hacked=6) ",
            "![x](http://elsewhere.example/picture.png)\n\n",
            "<style>body{display:none}</style>\n\n",
            "```html\n</code></pre><img src=x onerror=window.hacked=7>\n```\n",
        )
    ),
    "sentences": Script(("First", " one.", " Second", " one!", " Third", " one?", " The end"), delay_s=0.4),
    "paragraphs": Script(
        tuple(f"Paragraph {i} of many, with some words in it.\n\n" for i in range(2000)), delay_s=0.05
    ),
    "long": Script(tuple(f"字{i % 10}" for i in range(4000)), delay_s=0.002),
    "queue": Script(("my", " turn"), queue=(3, 2, 1), delay_s=0.2),
    "broken": Script(("half an", " answer"), fail_after=2),
}
"""Scenes by a word in the prompt; the first that occurs in it is played."""


def scripted_model(*, is_demo: bool = False) -> ModelInfo:
    """A model description with believable numbers."""
    return ModelInfo(
        name="scripted-chatglm",
        family="chatglm",
        parameters=41_000_000 if is_demo else 6_200_000_000,
        context_limit=2048,
        kernel="vnni",
        kernel_reason="the CPU has AVX512-VNNI",
        threads=2,
        kv_dtype="float16",
        kv_bytes_per_token=458_752,
        weight_bytes=3_300_000_000,
        is_demo=is_demo,
        other_kernels=("bigdl",),
    )


class ScriptedTicket:
    """The handle of one scripted answer."""

    def __init__(self, request: GenerationRequest, script: Script, clock: Clock = monotonic_clock) -> None:
        self.request_id = request.request_id
        self.made = 0
        self.ended = threading.Event()
        self._request = request
        self._script = script
        self._clock = clock
        self._cancel = CancelToken()
        self._wake = threading.Event()

    def cancel(self, reason: FinishReason = FinishReason.CANCELLED) -> None:
        """End the answer before its next piece."""
        self._cancel.cancel(reason)
        self._wake.set()

    @property
    def cancelled(self) -> bool:
        """Whether someone asked for the end."""
        return self._cancel.cancelled

    def events(self) -> Iterator[Event]:
        """The scripted events, at the script's pace.

        Raises:
            EngineFailure: where the script says so.
        """
        try:
            yield from self._play()
        finally:
            self.ended.set()

    def _play(self) -> Iterator[Event]:
        script, start = self._script, self._clock()
        for position in script.queue:
            yield Queued(position, position * 2.0)
            self._pause(script.delay_s)
        queued_until = self._clock()
        for unit in range(1, script.prefill_units + 1):
            if self._cancel.cancelled:
                break
            self._pause(script.delay_s)
            yield PrefillProgress(script.prompt_tokens * unit // script.prefill_units, script.prompt_tokens)
        first = last = self._clock()
        limit = self._request.params.max_new_tokens
        for index, piece in enumerate(script.pieces[:limit]):
            self._pause(script.delay_s)
            if self._cancel.cancelled:
                break
            if index == script.fail_after:
                raise EngineFailure(reason="a scripted failure")
            self.made = index + 1
            last = self._clock()
            first = last if index == 0 else first
            yield TokenEvent(index, 100 + index, piece)
        if script.fail_after is not None and not self._cancel.cancelled:
            raise EngineFailure(reason="a scripted failure")
        yield Completed(
            self._reason(), Usage(script.prompt_tokens, self.made), self._timing(start, queued_until, first, last)
        )

    def _pause(self, seconds: float) -> None:
        self._wake.wait(seconds)

    def _reason(self) -> FinishReason:
        if self._cancel.cancelled:
            return self._cancel.reason
        return FinishReason.LENGTH if self.made < len(self._script.pieces) else FinishReason.STOP

    def _timing(self, start: float, queued_until: float, first: float, last: float) -> Timing:
        prefill = max(first - queued_until, 1e-6)
        return Timing(
            queue_wait_s=queued_until - start,
            ttft_s=first - start,
            prefill_s=prefill,
            prefill_tok_s=self._script.prompt_tokens / prefill,
            decode_tok_s=(self.made - 1) / (last - first) if self.made > 1 and last > first else None,
            total_s=self._clock() - start,
        )


@dataclass(slots=True)
class ScriptedService:
    """Plays the whole service. ``load_error`` makes loading fail after its stages; ``tickets`` records all answers.

    With ``hold``, loadings stay half done until :meth:`hold_loading` lets them go on.
    """

    scenes: Mapping[str, Script] = field(default_factory=lambda: SCENES)
    fallback: Script = field(default_factory=lambda: Script(("An", " answer", " from", " the", " script", ".")))
    info: ModelInfo = field(default_factory=scripted_model)
    load_seconds: float = 0.0
    load_error: ChatGLMError | None = None
    hold: bool = False
    tickets: list[ScriptedTicket] = field(default_factory=list)
    requests: list[GenerationRequest] = field(default_factory=list)
    loaded: list[str | None] = field(default_factory=list)
    _status: ModelStatus = field(default_factory=lambda: ModelStatus(ModelState.NONE))
    _ready: threading.Event = field(default_factory=threading.Event)
    _stop_load: threading.Event = field(default_factory=threading.Event)
    _closed: bool = False

    def status(self) -> ModelStatus:
        """Where loading is."""
        return self._status

    def load(self, model: str | None) -> None:
        """Begin a scripted loading; returns at once."""
        self.loaded.append(model)
        self._ready.clear()
        self._stop_load.clear()
        if self.load_seconds == 0:
            self._finish()
            return
        self._status = ModelStatus(ModelState.LOADING, LoadProgress("find"))
        threading.Thread(target=self._load, daemon=True).start()

    def hold_loading(self, hold: bool) -> None:  # noqa: FBT001
        """Keep loadings from ending, from now on or no longer."""
        self.hold = hold

    def cancel_load(self) -> None:
        """Stop a loading; the model is then missing."""
        self._stop_load.set()

    def wait_ready(self, timeout_s: float | None = None) -> ModelInfo:
        """Wait for the model.

        Raises:
            ModelNotReady: if it is not ready in time.
        """
        self._ready.wait(timeout_s)
        if self._status.error is not None:
            raise self._status.error
        if self._status.info is None:
            raise ModelNotReady()
        return self._status.info

    def preview_prompt(self, request: GenerationRequest) -> ScriptedPrompt:
        """The prompt in the original recipe's form, or as typed for the raw format."""
        if request.prompt is None:
            text = "\n".join(f"{message.role}: {message.content}" for message in request.messages)
        else:
            text = request.prompt if request.prompt_format == "raw" else f"问：{request.prompt}\n答："
        return ScriptedPrompt(tuple(range(len(text))), text)

    def submit(self, request: GenerationRequest) -> ScriptedTicket:
        """Start the scene whose word occurs in the prompt.

        Raises:
            ModelNotReady: before loading has finished.
            ChatGLMError: what the scene says at submission.
        """
        if self._closed:
            raise ShuttingDown()
        if self._status.state is not ModelState.READY:
            raise ModelNotReady()
        text = request.prompt if request.prompt is not None else request.messages[-1].content
        script = next((scene for word, scene in self.scenes.items() if word in text), self.fallback)
        if script.refuse is not None:
            raise script.refuse
        ticket = ScriptedTicket(request, script)
        self.requests.append(request)
        self.tickets.append(ticket)
        return ticket

    def close(self, drain_s: float = 0.0) -> None:
        """Refuse new requests, give answers ``drain_s`` seconds to end, cancel the rest."""
        self._closed = True
        self._stop_load.set()
        until = monotonic_clock() + drain_s
        for ticket in self.tickets:
            ticket.ended.wait(max(0.0, until - monotonic_clock()))
            ticket.cancel()

    def _load(self) -> None:
        total, stages = 3_300_000_000, ("find", "check", "convert", "map", "warm_up")
        steps = 20
        for step in range(steps):
            stopped = self._stop_load.wait(self.load_seconds / steps)
            while self.hold and step == steps // 2 and not stopped:
                stopped = self._stop_load.wait(0.05)
            if stopped:
                self._status = ModelStatus(ModelState.NONE)
                self._ready.set()
                return
            stage = stages[min(step * len(stages) // steps, len(stages) - 1)]
            done = total * (step + 1) // steps
            self._status = ModelStatus(ModelState.LOADING, LoadProgress(stage, done, total))  # type: ignore[arg-type]
        self._finish()

    def _finish(self) -> None:
        if self.load_error is not None:
            self._status = ModelStatus(ModelState.FAILED, error=self.load_error)
        else:
            self._status = ModelStatus(ModelState.READY, info=self.info)
        self._ready.set()
