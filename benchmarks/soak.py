"""Sixteen clients on one real server for some minutes, half of them rude; then an account of every request.

A server of its own runs on 127.0.0.1 with a token and the bundled model (or ``--model``). Nine clients use the
endpoint and seven the page's queue, each from an address of its own. They read answers whole, streamed, slowly or in
part, press Stop, reload, close, vanish without goodbye, and send too much, too long and too many requests.
Prompts carry their visitor's mark; half of the answers are sampled with a seed. So each has one right text, which was
asked for alone before.

    python -m benchmarks.soak --minutes 10

The exit code is 1 when anything was lost, mixed up or left over, or when memory grew by more than 3 %. Linux only,
because each client binds a loopback address of its own.
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
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.soaking.account import check_counters, check_log, check_marks, check_texts, freed_after, growth
from benchmarks.soaking.endpoint import EndpointClient
from benchmarks.soaking.line import Client
from benchmarks.soaking.page import PageClient, read_functions
from benchmarks.soaking.questions import MARKS, Question, Record, questions_for, too_long
from benchmarks.soaking.server import Sample, Server

_PAGES = 7
_ASKER = "127.0.0.1"  # asks for the texts alone
_IDLE_S = 60.0
_MAX_GROWTH = 0.03


@dataclass
class Account:
    """What came out. ``checks`` holds the problems found by each check; memory in bytes."""

    records: list[Record]
    seconds: float
    checks: dict[str, list[str]]
    samples: list[Sample]
    memory: tuple[float, float, float] | None
    freed_s: list[float]
    exit_code: int
    failures: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return not self.failures and not any(self.checks.values())


class Soak:
    """Runs the clients against a server that is ready. ``context`` is the model's limit, in tokens."""

    def __init__(self, server: Server, *, clients: int, context: int, pages: int | None = None, seed: int = 0) -> None:
        self._server, self._context = server, context
        self._random = random.Random(seed)  # noqa: S311
        pages = max(1, clients * _PAGES // len(MARKS)) if pages is None else pages
        functions = read_functions(json.loads(server.get("/en/config")))
        self._clients: list[Client] = []
        for number in range(clients):
            own = random.Random(f"{seed}/{number}")  # noqa: S311
            if number < clients - pages:
                self._clients.append(EndpointClient(number, server.port, server.token, own))
            else:
                self._clients.append(PageClient(number, server.port, server.token, functions, own))
        self._questions: list[list[Question]] = []
        self._alone: dict[Question, str] = {}
        self._records: list[Record] = []
        self._failures: list[str] = []
        self._lock = threading.Lock()

    def ask_alone(self, turns: int = 6) -> None:
        """Ask every question by itself, one after the other, for the text that it must get later."""
        asker = EndpointClient(-1, self._server.port, self._server.token, self._random)
        asker.address = _ASKER
        for client in self._clients:
            page = isinstance(client, PageClient)
            own = []
            for question in questions_for(client.number, self._context, self._random)[:turns]:
                if page and question.chat:
                    continue
                record = asker.whole(question)[0]
                while record.end == "context_length_exceeded":
                    question = question.shorter()
                    record = asker.whole(question)[0]
                if record.end not in ("stop", "length"):
                    raise RuntimeError(f"alone, a question ended with {record.end}")
                self._alone[question] = record.text
                own.append(question)
            self._questions.append(own)

    def run(self, seconds: float, most: int) -> float:
        """Let all clients visit for so long, or until there were ``most`` visits; the seconds that it took."""
        began = time.monotonic()
        until, left = began + seconds, iter(range(most))

        def more() -> bool:
            with self._lock:
                return time.monotonic() < until and next(left, None) is not None

        threads = [
            threading.Thread(target=self._visit, args=(client, questions, more), daemon=True)
            for client, questions in zip(self._clients, self._questions, strict=True)
        ]
        for thread in threads:
            thread.start()
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
        """Wait until the engine is idle, end the server, and check everything; memory only with ``warm_s``."""
        counters = self._server.wait_idle(_IDLE_S)
        code = self._server.terminate()
        log = [line for line in self._server.log() if line["message"].startswith("request ")]
        records, samples = self._records, list(self._server.samples)
        memory = None if warm_s is None else growth(samples, warm_s)
        checks = {
            "every accepted request ended once, as its client was told": check_log(records, log),
            "texts are those of the same requests alone": check_texts(records, self._alone),
            "nobody received another visitor's mark": check_marks(records),
            "the engine is idle and all is counted once": check_counters(counters, log),
            "prompts are not in the log": [mark for mark in MARKS if mark in self._server.raw_log()],
            "asked to end, the server ended with 0": [] if code == 0 else [f"it ended with {code}"],
        }
        if memory is not None:
            grown = memory[2] > _MAX_GROWTH
            checks["memory grew by at most 3 % after warming up"] = [f"it grew by {memory[2]:.1%}"] if grown else []
        return Account(records, seconds, checks, samples, memory, freed_after(records, log), code, self._failures)

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
                with self._lock:
                    self._failures.append(f"client {client.number}, {visit!r}: {type(error).__name__}: {error}")
                continue
            with self._lock:
                self._records += found
            time.sleep(client.chance.expovariate(4.0))


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
    yield f"\n- texts compared with those alone: {whole} whole, {parts} in part"
    freed = sorted(account.freed_s) or [0.0]
    yield f"- programs that hung up in the middle of an answer: {len(account.freed_s)}"
    yield f"- it ended after {freed[len(freed) // 2]:.3f} s (median), {freed[-1]:.3f} s at the latest"
    samples = account.samples
    yield f"- tokens read by clients: {sum(record.tokens or 0 for record in account.records)}"
    yield f"- most at once: {max(s.running for s in samples)} running, {max(s.waiting for s in samples)} waiting"
    quiet, last = samples[0], samples[-1]
    yield f"- threads: {quiet.threads} before, {last.threads} at the end"
    yield f"- open files: {quiet.files} before, {last.files} at the end"
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
    parser.add_argument("--context", type=int, default=512, help="the model's limit in tokens")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("flags", nargs="*", help="flags for the server, after --")
    options = parser.parse_args()
    model = [] if options.model is None else ["--model", options.model]
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
