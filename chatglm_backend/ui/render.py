"""Small pieces of HTML: status lines, the timing panel, the model's card. All text is escaped here.

It knows the catalogue and the style sheet's class names, and no components.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

import psutil

from chatglm_backend import units
from chatglm_backend.core import FinishReason, LoadProgress, MachineStatus, ModelInfo, ModelState, ModelStatus
from chatglm_backend.sentences import Texts
from chatglm_backend.store.records import Place
from chatglm_backend.ui.html import alert, bar, chips, paragraph, status_line, table, terms
from chatglm_backend.ui.plots import sparkline
from chatglm_backend.ui.progress import Answer, Phase

_NONE = "–"
_LONG_S = 3.0  # shorter waits need no forecast
_FAMILIES = {"chatglm": "ChatGLM-6B", "chatglm2": "ChatGLM2-6B", "chatglm3": "ChatGLM3-6B", "glm4": "GLM-4"}


def answer_status(texts: Texts, answer: Answer | None, status: ModelStatus) -> str:
    """One line: what is happening to the answer at this moment. The page's script reads it out."""
    if answer is None:
        return status_line("idle", texts("status.idle"))
    if answer.error is not None:
        return alert(texts.say(answer.error))
    if answer.phase is Phase.WAITING and status.state is ModelState.LOADING:
        what = load_line(texts, status.progress)[0]
        return status_line("loading", texts("status.loading", what=what), busy=True)
    return status_line(answer.phase.value, _phase_text(texts, answer), busy=answer.running)


def empty_prompt(texts: Texts) -> str:
    """The status line after sending nothing."""
    return status_line("idle", texts("status.empty"))


def newer_state(texts: Texts, problem: Exception, place: Place) -> str:
    """The status line of a tab whose conversation went on in another, with a button that shows it as it is now."""
    button = (
        f'<button type="button" class="cg-chip" data-history="reload" data-id="{place.conversation_id}">'
        f"{escape(texts('chat.reload'))}</button>"
    )
    return f'<div class="cg-alert cg-newer" role="alert"><span>{escape(texts.say(problem))}</span> {button}</div>'


def timing_panel(texts: Texts, answer: Answer | None, info: ModelInfo | None, memory_bytes: int) -> str:
    """The figures of one answer and of the machine, as a list of terms."""
    of = Answer() if answer is None else answer
    figures = [
        ("inference_time", _known(None if answer is None else of.elapsed_s, units.seconds)),
        ("ttft", _known(of.ttft_s, units.seconds)),
        ("prefill", _known(of.prefill_tok_s, units.rate)),
        ("decode", _known(of.decode_tok_s, units.rate)),
        ("prompt_tokens", _known(of.prompt_tokens or None, str)),
        ("cached_tokens", _known(of.cached_tokens or None, str)),
        ("completion_tokens", _known(of.tokens or None, str)),
        ("draft_tokens", _draft_tokens(texts, answer)),
        ("queue", _queue(texts, answer)),
        ("memory", units.size(memory_bytes)),
        ("threads", _NONE if info is None else str(info.threads)),
        ("kernel", _NONE if info is None else info.kernel),
    ]
    cells = "".join(
        f'<div class="cg-figure" data-figure="{key}"><dt>{escape(texts(f"timing.{key}"))}</dt>'
        f"<dd>{escape(value)}</dd></div>"
        for key, value in figures
    )
    return f'<dl class="cg-figures" aria-label="{escape(texts("timing.title"))}">{cells}</dl>{_latency(texts, answer)}'


def model_card(texts: Texts, status: ModelStatus) -> str:
    """The line under the page's title: which model, and whether it is ready."""
    state = status.state
    if state is ModelState.READY and status.info is not None:
        kept = alert(texts.say(status.error)) if status.error is not None else ""  # several machines go on as before
        return _ready_card(texts, status.info) + kept
    if state is ModelState.LOADING:
        return _loading_card(texts, status.progress)
    if state is ModelState.FAILED and status.error is not None:
        heading, text = texts("model.failed"), texts.say(status.error)
        return (
            f'<div class="cg-model" data-state="failed"><div class="cg-alert" role="alert">'
            f"<strong>{escape(heading)}</strong> {escape(text)}</div></div>"
        )
    return f'<div class="cg-model" data-state="none"><span class="cg-pill">{escape(texts("model.none"))}</span></div>'


