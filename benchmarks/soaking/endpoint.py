"""Visits to the endpoint: answers read whole, streamed, slowly, in part, or not at all."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from http.client import HTTPResponse

from benchmarks.soaking.line import Line, events_of
from benchmarks.soaking.manners import enough_after, stalling
from benchmarks.soaking.questions import Question
from benchmarks.soaking.records import Record

__all__ = ["ENDPOINT_VISITS", "EndpointClient", "follow"]

_LARGE = 1_200_000


class EndpointClient:
    """One program on an address of its own, which makes it a visitor of its own."""

    def __init__(self, number: int, port: int, token: str, random_: random.Random) -> None:
        self.number, self.port = number, port
        self.address = f"127.0.1.{number + 1}"
        self.headers = {"authorization": f"Bearer {token}"}
        self.random = random_

    def record(self, kind: str, question: Question) -> Record:
        """A request that begins now."""
        return Record(self.number, kind, f"api:{self.address}", question)

    def line(self, *, narrow: bool = False) -> Line:
        """A new connection."""
        return Line(self.port, self.address, self.headers, narrow=narrow)

    def whole(self, question: Question) -> list[Record]:
        """Wait for the whole answer."""
        record = self.record("whole", question)
        with self.line() as line:
            _take_whole(record, line.ask(question.path, question.body(stream=False)))
        return [record]

    def streamed(self, question: Question) -> list[Record]:
        """Read every piece as it comes."""
        return [self._stream("streamed", question, lambda _: False)]

    def stalls(self, question: Question) -> list[Record]:
        """Stop reading for some seconds, then read to the end."""
        return [self._stream("stalls", question, stalling(self.random), narrow=True)]

    def cancels(self, question: Question) -> list[Record]:
        """Close the stream after some pieces, as a client's Stop does."""
        return [self._stream("cancels", question, self._enough())]

    def torn(self, question: Question) -> list[Record]:
        """Vanish after some pieces."""
        return [self._stream("torn", question, self._enough(), tear=True)]

    def torn_early(self, question: Question) -> list[Record]:
        """Vanish while waiting for a whole answer, or before the request is even looked at."""
        record = self.record("torn early", question)
        line = self.line()
        line.send(question.path, question.body(stream=False))
        time.sleep(self.random.choice((0.0, 0.05, 0.5, 1.0)))
        line.tear()
        record.end = "left"
        return [record]

    def too_large(self, question: Question) -> list[Record]:
        """More bytes than any request may have."""
        record = self.record("too large", question)
        with self.line() as line:
            try:
                _take_whole(record, line.ask(question.path, b'{"prompt": "' + b"x" * _LARGE + b'"}'))
            except OSError:  # it hung up while we were still sending, which is its right
                record.end, record.accepted = "left", False
        return [record]

    def burst(self, question: Question) -> list[Record]:
        """More requests at once than one visitor may run."""
        records = [self.record("burst", question) for _ in range(6)]
        lines = [self.line() for _ in records]
        for line in lines:
            line.send(question.path, question.body(stream=False))
        for record, line in zip(records, lines, strict=True):
            with line:
                _take_whole(record, line.reply())
        return records

    def _enough(self) -> Callable[[Record], bool]:
        return enough_after(self.random, (1, 2, 5, 20))

    def _stream(
        self,
        kind: str,
        question: Question,
        leave: Callable[[Record], bool],
        *,
        narrow: bool = False,
        tear: bool = False,
    ) -> Record:
        record = self.record(kind, question)
        line = self.line(narrow=narrow)
        try:
            follow(record, line, leave)
        finally:
            (line.tear if tear and record.end == "left" else line.close)()
            record.left_at = time.time() if record.end == "left" else None
        return record


ENDPOINT_VISITS = ("whole", "streamed", "stalls", "cancels", "torn", "torn_early", "too_large", "burst")


def follow(record: Record, line: Line, leave: Callable[[Record], bool]) -> None:
    """Read a stream into the record, until its end or until ``leave`` says so after a piece."""
    reply = line.ask(record.question.path, record.question.body(stream=True))
    if reply.status != 200:
        _take_whole(record, reply)
        return
    record.accepted = True
    finish, ended = None, False
    for event in events_of(reply):
        record.seen.append(json.dumps(event, ensure_ascii=False))
        if event == "[DONE]":
            ended = True
            continue
        if "error" in event:
            record.end = event["error"]["code"]
            return
        record.request_id = event["id"]
        for choice in event["choices"]:
            record.text += choice["text"] if "text" in choice else choice["delta"].get("content") or ""
            finish = choice["finish_reason"] or finish
        if event.get("usage"):
            record.tokens = event["usage"]["completion_tokens"]
        if leave(record):
            record.end = "left"
            return
    record.end = finish if ended and finish else "lost"


def _take_whole(record: Record, reply: HTTPResponse) -> None:
    raw = reply.read().decode()
    record.seen.append(raw)
    body = json.loads(raw)
    if reply.status != 200:
        # What was accepted and then failed is told with these; all other refusals come before.
        code = body["error"]["code"]
        record.end, record.accepted = code, code in ("engine_failure", "cancelled")
        return
    choice = body["choices"][0]
    record.accepted, record.request_id, record.end = True, body["id"], choice["finish_reason"]
    record.text = choice["text"] if "text" in choice else choice["message"]["content"]
    record.tokens = body["usage"]["completion_tokens"]
