"""Sixteen clients on one real server for some minutes, half of them rude; then an account of every request.

A server of its own runs on 127.0.0.1 with a token and the bundled model (or ``--model``). Nine clients use the
endpoint and seven the page's queue, each from an address of its own. They read answers whole, streamed, slowly or in
part, press Stop, reload, close, vanish without goodbye, and send too much, too long and too many requests.
Prompts carry their visitor's mark; half of the answers are sampled with a seed. So each has one right text, which was
asked for alone before.

    python -m benchmarks.soak --minutes 10
    python -m benchmarks.soak --minutes 30 --kills 10

With ``--kills`` the server is killed so many times in between and begins again on the same data folder, half of the
times with a small model that calls tools. Four visitors then hold conversations and send batches, also after a kill;
there are fine-tunes, JSON by a schema and documents, and what was read is kept on disk.

The exit code is 1 when anything was lost, mixed up or left over, or when memory grew by more than 3 % (between two
kills, after the first minute: 2 %). Linux only, because each client binds a loopback address of its own.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import secrets
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.soaking.account import (
    check_bounds,
    check_counters,
    check_kept,
    check_log,
    check_marks,
    check_texts,
    freed_after,
    growth,
)
from benchmarks.soaking.chat import ChatClient, Diary
from benchmarks.soaking.endpoint import EndpointClient
from benchmarks.soaking.line import Client
from benchmarks.soaking.page import PageClient, read_functions
from benchmarks.soaking.questions import (
    MARKS,
    Question,
    Record,
    conversation,
    mixed_questions,
    questions_for,
    too_long,
)
from benchmarks.soaking.server import Sample, Server

_PAGES = 7
_ASKER = "127.0.0.1"  # asks for the texts alone
_IDLE_S = 60.0
_MAX_GROWTH, _MAX_GROWTH_OF_A_LIFE = 0.03, 0.02
_TALKERS, _TALKS, _ROUNDS = 4, 6, 4
_KV_DISK_MB, _WINDOW_S = 16, 20.0
_BUNDLED = Path(__file__).resolve().parents[1] / "chatglm_backend" / "demo_model"


@dataclass
class Account:
    """What came out. ``checks`` holds the problems found by each check; memory in bytes.

    ``short``: how many servers were there for too short a time to compare their memory.
    """

    records: list[Record]
    seconds: float
    checks: dict[str, list[str]]
    samples: list[Sample]
    memory: tuple[float, float, float] | None
    freed_s: list[float]
    exit_code: int
    failures: list[str] = field(default_factory=list)
    short: int = 0

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return not self.failures and not any(self.checks.values())


@dataclass
class Kept:
    """What outlives a server: each visitor's diary, and per model what may be asked, and with which answer."""

    diaries: dict[int, Diary] = field(default_factory=dict)
    alone: dict[Question, str] = field(default_factory=dict)
    questions: dict[str, list[list[Question]]] = field(default_factory=dict)
    talks: dict[tuple[str, int], list[list[Question]]] = field(default_factory=dict)