def model_facts(texts: Texts, info: ModelInfo | None) -> str:
    """All that is known of the loaded model, as a list of terms."""
    if info is None:
        return paragraph(texts("model.no_facts"))
    kv = texts(
        "model.per_token", kib=units.digits(info.kv_bytes_per_token / 1024), dtype=info.kv_dtype,
        full=units.size(info.kv_bytes_per_token * info.context_limit),
    )  # fmt: skip
    tokens = "model.tokens_of" if info.model_context > info.context_limit else "model.tokens"
    rows = [
        ("name", info.name),
        ("family", _family(texts, info)),
        ("parameters", f"{info.parameters:,}"),
        ("context", texts(tokens, tokens=info.context_limit, most=info.model_context)),
        ("weights", f"{units.size(info.weight_bytes)}, INT4"),
        ("kv", kv),
        ("kernel", info.kernel),
        ("why", texts.say(info.kernel_reason)),
        ("threads", str(info.threads)),
    ]
    tunes = [texts("adapter.kind.prefix", size=info.prefix_rows)] if info.prefix_rows else []
    tunes += [one.name for one in info.adapters]
    if tunes:
        rows.append(("adapters", ", ".join(tunes)))
    return terms(texts("model.facts"), [(texts(f"model.fact.{key}"), [value]) for key, value in rows])


def machine_table(texts: Texts, machines: Sequence[MachineStatus]) -> str:
    """The machines that answer and those that do not; nothing where there is only this one."""
    if not machines:
        return ""
    head = [texts(f"machines.{key}") for key in ("name", "state", "answers", "rate", "model", "why")]
    rows = [
        (
            one.name, texts(f"machines.{one.state}"), f"{one.running} / {one.places}",
            _NONE if one.tok_s is None else units.digits(one.tok_s),
            _NONE if one.info is None else f"{one.info.name} {one.info.identity[:8]}".rstrip(),
            "" if one.why is None else texts.say(one.why),
        )
        for one in machines
    ]  # fmt: skip
    return table(texts("machines.title"), head, rows)


def _family(texts: Texts, info: ModelInfo) -> str:
    """The family; where it was assumed, also what to do if the guess is wrong."""
    family = _FAMILIES.get(info.family, info.family)
    if info.family_reason is None or info.family_reason.code != "family.assumed":
        return family
    return texts("model.family", family=family, reason=info.family_reason)


def load_line(texts: Texts, progress: LoadProgress | None) -> tuple[str, float | None]:
    """What loading does now, and how far it is (0 to 1, ``None`` if unknown)."""
    if progress is None:
        return texts("load.find"), None
    stage = texts(f"load.{progress.stage}")
    if progress.total <= 0:
        return stage, None
    share = min(progress.done / progress.total, 1.0)
    return texts("load.progress", stage=stage, percent=int(share * 100)), share


def context_bar(texts: Texts, used: int, limit: int, dropped: int, rounds: int = 0) -> str:
    """How full the model's context is, and a notice of rounds left out; a remark where it takes ``rounds`` only."""
    share = min(used / limit, 1.0) if limit else 0.0
    label = texts("chat.context", used=used, limit=limit)
    notice = paragraph(texts("chat.dropped", rounds=dropped), "cg-demo", "status") if dropped else ""
    if dropped and rounds:
        notice = paragraph(texts("chat.rounds", rounds=rounds), "cg-note")
    meter = bar(label, "meter", share, min(used, limit), limit)
    return f'<div class="cg-context"><span>{escape(label)}</span>{meter}</div>{notice}'


def used_memory() -> int:
    """Bytes of memory that this process holds."""
    return int(psutil.Process().memory_info().rss)


def example_chips(texts: Texts, prompts: tuple[str, ...]) -> str:
    """Buttons that put an example into the prompt box (the page's script listens)."""
    return chips(texts("examples.label"), [(prompt, prompt) for prompt in prompts])


