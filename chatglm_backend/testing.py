"""A scripted model under the real worker and service: answers that no small model can be made to give.

It streams prepared pieces of text with delays, errors, HTML, LaTeX or thousands of tokens, and plays a model
that loads slowly or fails. No flag reaches it: tests start it themselves. It imports no torch, and knows no
page and no HTTP.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

from chatglm_backend.core import (
    CancelToken,
    Completed,
    Event,
    FinishReason,
    GenerationRequest,
    LoadProgress,
    ModelInfo,
    PrefillProgress,
    PromptChances,
    Queued,
    TokenChance,
    TokenEvent,
    Usage,
    monotonic_clock,
)
from chatglm_backend.engine.json_schema import read_schema
from chatglm_backend.engine.timing import RequestTimer
from chatglm_backend.errors import EngineFailure, LoadCancelled, RequestError
from chatglm_backend.sentences import Sentence
from chatglm_backend.service import LoadedModel, Service
from chatglm_backend.service.loading import Loading
from chatglm_backend.serving.worker import Worker, WorkerOptions
from chatglm_backend.settings import Settings
from chatglm_backend.tokenizers.base import EncodedPrompt

_TICK_S = 0.01
PART = "<|assistant|>"
"""The piece of a script that begins a further part of the answer."""


@dataclass(frozen=True, slots=True)
class Script:
    """One prepared answer. ``delay_s`` is the pause before every piece; ``queue`` the positions shown first.

    ``refuse`` is raised at submission; after ``fail_after`` pieces the answer fails instead of going on.
    """

    pieces: tuple[str, ...]
    delay_s: float = 0.01
    queue: tuple[int, ...] = ()
    prompt_tokens: int = 12
    prefill_units: int = 4
    refuse: RequestError | None = None
    fail_after: int | None = None


SCENES: Mapping[str, Script] = {
    "AI是什么": Script(("AI", "是", "人工", "智能", "的", "缩写", "，", "它", "让", "机器", "学会", "思考", "。")),
    "What is AI": Script(("AI", " is", " the", " study", " of", " machines", " that", " learn", ".")),
    "slow": Script(tuple(f"word{i} " for i in range(2000)), delay_s=0.05),
    "html": Script(
        ('<img src=x onerror="window.hacked=1">', "<script>window.hacked=2</script>", "<b>not bold</b>", " done")
    ),
    "latex": Script(("Pythagoras: ", "$$a^2+b^2=c^2$$", " and inline ", "$e^{i\\pi}=-1$", ".")),
    "code": Script(("Here:\n\n```python\n", "def add(a, b):\n", "    return a + b\n", "```\n", "That adds.")),
    "代码": Script(("代码：\n\n```python\n", "1 in x\n", "```\n", "完。")),
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
    "sentences": Script(("First", " one.", " Second", " one!", " Third", " one?", " The end"), delay_s=0.2),
    "paragraphs": Script(
        tuple(f"Paragraph {i} of many, with some words in it.\n\n" for i in range(2000)), delay_s=0.05
    ),
    "long": Script(tuple(f"字{i % 10}" for i in range(4000)), delay_s=0.002),
    "queue": Script(("my", " turn"), queue=(3, 2, 1), delay_s=0.1),
    "weather": Script(("I look.", PART, "get_weather\n ```python\n", "tool_call(city='Beijing')\n", "```")),
    "broken": Script(("half an", " answer"), fail_after=2),
}
"""Scenes by a word in the prompt; the first that occurs in it is played."""


def scripted_info(*, is_demo: bool = False) -> ModelInfo:
    """A model description with believable numbers."""
    return ModelInfo(
        name="scripted-chatglm",
        family="chatglm",
        parameters=41_000_000 if is_demo else 6_200_000_000,
        context_limit=2048,
        kernel="vnni",
        kernel_reason=Sentence("library.fastest"),
        threads=2,
        kv_dtype="float16",
        kv_bytes_per_token=458_752,
        weight_bytes=3_300_000_000,
        is_demo=is_demo,
        other_kernels=("bigdl",),
    )


@dataclass(eq=False, slots=True)
class ScriptedAnswer:
    """One answer, from the moment it is taken in line; ``made`` pieces are written, ``due`` is the next one's time."""

    request: GenerationRequest
    script: Script
    kernel: str = ""
    made: int = 0
    due: float = 0.0
    ended: threading.Event = field(default_factory=threading.Event)
    cancel: CancelToken = field(default_factory=CancelToken)
    play: Iterator[float | Event | RequestError] = field(default_factory=lambda: iter(()))
    kv_bytes: int = 0

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompt, as the script says."""
        return self.script.prompt_tokens

    def within(self, kv_bytes: int) -> ScriptedAnswer:  # noqa: ARG002
        """It takes no memory."""
        return self

    @property
    def cancelled(self) -> bool:
        """Whether someone asked for the end while it ran."""
        return self.cancel.cancelled


@dataclass(slots=True)
class ScriptedModel:
    """Loads like a model, and answers like an engine. ``answers`` records all that were accepted.

    ``load_error`` makes loading fail after its stages; with ``hold``, loadings stay half done and queues as they are
    until it is taken back.
    """

    scenes: Mapping[str, Script] = field(default_factory=lambda: SCENES)
    fallback: Script = field(default_factory=lambda: Script(("An", " answer", " from", " the", " script", ".")))
    info: ModelInfo = field(default_factory=scripted_info)
    load_seconds: float = 0.0
    load_error: Exception | None = None
    hold: bool = False
    answers: list[ScriptedAnswer] = field(default_factory=list)
    loaded: list[str | None] = field(default_factory=list)
    _running: list[ScriptedAnswer] = field(default_factory=list)

    @property
    def requests(self) -> list[GenerationRequest]:
        """What was asked."""
        return [answer.request for answer in self.answers]

    def __call__(self, model: str | None, how: Loading) -> LoadedModel:
        """A scripted loading, in 20 steps. Raises LoadCancelled and ``load_error``."""
        settings = how.settings
        self.loaded.append(model)
        total, stages, steps = 3_300_000_000, ("find", "check", "convert", "map", "warm_up"), 20
        for step in range(steps if self.load_seconds else 0):
            until = time.monotonic() + self.load_seconds / steps
            while time.monotonic() < until or (self.hold and step == steps // 2):
                if how.cancel.cancelled:
                    raise LoadCancelled(model=str(model))
                time.sleep(_TICK_S)
            stage = cast("Any", stages[step * len(stages) // steps])
            how.progress(LoadProgress(stage, total * (step + 1) // steps, total))
        if self.load_error is not None:
            raise self.load_error
        engines: dict[str, Any] = {
            kernel: SimpleNamespace(prepare=partial(self.prepare, kernel=kernel), start=self.start, step=self.step)
            for kernel in ("", *self.info.other_kernels)
        }
        worker = Worker(engines, WorkerOptions.of(settings, settings.fixed("max_running") or 16))
        return LoadedModel(self.info, cast("Any", None), self.encode, cast("Any", worker))

    def encode(self, request: GenerationRequest) -> EncodedPrompt:
        """The prompt in the original recipe's form, or as typed for the raw format."""
        if request.prompt is None:
            text = "\n".join(f"{message.role}: {message.content}" for message in request.messages)
        else:
            text = request.prompt if request.prompt_format == "raw" else f"问：{request.prompt}\n答："
        return EncodedPrompt(tuple(range(len(text))), text)

    def prepare(self, request: GenerationRequest, *, kernel: str = "") -> ScriptedAnswer:
        """The scene whose word occurs in the prompt. Raises what the scene says at submission, or UnusableSchema."""
        if request.json_schema is not None:
            read_schema(request.json_schema)
        text = request.prompt if request.prompt is not None else request.messages[-1].content
        script = next((scene for word, scene in self.scenes.items() if word in text), self.fallback)
        if script.refuse is not None:
            raise script.refuse
        self.answers.append(ScriptedAnswer(request, script, kernel))
        return self.answers[-1]

    def start(
        self, request: GenerationRequest, cancel: CancelToken, submitted_at: float, prepared: ScriptedAnswer
    ) -> ScriptedAnswer:
        """Begin to play."""
        del request
        prepared.cancel, prepared.play = cancel, _play(prepared, submitted_at, lambda: self.hold)
        self._running.append(prepared)
        return prepared

    def step(self) -> Sequence[tuple[ScriptedAnswer, Event | RequestError]]:
        """What is due now, of all answers; waits a moment where nothing is."""
        results = [result for answer in tuple(self._running) for result in self._advance(answer)]
        if not results:
            time.sleep(_TICK_S)
        return results

    def _advance(self, answer: ScriptedAnswer) -> Iterator[tuple[ScriptedAnswer, Event | RequestError]]:
        if monotonic_clock() < answer.due and not answer.cancelled:
            return
        for found in answer.play:
            if isinstance(found, float):
                answer.due = monotonic_clock() + found
                return
            if isinstance(found, (Completed, RequestError)):
                self._running.remove(answer)
                answer.ended.set()
            yield answer, found


