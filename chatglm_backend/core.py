"""The words every room shares: requests, events, timing, model status.

Standard library only. These frozen dataclasses are the borders between the rooms;
they know nothing of models, pages, HTTP or files.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, get_args

from chatglm_backend.errors import InvalidRequest
from chatglm_backend.sampling import GenerationParams as GenerationParams
from chatglm_backend.sentences import Sentence

Role = Literal["system", "user", "assistant", "tool"]

PromptFormat = Literal["recipe", "chat", "raw"]
"""How a single prompt becomes text: the original recipe's form, the family's chat form, or as typed."""

ANY_OBJECT = '{"type": "object"}'
"""The JSON schema of any object."""

Clock = Callable[[], float]
"""Seconds from an arbitrary start, never going backwards."""

monotonic_clock: Clock = time.perf_counter


def uptime_clock() -> float:
    """A clock that goes on while the machine sleeps, as Linux's other ones do not."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if sys.platform == "linux" else time.perf_counter()


# What a terminal writes to colour a text or to name its window, and other characters that nobody means to say.
_TERMINAL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])?")
_PAGE_BREAKS = re.compile(r"[\f\v]")
_CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")


def clean_text(text: str) -> str:
    """Text without a terminal's colours and control characters; page breaks, as in a PDF's text, become line breaks."""
    return _CONTROLS.sub("", _PAGE_BREAKS.sub("\n", _TERMINAL.sub("", text)))


class FinishReason(str, Enum):
    """Why an answer ended. Cancellation is a reason, not an error."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    ``tool`` names the tool that an assistant's message calls, with its content, a JSON object; its result follows.
    """

    role: Role
    content: str
    tool: str = ""

    def __post_init__(self) -> None:
        if self.role not in get_args(Role):
            raise InvalidRequest(field="role", value=str(self.role), reason=Sentence("request.roles"))
        if not isinstance(self.content, str):
            raise InvalidRequest(field="content", value=type(self.content).__name__, reason=Sentence("request.text"))
        object.__setattr__(self, "content", clean_text(self.content))


@dataclass(frozen=True, slots=True)
class Offer(Message):
    """The tools that may be called: a system message whose content is a JSON list of functions, in no model's form."""


@dataclass(frozen=True, slots=True)
class KeptAs:
    """The conversation that an answer is kept in, and whose it is."""

    visitor: str
    conversation: str


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One answer to make: either ``prompt`` (with ``prompt_format``) or ``messages``, never both.

    A last message of the assistant is an answer that is begun already: the new one goes on behind it. ``begun`` is that
    of a ``prompt``.

    ``visitor`` names whose it is, for fairness, limits and the prefix cache; ``ignore_stop_ids`` is for
    benchmarks and checks, which need a fixed number of tokens. ``shared``: others with the same prompt follow as soon
    as it is read. ``adapter`` names a fine-tune of the model; empty is the model itself. An answer must begin with one
    of ``openings`` where there are any, and be JSON that fits ``json_schema``, a schema as text, where there is one.
    What was read for a conversation that is kept, ``kept_as``, may be kept too.
    ``predicted`` is much of what the answer may say, such as the one that it replaces: where it does, it comes sooner.
    ``prompt_chances``: the prompt's own tokens are told like an answer's, and so is the id that ends the answer, as
    evaluation harnesses take the last token for the answer's; ``prompt_only``: there is no answer.
    """

    request_id: str
    visitor: str = "local"
    prompt: str | None = None
    messages: tuple[Message, ...] = ()
    prompt_format: PromptFormat = "recipe"
    params: GenerationParams = field(default_factory=GenerationParams)
    ignore_stop_ids: bool = False
    adapter: str = ""
    shared: bool = False
    openings: tuple[str, ...] = ()
    kept_as: KeptAs | None = None
    json_schema: str | None = None
    predicted: str = ""
    prompt_chances: bool = False
    prompt_only: bool = False
    begun: str = ""

    def __post_init__(self) -> None:
        if (self.prompt is None) == (not self.messages):
            raise InvalidRequest(field="prompt", value="", reason=Sentence("request.prompt_or_messages"))
        if self.prompt_format not in ("recipe", "chat", "raw"):
            raise InvalidRequest(
                field="prompt_format", value=str(self.prompt_format), reason=Sentence("request.formats")
            )
        if self.prompt is not None:
            object.__setattr__(self, "prompt", clean_text(self.prompt))


class CancelToken:
    """A flag that one side sets and the engine reads between units of work. The first reason wins."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._reason = FinishReason.CANCELLED

    def cancel(self, reason: FinishReason = FinishReason.CANCELLED) -> None:
        """Ask for the end; safe from any thread, more than once."""
        with self._lock:
            if not self._event.is_set():
                self._reason = reason
                self._event.set()

    @property
    def cancelled(self) -> bool:
        """Whether the end was asked for."""
        return self._event.is_set()

    @property
    def reason(self) -> FinishReason:
        """The finish reason to report once cancelled."""
        return self._reason


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one request."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    draft_tokens: int = 0
    accepted_draft_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds, milliseconds and rates of one request; ``None`` where nothing was measured.

    ``decode_tok_s`` = (n - 1) / (last - first token); ``prefill_tok_s`` =
    (prompt - cached tokens) / prefill time; ``total_s`` runs from submission to the end.
    """

    queue_wait_s: float = 0.0
    ttft_s: float | None = None
    prefill_s: float | None = None
    prefill_tok_s: float | None = None
    decode_tok_s: float | None = None
    itl_p50_ms: float | None = None
    itl_p95_ms: float | None = None
    total_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Queued:
    """The request waits. ``position`` counts from 1; ``eta_s`` is ``None`` until a speed was measured."""

    position: int
    eta_s: float | None = None


@dataclass(frozen=True, slots=True)
class PrefillProgress:
    """The prompt is being read: ``done`` of ``total`` prompt tokens' worth of work, ``cached`` of them reused."""

    done: int
    total: int
    cached: int = 0