class Soak:
    """Runs the clients against a server that is ready. ``context`` is the model's limit, in tokens.

    With ``kept`` some of them come back after a kill, and all ask in every way.
    """

    def __init__(
        self, server: Server, *, clients: int, context: int, pages: int | None = None, seed: int = 0,
        kept: Kept | None = None,
    ) -> None:  # fmt: skip
        self._server, self._context = server, context
        self._random = random.Random(seed)  # noqa: S311
        pages = max(1, clients * _PAGES // len(MARKS)) if pages is None else pages
        functions = read_functions(json.loads(server.get("/en/config")))
        self._clients: list[Client] = []
        for number in range(clients):
            own = random.Random(f"{seed}/{number}")  # noqa: S311
            if number < clients - pages:
                self._clients.append(EndpointClient(number, server.port, server.token, own))
            elif kept is not None and number >= clients - _TALKERS:
                diary = kept.diaries.setdefault(number, Diary())
                self._clients.append(ChatClient(number, server.port, server.token, functions, own, diary))
            else:
                self._clients.append(PageClient(number, server.port, server.token, functions, own))
        self._questions: list[list[Question]] = []
        self._alone: dict[Question, str] = {} if kept is None else kept.alone
        self._kept, self._killed = kept, threading.Event()
        self._records: list[Record] = []
        self._failures: list[str] = []
        self._lock = threading.Lock()

    def ask_alone(self, turns: int = 6) -> None:
        """Ask every question by itself, one after the other, for the text that it must get later."""
        asker = EndpointClient(-1, self._server.port, self._server.token, self._random)
        asker.address = _ASKER
        for client in self._clients:
            page = isinstance(client, PageClient)
            asked = questions_for(client.number, self._context, self._random)[:turns]
            self._questions.append([self._ask(asker, one) for one in asked if not (page and one.chat)])

    def ask_all_alone(self) -> None:
        """The same of this model in every way, once; later servers with it are told what was found."""
        kept, names = self._kept or Kept(), [row["id"] for row in json.loads(self._server.get("/v1/models"))["data"]]
        model, adapters = names[0], [name.partition(":")[2] for name in names[1:]]
        asker = EndpointClient(-1, self._server.port, self._server.token, self._random)
        asker.address = _ASKER
        if model not in kept.questions:
            kept.questions[model] = []
            for client in self._clients:
                page = isinstance(client, PageClient)
                rounds = [
                    mixed_questions(client.number, self._context, self._random, model, adapters, tools=not adapters)
                    for _ in range(_ROUNDS)
                ]
                asked = rounds[0][:1] if isinstance(client, ChatClient) else itertools.chain(*rounds)
                kept.questions[model].append([self._ask(asker, one) for one in asked if not (page and one.chat)])
                talks = kept.talks[model, client.number] = []
                for number in range(_TALKS if isinstance(client, ChatClient) else 0):
                    talks.append(before := [])
                    name = ":".join([model, *adapters[number - 1 : number]])
                    talk = conversation(client.number, self._random, name, self._context // 16, document=number == 3)
                    for one in talk:
                        said = tuple((done.text, self._alone[done]) for done in before)
                        before.append(self._ask(asker, replace(one, before=said)))
        self._questions = kept.questions[model]
        for client in self._clients:
            if isinstance(client, ChatClient):
                client.talks = kept.talks[model, client.number]

    def _ask(self, asker: EndpointClient, question: Question) -> Question:
        """Ask it by itself, and shorter until it fits; the question that was answered."""
        record = asker.whole(question)[0]
        while record.end == "context_length_exceeded":
            question = question.shorter()
            record = asker.whole(question)[0]
        if record.end not in ("stop", "length"):
            raise RuntimeError(f"alone, a question ended with {record.end}")
        self._alone[question] = record.text
        return question

    def run(self, seconds: float, most: int, *, kill: bool = False) -> float:
        """Let all clients visit for so long, or until there were ``most`` visits; the seconds that it took.

        ``kill``: then the server is killed among them.
        """
        began = time.monotonic()
        until, left = began + seconds, iter(range(most))

        def more() -> bool:
            with self._lock:
                on = kill or time.monotonic() < until
                return on and not self._killed.is_set() and next(left, None) is not None

        threads = [
            threading.Thread(target=self._visit, args=(client, questions, more), daemon=True)
            for client, questions in zip(self._clients, self._questions, strict=True)
        ]
        for thread in threads:
            thread.start()
        if kill:
            time.sleep(seconds)
            self._killed.set()
            self._server.kill()
        for thread in threads:
            thread.join(seconds + 120)
        self._failures += [f"client {number} hangs" for number, thread in enumerate(threads) if thread.is_alive()]
        return time.monotonic() - began

    def one_of_each(self) -> dict[str, set[str]]:
        """Let the first and the last client make each of their visits once, in turn; how each kind ended."""
        for client, questions in ((self._clients[0], self._questions[0]), (self._clients[-1], self._questions[-1])):
            for visit in client.ways():
                self._records += visit(questions[0])
            self._records += client.ways()[0](too_long(questions[0], self._context))
        ends: dict[str, set[str]] = {}
        for record in self._records:
            ends.setdefault(record.kind, set()).add(record.end.split(":")[0])
        return ends

    def account(self, seconds: float, warm_s: float | None) -> Account:
        """Wait until the engine is idle, end the server, and check everything; memory only with ``warm_s``.

        Of a server that was killed: what can be known.
        """
        killed = self._killed.is_set()
        counters = {} if killed else self._server.wait_idle(_IDLE_S)
        code = 0 if killed else self._server.terminate()
        log = [line for line in self._server.log() if line["message"].startswith("request ")]
        records, samples = self._records, list(self._server.samples)
        window, most = (60.0, _MAX_GROWTH) if self._kept is None else (_WINDOW_S, _MAX_GROWTH_OF_A_LIFE)
        memory = None if warm_s is None else growth(samples, warm_s, window)
        short = int(warm_s is not None and memory is None)
        checks = {
            "every accepted request ended once, as its client was told": check_log(records, log, killed=killed),
            "texts are those of the same requests alone": check_texts(records, self._alone),
            "nobody received another visitor's mark": check_marks(records),
            "the engine is idle and all is counted once": [] if killed else check_counters(counters, log),
            "prompts are not in the log": [mark for mark in MARKS if mark in self._server.raw_log()],
            "asked to end, the server ended with 0": [] if code == 0 else [f"it ended with {code}"],
        }
        if memory is not None:
            grown = memory[2] > most
            checks[f"memory grew by at most {most:.0%} after warming up"] = (
                [f"it grew by {memory[2]:.1%}"] if grown else []
            )
        return Account(
            records, seconds, checks, samples, memory, freed_after(records, log), code, self._failures, short
        )

    def _visit(self, client: Client, questions: Sequence[Question], more: Callable[[], bool]) -> None:
        visits = client.ways()
        usual = visits[:2]
        while more():
            question = client.chance.choice(questions)
            visit = client.chance.choice(usual if client.chance.random() < 0.4 else visits)
            if client.chance.random() < 0.04:
                visit, question = usual[0], too_long(question, self._context)
            try:
                found = visit(question)
            except Exception as error:  # noqa: BLE001 - whatever a client meets is part of the account
                if self._killed.is_set():
                    break
                with self._lock:
                    self._failures.append(f"client {client.number}, {visit!r}: {type(error).__name__}: {error}")
                continue
            if self._killed.is_set():
                for record in found:
                    record.end = "killed" if record.end == "lost" else record.end
            with self._lock:
                self._records += found
            time.sleep(client.chance.expovariate(4.0))


def lives(options: argparse.Namespace, folder: Path, token: str) -> Iterator[Account]:
    """One account for each time that the server is begun; all but the last are killed."""
    from tests.tiny import build_checkpoint  # the suite's own small models

    calling = build_checkpoint(folder / "chatglm3-6b", "chatglm3", shards=1)
    fine_tunes = ["--adapter", str(_BUNDLED / "friendly-lora"), "--adapter", str(_BUNDLED / "curious-prefix")]
    common = ["--prefix-cache-mb", "8", "--kv-disk-mb", str(_KV_DISK_MB), "--cache", str(folder / "cache")]
    kept = Kept()
    ways = [[*common, *fine_tunes], [*common, "--model", str(calling)]]
    made = {"clients": options.clients, "context": options.context, "pages": options.pages, "kept": kept}
    for flags in ways:
        with Server(folder, token, flags, log="alone.jsonl") as server:
            server.wait_ready()
            Soak(server, seed=options.seed, **made).ask_all_alone()
    print(f"{len(kept.alone)} texts, {len(set(kept.alone.values()))} of them distinct", flush=True)
    for life in range(options.kills + 1):
        with Server(folder, token, [*ways[life // 2 % 2], *options.flags], log=f"log-{life}.jsonl") as server:
            server.wait_ready()
            soak = Soak(server, seed=options.seed + life, **made)
            soak.ask_all_alone()
            lost = check_kept(folder / "history.sqlite3", kept.diaries.values())
            part = options.minutes * 60 / (options.kills + 1)
            seconds = soak.run(part, options.most, kill=life < options.kills)
            account = soak.account(seconds, 60.0)
            account.checks["every acknowledged answer is there after a kill"] = lost
            account.checks["what is on disk is within its bounds"] = check_bounds(folder, _KV_DISK_MB * 1_000_000)
            for record in account.records:
                record.seen.clear()
            sizes = {name: _megabytes(folder / name) for name in ("history.sqlite3", "history.sqlite3-wal", "cache/kv")}
            other = account.checks["texts are those of the same requests alone"]
            acknowledged = sum(one.answers.total() for one in kept.diaries.values())
            print(f"life {life}: {acknowledged} acknowledged, {len(other)} other texts, MB: {sizes}", flush=True)
            yield account


def _megabytes(path: Path) -> float:
    files = [path] if path.is_file() else path.rglob("*")
    return round(sum(file.stat().st_size for file in files if file.is_file()) / 1e6, 1)


def together(accounts: Sequence[Account]) -> Account:
    """All lives in one account; its memory is the worst of theirs."""
    checks: dict[str, list[str]] = {}
    for account in accounts:
        for check, problems in account.checks.items():
            checks.setdefault(check, []).extend(problems)
    return Account(
        [record for one in accounts for record in one.records], sum(one.seconds for one in accounts), checks,
        [sample for one in accounts for sample in one.samples],
        max((one.memory for one in accounts if one.memory), key=lambda found: found[2], default=None),
        [seconds for one in accounts for seconds in one.freed_s], accounts[-1].exit_code,
        [failure for one in accounts for failure in one.failures], sum(one.short for one in accounts),
    )  # fmt: skip


def report(account: Account) -> Iterator[str]:
    """The account as Markdown."""
    ends = Counter((record.kind, record.end.split(":")[0]) for record in account.records)
    told = sorted({end for _, end in ends})
    yield f"{len(account.records)} requests in {account.seconds:.0f} s\n"
    yield f"| client | {' | '.join(told)} |"
    yield f"|---|{'---|' * len(told)}"
    for kind in sorted({kind for kind, _ in ends}):
        yield f"| {kind} | {' | '.join(str(ends[kind, end] or '') for end in told)} |"
    whole = sum(record.end in ("stop", "length") for record in account.records)
    parts = sum(bool(record.text) for record in account.records) - whole
    distinct = len({record.text for record in account.records if record.end in ("stop", "length")})
    yield f"\n- texts compared with those alone: {whole} whole, {distinct} of them distinct, {parts} in part"
    freed = sorted(account.freed_s) or [0.0]
    yield f"- programs that hung up in the middle of an answer: {len(account.freed_s)}"
    yield f"- it ended after {freed[len(freed) // 2]:.3f} s (median), {freed[-1]:.3f} s at the latest"
    samples = account.samples
    yield f"- tokens read by clients: {sum(record.tokens or 0 for record in account.records)}"
    if samples:
        quiet, last = samples[0], samples[-1]
        yield f"- most at once: {max(s.running for s in samples)} running, {max(s.waiting for s in samples)} waiting"
        yield f"- threads: {quiet.threads} before, {last.threads} at the end"
        yield f"- open files: {quiet.files} before, {last.files} at the end"
    if account.short:
        yield f"- memory was NOT compared in {account.short} server(s): too few samples after warming up"
    if account.memory is not None:
        before, after, more = account.memory
        minutes = [s.resident for before, s in itertools.pairwise(samples) if before.at // 60 < s.at // 60]
        yield f"- memory after each minute, in MB: {', '.join(f'{size / 1e6:.0f}' for size in minutes)}"
        yield f"- memory {before / 1e6:.0f} MB after warming up, {after / 1e6:.0f} MB at the end: {more:+.2%}"
    yield f"- exit code {account.exit_code}\n"
    yield "| check | problems |"
    yield "|---|---|"
    for check, problems in account.checks.items():
        yield f"| {check} | {len(problems) or 'none'} |"
    for check, problems in account.checks.items():
        yield from (f"\n{check}: {problem}" for problem in problems[:5])
    yield from account.failures[:10]


def main() -> int:
    """Soak, print the account, and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--warm-up", type=float, default=3.0, help="minutes before memory is looked at")
    parser.add_argument("--clients", type=int, default=len(MARKS), choices=range(2, len(MARKS) + 1))
    parser.add_argument("--pages", type=int, help="how many of them use the page; without it 7 of 16")
    parser.add_argument("--most", type=int, default=20_000, help="most visits of all clients together")
    parser.add_argument("--model", help="a folder; without it the bundled model")
    parser.add_argument("--kills", type=int, default=0, help="how often the server is killed and begins again")
    parser.add_argument("--context", type=int, default=512, help="the model's limit in tokens")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("flags", nargs="*", help="flags for the server, after --")
    options = parser.parse_args()
    model = [] if options.model is None else ["--model", options.model]
    if options.kills:
        with tempfile.TemporaryDirectory() as folder:
            account = together(list(lives(options, Path(folder), secrets.token_urlsafe(16))))
        print("\n".join(report(account)))
        return 0 if account.ok else 1
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--prefix-cache-mb", "64", *model, *options.flags]
        with Server(Path(folder), secrets.token_urlsafe(16), flags) as server:
            server.wait_ready()
            soak = Soak(
                server, clients=options.clients, context=options.context, pages=options.pages, seed=options.seed
            )
            soak.ask_alone()
            print(f"{options.clients} clients for {options.minutes:g} minutes, seed {options.seed}", flush=True)
            seconds = soak.run(options.minutes * 60, options.most)
            account = soak.account(seconds, options.warm_up * 60)
    print("\n".join(report(account)))
    return 0 if account.ok else 1


if __name__ == "__main__":
    sys.exit(main())