def scripted_service(model: ScriptedModel | None = None, settings: Settings | None = None) -> Service:
    """The real service with a scripted model, loaded. Raises the loading's error."""
    service = Service(settings, loader=model or ScriptedModel(), env={})
    service.load()
    service.wait_ready(30)
    return service


def _chances(answer: ScriptedAnswer, piece: str) -> tuple[TokenChance, ...]:
    """A believable chance, and falling ones of as many other tokens as were asked for."""
    count = answer.request.params.logprobs
    if count is None:
        return ()
    others = [TokenChance(99 + i, f"o{i}".encode(), -float(i)) for i in range(1, count + 1)]
    return (TokenChance(99 + answer.made, piece.encode(), -0.5), *others)


def _play(answer: ScriptedAnswer, start: float, held: Callable[[], bool]) -> Iterator[float | Event | RequestError]:
    """Events, and the pauses between them in seconds."""
    script, timer = answer.script, RequestTimer(monotonic_clock, start)
    for position in script.queue:
        yield Queued(position, position * 2.0)
        yield script.delay_s
        while held() and not answer.cancelled:
            yield _TICK_S
    timer.work_begins()
    for unit in range(1, script.prefill_units + 1):
        if not answer.cancelled:
            yield script.delay_s
            yield PrefillProgress(script.prompt_tokens * unit // script.prefill_units, script.prompt_tokens)
    timer.prompt_read()
    if answer.request.prompt_chances:
        words = re.findall(r"\S+\s*", answer.request.prompt or "")
        first = (TokenChance(1, words[0].encode(), None),)
        yield PromptChances((first, *(_chances(answer, word) for word in words[1:])))
    limit = 0 if answer.request.prompt_only else answer.request.params.max_new_tokens
    for piece in script.pieces[:limit]:
        yield script.delay_s
        if answer.cancelled or answer.made == script.fail_after:
            break
        answer.made += 1
        timer.token()
        begins = piece == PART
        text = "" if begins else piece
        yield TokenEvent(answer.made - 1, 99 + answer.made, text, _chances(answer, text), ends_part=begins)
    if script.fail_after is not None and not answer.cancelled:
        yield EngineFailure(reason="scripted")
        return
    reason = FinishReason.LENGTH if answer.made < len(script.pieces) else FinishReason.STOP
    timing = timer.finish(evaluated_prompt_tokens=script.prompt_tokens)
    usage = Usage(script.prompt_tokens, answer.made)
    yield Completed(answer.cancel.reason if answer.cancelled else reason, usage, timing)
