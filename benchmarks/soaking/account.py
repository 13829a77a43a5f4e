"""The account at the end: what clients saw, against what the server logged and counted. Knows no HTTP."""

from __future__ import annotations

import itertools
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.soaking.chat import Diary
from benchmarks.soaking.questions import MARKS, Question, Record
from benchmarks.soaking.server import Sample
from chatglm_backend.store.conversations import ConversationStore

_FINISHED = ("stop", "length")
_MOST_WAL = 16 << 20
_CONTROL = re.compile("[\0-\x1f\x7f-\x9f]")
_ENDS_OF_THE_LEFT = {"cancelled", "stop", "length"}


def plain(text: str) -> str:
    """Without control characters, which models of random weights write and pages leave out."""
    return _CONTROL.sub("", text)


def check_texts(records: Iterable[Record], alone: Mapping[Question, str]) -> list[str]:
    """A finished answer is the one that the same request got alone; a partial one is its beginning."""
    problems = []
    for record in records:
        text, whole = plain(record.text), plain(alone.get(record.question, ""))
        if record.question not in alone:
            if text:
                problems.append(f"{_name(record)}: text where none could be: {text[:60]!r}")
        elif record.end in _FINISHED and text != whole:
            problems.append(f"{_name(record)}: another text than alone: {_difference(text, whole)}")
        elif not whole.startswith(text.removesuffix("\ufffd").rstrip(",!:;?")):
            # it may end within a character, and with a mark that what follows makes a full-width one
            problems.append(f"{_name(record)}: not the beginning of its text alone: {_difference(text, whole)}")
    return problems


def check_marks(records: Iterable[Record]) -> list[str]:
    """Nothing that a client received holds another visitor's mark; every prompt holds its own."""
    problems = []
    for record in records:
        seen = "".join(record.seen)
        found = [mark for mark in MARKS if mark != record.question.mark and mark in seen]
        if found:
            problems.append(f"{_name(record)}: received {', '.join(found)}")
    return problems


def check_log(records: Sequence[Record], log: Sequence[Mapping[str, Any]], *, killed: bool = False) -> list[str]:
    """Every accepted request ended once, and as its client was told; no two clients were given the same one.

    Where the server was ``killed``, what nobody was told of may have had no end.
    """
    accepted = Counter(line["request"] for line in log if line["message"] == "request accepted")
    ends: dict[str, list[str]] = {}
    for line in log:
        if line["message"] == "request ended":
            ends.setdefault(line["request"], []).append(line["end"])
    problems = [f"{name} was accepted {times} times" for name, times in accepted.items() if times != 1]
    counts = (1, 0) if killed else (1,)
    problems += [
        f"{name} ended {len(ends.get(name, []))} times" for name in accepted if len(ends.get(name, [])) not in counts
    ]
    problems += [f"{name} ended without having been accepted" for name in ends if name not in accepted]
    named = [record for record in records if record.request_id]
    shared = Counter(record.request_id for record in named)
    problems += [f"{times} clients got {name}" for name, times in shared.items() if times != 1]
    for record in named:
        known = ends.get(record.request_id or "", [])
        if record.end == "killed" or (killed and not known and record.end == "left"):
            continue
        allowed = _ENDS_OF_THE_LEFT if record.end == "left" else {record.end}
        if not known or known[0] not in allowed:
            problems.append(f"{_name(record)}: saw {record.end}, the log says {known}")
    problems += [f"{_name(record)}: broke off without a word" for record in records if record.end == "lost"]
    return problems


def check_counters(counters: Mapping[str, float], log: Sequence[Mapping[str, Any]]) -> list[str]:
    """The engine is idle, and everything that was accepted is counted once as finished or failed."""
    problems = [
        f"{name} is {counters[name]:.0f} at the end"
        for name in ("chatglm_running", "chatglm_waiting", "chatglm_kv_reserved_bytes")
        if counters[name] != 0
    ]
    accepted = counters["chatglm_requests_accepted_total"]
    ended = sum(
        value for name, value in counters.items() if re.match(r"chatglm_requests_(finished|failed)_total", name)
    )
    logged = sum(line["message"] == "request accepted" for line in log)
    if not accepted == ended == logged:
        problems.append(f"{accepted:.0f} were counted as accepted, {ended:.0f} as ended, {logged} were logged")
    return problems


def check_kept(file: Path, diaries: Iterable[Diary]) -> list[str]:
    """Every answer that a page said was whole is in the store behind its question, as often as it was said."""
    store, problems = ConversationStore(file), []
    for diary in diaries:
        talks = [store.read(diary.visitor, one.id).messages for one in store.list(diary.visitor, limit=1_000_000)]
        pairs = Counter((one.content, plain(two.content)) for talk in talks for one, two in itertools.pairwise(talk))
        told: Counter[tuple[str, str]] = Counter()
        for (asked, said), times in diary.answers.items():
            told[asked, plain(said)] += times
        problems += [f"gone: {asked!r} and {said[:60]!r}" for asked, said in told - pairs]
    store.close()
    return problems


def check_bounds(folder: Path, kv_bytes: int) -> list[str]:
    """Keys and values keep to what they were given, the log of the database to what sqlite empties it at."""
    sizes = {
        name: sum(file.stat().st_size for file in folder.rglob(pattern) if file.is_file())
        for name, pattern in {"K/V": "cache/kv/**/*", "the database's log": "history.sqlite3-wal"}.items()
    }
    bounds = {"K/V": kv_bytes, "the database's log": _MOST_WAL}
    return [f"{name}: {size} bytes, more than {bounds[name]}" for name, size in sizes.items() if size > bounds[name]]


def freed_after(records: Iterable[Record], log: Sequence[Mapping[str, Any]]) -> list[float]:
    """Seconds from a program's hanging up until its request had ended, where it ended because of that."""
    ends = {line["request"]: line["time"] for line in log if line.get("end") == "cancelled"}
    return [
        max(0.0, datetime.fromisoformat(ends[record.request_id]).timestamp() - record.left_at)
        for record in records
        if record.left_at is not None and record.request_id in ends
    ]


def growth(samples: Sequence[Sample], warm_s: float, window_s: float = 60.0) -> tuple[float, float, float] | None:
    """Median memory in the window after the warm-up and in the last one, in bytes, and the relative growth.

    ``None`` where there are no samples of one of them, or the last begins before the warm-up is over.
    """
    last = samples[-1].at if samples else 0.0
    early = [sample.resident for sample in samples if warm_s <= sample.at < warm_s + window_s]
    late = [sample.resident for sample in samples if sample.at >= last - window_s]
    if not early or last <= warm_s + window_s:
        return None
    before, after = statistics.median(early), statistics.median(late)
    return before, after, after / before - 1


def _name(record: Record) -> str:
    return f"client {record.client}, {record.kind}, {record.request_id or record.question.mark}"


def _difference(found: str, wanted: str) -> str:
    same = next(
        (i for i, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b), min(len(found), len(wanted))
    )
    return (
        f"after {same} of {len(wanted)} characters {found[same : same + 30]!r} instead of {wanted[same : same + 30]!r}"
    )