def _latency(texts: Texts, answer: Answer | None) -> str:
    """The time between the last tokens, as a line."""
    if answer is None or len(answer.gaps_s) < 2:
        return ""
    gaps = sorted(answer.gaps_s)
    label = texts("timing.latency", time=units.seconds(gaps[len(gaps) // 2]))
    line = sparkline(tuple(answer.gaps_s), label)
    return f'<div class="cg-latency"><span>{escape(label)}</span>{line}</div>'


def _phase_text(texts: Texts, answer: Answer) -> str:
    if answer.phase is Phase.QUEUED and answer.queued is not None:
        if answer.queued.eta_s is None:
            return texts("status.queued", position=answer.queued.position)
        return texts(
            "status.queued_eta", position=answer.queued.position, left=units.whole_seconds(answer.queued.eta_s)
        )
    if answer.phase is Phase.READING:
        left = answer.reading_left_s or 0.0
        code = "status.reading_left" if left >= _LONG_S else "status.reading"
        return texts(code, done=answer.read_tokens, total=answer.prompt_tokens, left=units.whole_seconds(left))
    if answer.phase is Phase.WRITING:
        return texts("status.writing", tokens=answer.tokens)
    if answer.phase is Phase.DONE:
        reason = answer.finish_reason or FinishReason.CANCELLED
        said = texts(f"status.done.{reason.value}", tokens=answer.tokens)
        if answer.decode_tok_s is None or answer.ttft_s is None:
            return said
        rate, ttft = units.rate(answer.decode_tok_s), units.seconds(answer.ttft_s)
        return texts("status.figures", said=said, rate=rate, ttft=ttft)
    return texts("status.waiting")


def _ready_card(texts: Texts, info: ModelInfo) -> str:
    facts = [
        texts("model.parameters", millions=units.digits(info.parameters / 1e6))
        if info.parameters < 999.5e6
        else texts("model.parameters_b", billions=units.digits(info.parameters / 1e9)),
        texts("model.context", tokens=info.context_limit),
    ]
    line = " · ".join(escape(fact) for fact in facts)
    demo = ""
    if info.is_demo:
        text, go, away = (escape(texts(f"model.demo{part}")) for part in ("", "_open", "_away"))
        demo = (
            f'<p class="cg-demo cg-brief" role="note"><span>{text}</span>'
            f'<button type="button" class="cg-chip" data-action="model">{go}</button>'
            f'<button type="button" class="cg-mini" data-action="dismiss" aria-label="{away}" title="{away}">'
            "✕</button></p>"
        )
    return (
        f'<div class="cg-model" data-state="ready"><span class="cg-pill cg-ready">{escape(texts("model.ready"))}</span>'
        f'<strong class="cg-name">{escape(info.name)}</strong><span class="cg-facts">{line}</span></div>{demo}'
    )


def _loading_card(texts: Texts, progress: LoadProgress | None) -> str:
    text, share = load_line(texts, progress)
    progressbar = bar(texts("model.loading"), "progressbar", share, round(100 * (share or 0)))
    pill = f'<span class="cg-pill cg-loading">{escape(text)}</span>'
    return f'<div class="cg-model" data-state="loading">{pill}{progressbar}</div>'


def _known(value: float | None, form: Callable[[float], str]) -> str:
    """A figure in words, as ``form`` has it; a dash while it is not known."""
    return _NONE if value is None else form(value)


def _queue(texts: Texts, answer: Answer | None) -> str:
    """The position while the answer waits, and how long it waited once that is known."""
    if answer is None:
        return _NONE
    if answer.phase is Phase.QUEUED and answer.queued is not None:
        return texts("timing.queue_position", position=answer.queued.position)
    return _NONE if answer.timing is None else units.seconds(answer.timing.queue_wait_s)


def _draft_tokens(texts: Texts, answer: Answer | None) -> str:
    """Draft tokens that proved right, of all that were tried."""
    usage = None if answer is None else answer.usage
    if usage is None or not usage.draft_tokens:
        return _NONE
    return texts("timing.draft_tokens.accepted", right=usage.accepted_draft_tokens, tried=usage.draft_tokens)
