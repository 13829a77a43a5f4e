"""Many visitors on one machine: total speed, how evenly it is shared, and how long a stream waits for a prompt.

One process holds the real engine and the real worker with full-size random weights; every visitor is a thread that
reads a ticket of its own, as page and endpoint do. Draft tokens and kept prefixes are off, so that all do equal work.

    python -m benchmarks.visitors --synthetic chatglm2-6b
"""

from __future__ import annotations

import itertools
import logging
import statistics
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from benchmarks.flags import read_flags
from benchmarks.page_overhead import make_engine
from chatglm_backend.checkpoint.known import MODELS
from chatglm_backend.core import GenerationParams, GenerationRequest, TokenEvent
from chatglm_backend.serving.ticket import Ticket
from chatglm_backend.serving.worker import Worker, WorkerOptions


@dataclass
class Stream:
    """One visitor's answer: when it was asked for, when each token could be read, when it ended (seconds)."""

    asked: float
    times: list[float] = field(default_factory=list)
    ended: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        """From asking to the end."""
        return len(self.times) / (self.ended - self.asked)


def jain(shares: list[float]) -> float:
    """Jain's index: 1 when all are equal, 1/n when one has everything."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 1.0


def gap_ratio(times: list[float], begin: float, end: float) -> tuple[float, float, float]:
    """The usual ITL before ``begin``, the longest gap that touches [begin, end], and their ratio."""
    gaps = [(earlier, later) for earlier, later in itertools.pairwise(times)]
    usual = statistics.median(later - earlier for earlier, later in gaps if later <= begin)
    longest = max(later - earlier for earlier, later in gaps if later > begin and earlier < end)
    return usual, longest, longest / usual


class Visitors:
    """Asks a worker in the name of many people."""

    def __init__(self, worker: Worker[Any]) -> None:
        self.worker = worker
        self._asked = 0

    def ask(self, prompt_tokens: int, new_tokens: int) -> tuple[Ticket, Stream, threading.Thread]:
        """A new visitor's request, read by a thread that is running already."""
        self._asked += 1
        name = f"visitor{self._asked}"
        request = GenerationRequest(
            name,
            name,
            prompt=f"{prompt_tokens}/{self._asked}",
            prompt_format="raw",
            params=GenerationParams(max_new_tokens=new_tokens),
        )
        stream = Stream(time.perf_counter())
        ticket = Ticket(request)
        self.worker.take(ticket)
        reader = threading.Thread(target=_read, args=(ticket, stream), daemon=True)
        reader.start()
        return ticket, stream, reader

    def together(self, count: int, prompt_tokens: int, new_tokens: int) -> tuple[float, list[Stream]]:
        """Tokens/s of all together from the first request to the last token, and each one's stream."""
        began = time.perf_counter()
        asked = [self.ask(prompt_tokens, new_tokens) for _ in range(count)]
        for _, _, reader in asked:
            reader.join()
        streams = [stream for _, stream, _ in asked]
        seconds = max(stream.ended for stream in streams) - began
        return sum(len(stream.times) for stream in streams) / seconds, streams

    def while_reading(self, prompt_tokens: int, warm_tokens: int = 24) -> tuple[float, float, float, float]:
        """As :func:`gap_ratio`, of one stream while another visitor's prompt is read; then seconds of reading it."""
        ticket, stream, reader = self.ask(32, 1024)
        while len(stream.times) < warm_tokens and reader.is_alive():
            time.sleep(0.005)
        begin = time.perf_counter()
        _, other, other_reader = self.ask(prompt_tokens, 1)
        other_reader.join()
        time.sleep(4 * statistics.median(b - a for a, b in zip(stream.times, stream.times[1:], strict=False)))
        ticket.cancel()
        reader.join()
        return *gap_ratio(stream.times, begin, other.ended), other.ended - begin


def _read(ticket: Ticket, stream: Stream) -> None:
    for event in ticket.events():
        if isinstance(event, TokenEvent):
            stream.times.append(time.perf_counter())
    stream.ended = time.perf_counter()


def decode_speed(streams: list[Stream]) -> float:
    """Tokens/s of all together while all of them answer."""
    begin = max(stream.times[0] for stream in streams)
    end = min(stream.times[-1] for stream in streams)
    return sum(begin < moment <= end for stream in streams for moment in stream.times) / (end - begin)


def main() -> None:
    """Measure and print a Markdown table."""
    options = read_flags(
        __doc__, sorted(MODELS), synthetic="chatglm2-6b", visitors=8, prompt_tokens=32, new_tokens=48,
        long_prompt=512, rounds=2, threads=0, layers=0,
    )  # fmt: skip
    logging.disable(logging.INFO)
    engine = make_engine(options.synthetic, options.threads, options.layers)
    worker: Worker[Any] = Worker({"": engine}, WorkerOptions(max_running=options.visitors))
    visitors = Visitors(worker)
    visitors.together(1, options.prompt_tokens, 8)  # warms up
    who = f"{options.visitors} visitors, {options.new_tokens} tokens each"
    print(f"{options.synthetic}, {options.threads} threads, {who}\n")
    print("| round | one: tok/s (decode) | all: tok/s (decode) | ratio (decode) | Jain index |")
    print("|---|---|---|---|---|", flush=True)
    for number in range(1, options.rounds + 1):
        one, alone = visitors.together(1, options.prompt_tokens, options.new_tokens)
        total, streams = visitors.together(options.visitors, options.prompt_tokens, options.new_tokens)
        one_decode, total_decode = decode_speed(alone), decode_speed(streams)
        fairness = jain([stream.tokens_per_second for stream in streams])
        print(
            f"| {number} | {one:.2f} ({one_decode:.2f}) | {total:.2f} ({total_decode:.2f}) "
            f"| {total / one:.2f} ({total_decode / one_decode:.2f}) | {fairness:.4f} |",
            flush=True,
        )
    usual, longest, ratio, seconds = visitors.while_reading(options.long_prompt)
    print(
        f"\nA stream while {options.long_prompt} tokens of another prompt are read ({seconds:.1f} s): "
        f"usual ITL {usual * 1000:.0f} ms, longest gap {longest * 1000:.0f} ms, ratio {ratio:.2f}"
    )
    worker.close()


if __name__ == "__main__":
    main()