@dataclass(frozen=True, slots=True)
class TokenChance:
    """A token, its ``spelling`` in UTF-8, which may be part of a character, and its probability's logarithm.

    A prompt's first token has none.
    """

    token_id: int
    spelling: bytes
    logprob: float | None


@dataclass(frozen=True, slots=True)
class PromptChances:
    """Of each token of the prompt's text what :class:`TokenEvent` has in ``chances``; comes when it is read."""

    chances: tuple[tuple[TokenChance, ...], ...]


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """One new token. ``text`` may be empty while a character is incomplete; texts concatenate to the answer.

    ``chances``, where asked for: its own, then those of the likeliest tokens in its place, before temperature.
    ``ends_part`` after a token that is no text but begins a further part of the answer, such as a call of a tool.
    """

    index: int
    token_id: int
    text: str
    chances: tuple[TokenChance, ...] = ()
    ends_part: bool = False


@dataclass(frozen=True, slots=True)
class Completed:
    """The last event of every request. ``text`` is what was held back and is now complete, often empty."""

    finish_reason: FinishReason
    usage: Usage
    timing: Timing
    text: str = ""


Event = Queued | PrefillProgress | PromptChances | TokenEvent | Completed


class ModelState(str, Enum):
    """Where the model is in its life."""

    NONE = "none"
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """One stage of getting a model ready: ``stage`` is find, check, download, convert, map or warm_up.

    ``done`` and ``total`` are bytes (``total`` 0 when unknown).
    """

    stage: Literal["find", "check", "download", "convert", "map", "warm_up"]
    done: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class AdapterInfo:
    """A fine-tune beside the model. ``size`` is the largest rank of a LoRA, or the rows of a prefix.

    ``base`` is what it names as its base, perhaps nothing; ``identity`` a hash of what it holds.
    """

    name: str
    kind: Literal["lora", "prefix"]
    size: int
    nbytes: int
    base: str
    path: str
    identity: str


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What is loaded, in words and numbers that a page or a report can show.

    ``context_limit`` is the one in use, ``model_context`` the model's own, 0 where it is the same. ``prefix_rows`` of a
    P-Tuning prefix are inside the model itself; ``tools`` if it was trained to call them, ``completes_code`` if it was
    trained to go on with code and not to chat, ``is_base`` if with texts. ``chat_rounds`` are the earlier rounds that
    it can use, 0: all that fit. ``identity`` is a hash of the weights, empty where they were converted in memory.
    """

    name: str
    family: str
    parameters: int
    context_limit: int
    kernel: str
    kernel_reason: Sentence
    threads: int
    kv_dtype: str
    kv_bytes_per_token: int
    weight_bytes: int
    is_demo: bool = False
    family_reason: Sentence | None = None
    other_kernels: tuple[str, ...] = ()
    adapters: tuple[AdapterInfo, ...] = ()
    prefix_rows: int = 0
    tools: bool = False
    model_context: int = 0
    completes_code: bool = False
    is_base: bool = False
    chat_rounds: int = 0
    identity: str = ""

    @property
    def first_adapter(self) -> str:
        """The fine-tune that answers where nobody chose: the first that was named; empty without one."""
        return self.adapters[0].name if self.adapters else ""

    @property
    def completes(self) -> bool:
        """Whether it goes on with what was typed: it was not trained to chat, nor was a fine-tune that it has."""
        return self.completes_code or (self.is_base and not self.adapters)


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """A snapshot of the model's life: ``progress`` while loading, ``info`` when ready, ``error`` when failed.

    Of several machines some may go on with the model of ``info`` while others load the next.
    """

    state: ModelState
    progress: LoadProgress | None = None
    info: ModelInfo | None = None
    error: Exception | None = None

    @property
    def answers(self) -> bool:
        """Whether there is a model that may be asked."""
        return self.state is ModelState.READY or (self.state is ModelState.LOADING and self.info is not None)


MachineState = Literal["starting", "loading", "ready", "leaving", "lost", "refused", "failed"]


@dataclass(frozen=True, slots=True)
class MachineStatus:
    """One machine of several: what it has loaded, answers it makes and could make, and tokens/s of its last answer.

    ``why`` it is refused or has failed. One that is ``leaving`` ends its answers before it loads another model.
    """

    name: str
    state: MachineState
    info: ModelInfo | None = None
    running: int = 0
    places: int = 0
    tok_s: float | None = None
    why: object = None
