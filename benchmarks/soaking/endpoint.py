"""Visits to the endpoint: answers read whole, streamed, slowly, in part, or not at all."""

from __future__ import annotations

import json
import random
import time
from http.client import HTTPResponse
from typing import Any

from benchmarks.soaking.line import Client, Leave, Line, events_of, to_the_end
from benchmarks.soaking.questions import Question, Record

_LARGE = 1_200_000
_PIECES = (1, 2, 5, 20)


class EndpointClient(Client):
    """One program on an address of its own, which makes it a visitor of its own."""

    visits = ("whole", "streamed", "stalls", "cancels", "torn", "torn_early", "too_large", "burst")

    def __init__(self, number: int, port: int, token: str, chance: random.Random) -> None:
        super().__init__(number, port, chance)
        self.headers = {"authorization": f"Bearer {token}"}

    def whole(self, question: Question) -> list[Record]:
        """Wait for the whole answer."""
        record = Record(self.number, "whole", question)
        with self.line() as line:
            _take_whole(record, line.ask(question.path, question.body(stream=False)))
        return [record]

    def streamed(self, question: Question) -> list[Record]:
        """Read every piece as it comes."""
        return self._stream("streamed", question, to_the_end)

    def stalls(self, question: Question) -> list[Record]:
        """Stop reading for some seconds, then read to the end."""
        return self._stream("stalls", question, self.stalling(), narrow=True)

    def cancels(self, question: Question) -> list[Record]:
        """Close the stream after some pieces, as a client's Stop does."""
        return self._stream("cancels", question, self.enough(_PIECES))

    def torn(self, question: Question) -> list[Record]:
        """Vanish after some pieces."""
        return self._stream("torn", question, self.enough(_PIECES), tear=True)

    def torn_early(self, question: Question) -> list[Record]:
        """Vanish while waiting for a whole answer, or before the request is even looked at."""
        line = self.line()
        line.send(question.path, question.body(stream=False))
        time.sleep(self.chance.choice((0.0, 0.05, 0.5, 1.0)))
        line.close(tear=True)
        return [Record(self.number, "torn early", question, end="left")]

    def too_large(self, question: Question) -> list[Record]:
        """More bytes than any request may have."""
        record = Record(self.number, "too large", question)
        with self.line() as line:
            try:
                _take_whole(record, line.ask("/v1/completions", b'{"prompt": "' + b"x" * _LARGE + b'"}'))
            except OSError:  # it hung up while we were still sending, which is its right
                record.end = "left"
        return [record]

    def burst(self, question: Question) -> list[Record]:
        """More requests at once than one visitor may run."""
        asked = [(Record(self.number, "burst", question), self.line()) for _ in range(6)]
        for _, line in asked:
            line.send(question.path, question.body(stream=False))
        for record, line in asked:
            with line:
                _take_whole(record, line.reply())
        return [record for record, _ in asked]

    def _stream(
        self, kind: str, question: Question, leave: Leave, *, narrow: bool = False, tear: bool = False
    ) -> list[Record]:
        record, line = Record(self.number, kind, question), self.line(narrow=narrow)
        try:
            _follow(record, line, leave)
        finally:
            line.close(tear=tear and record.end == "left")
            record.left_at = time.time() if record.end == "left" else None
        return [record]


def _follow(record: Record, line: Line, leave: Leave) -> None:
    """Read a stream into the record, until its end or until ``leave`` says so after a piece."""
    reply = line.ask(record.question.path, record.question.body(stream=True))
    if reply.status != 200:
        _take_whole(record, reply)
        return
    finish = None
    for event in events_of(reply):
        record.seen.append(json.dumps(event, ensure_ascii=False))
        if event == "[DONE]":
            record.end = finish or "lost"
            return
        if "error" in event:
            record.end = event["error"]["code"]
            return
        record.request_id = event["id"]
        for choice in event["choices"]:
            record.text += choice["text"] if "text" in choice else _said(choice["delta"])
            finish = end_of(choice) or finish
        if event.get("usage"):
            record.tokens = event["usage"]["completion_tokens"]
        if leave(record):
            record.end = "left"
            return


def _take_whole(record: Record, reply: HTTPResponse) -> None:
    raw = reply.read().decode()
    record.seen.append(raw)
    body = json.loads(raw)
    if reply.status != 200:
        record.end = body["error"]["code"]
        return
    take_answer(record, body)
    record.request_id = body["id"]


def take_answer(record: Record, body: dict[str, Any]) -> None:
    """A whole answer, as replies and the lines of a batch have it."""
    choice = body["choices"][0]
    record.end = end_of(choice) or "lost"
    record.text = choice["text"] if "text" in choice else _said(choice["message"])
    record.tokens = body["usage"]["completion_tokens"]


def end_of(choice: dict[str, Any]) -> str | None:
    """How an answer ended, as the log says it: a call of a tool is an end of the model's own."""
    return "stop" if choice["finish_reason"] == "tool_calls" else choice["finish_reason"]


def _said(message: dict[str, Any]) -> str:
    """The text, and what is called with which arguments."""
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    return (message.get("content") or "") + "".join(call.get("name", "") + call.get("arguments", "") for call in calls)
