"""Visits to the page, by the requests that its script makes: cookie, heartbeat, queue, stream, Stop, reload."""

from __future__ import annotations

import json
import random
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import unescape
from typing import Any

from benchmarks.soaking.line import Client, Leave, Line, events_of, to_the_end
from benchmarks.soaking.questions import Question, Record

_PIECES = (0, 1, 3, 8)
Take = Callable[[Record, list[Any]], None]
"""Puts what a page shows into the record."""
_STATUS, _OUTPUT = 2, 3  # among what Generate sets
_ENDS = {
    "Finished after": "stop",
    "Reached the limit": "length",
    "Stopped after": "cancelled",
    "Time ran out": "timeout",
}


@dataclass(frozen=True, slots=True)
class Functions:
    """The numbers by which the page's script calls Generate, Stop, and taking up an answer after a reload.

    ``inputs`` are the controls that Generate reads, with what they hold at first. ``named`` are those of all buttons
    that have a name, ``restore`` shows the last conversation, whose controls are ``talk``.
    """

    generate: int
    stop: int
    resume: int
    inputs: dict[str, Any]
    named: dict[tuple[str | None, str], int]
    restore: int
    talk: list[tuple[str | None, Any]]


def read_functions(config: dict[str, Any]) -> Functions:
    """From the page's ``/config``."""
    props = {component["id"]: component["props"] for component in config["components"]}
    names = {number: found.get("elem_id") for number, found in props.items()}
    by_target = {
        (names.get(target[0]), target[1]): function["id"]
        for function in config["dependencies"]
        for target in function["targets"]
    }
    functions = {function["id"]: function for function in config["dependencies"]}
    loads = [one for one in functions.values() if any(event == "load" for _, event in one["targets"])]
    generate, send = by_target["cg-generate", "click"], by_target["cg-chat-send", "click"]
    again, restore = (
        next(one["id"] for one in loads if one["outputs"] == functions[asked]["outputs"]) for asked in (generate, send)
    )
    inputs, talk = (
        [(names[number], props[number].get("value")) for number in functions[asked]["inputs"]]
        for asked in (generate, send)
    )
    stop = by_target["cg-stop", "click"]
    return Functions(generate, stop, again, {str(name): value for name, value in inputs}, by_target, restore, talk)


class Tab:
    """One open page: a session with its heartbeat."""

    def __init__(self, client: PageClient) -> None:
        self._client = client
        self.session = secrets.token_hex(6)
        self._heartbeat = client.line()
        self._heartbeat.ask(f"/en/gradio_api/heartbeat/{self.session}")
        self._stream: Line | None = None

    def press(self, function: int, fields: list[Any]) -> None:
        """Call a function through the queue; its answer comes on the stream."""
        body = {"data": fields, "fn_index": function, "session_hash": self.session, "event_data": None}
        with self._client.line() as line:
            reply = line.ask("/en/gradio_api/queue/join", body)
            raw = reply.read()
            if reply.status != 200:
                raise RuntimeError(f"the queue answered {reply.status}: {raw[:200]!r}")

    def stop(self) -> None:
        """Press Stop."""
        body = {"data": [None], "fn_index": self._client.functions.stop, "session_hash": self.session}
        with self._client.line() as line:
            line.ask("/en/gradio_api/run/predict", body).read()

    def watch(self, record: Record, leave: Leave, *, narrow: bool = False, take: Take | None = None) -> None:
        """Read the stream into the record, until the answer's end or until ``leave`` says so after a message."""
        self._stream = self._client.line(narrow=narrow)
        shown: list[Any] = []
        for message in events_of(self._stream.ask(f"/en/gradio_api/queue/data?session_hash={self.session}")):
            record.seen.append(json.dumps(message, ensure_ascii=False))
            kind = message["msg"]
            if kind in ("process_generating", "process_completed"):
                if not message["success"]:
                    record.end = "page_error"
                    return
                shown = _shown(shown, message["output"].get("data", []), final=kind == "process_completed")
                (take or _take)(record, shown)
            if kind == "process_completed":
                return
            if leave(record):
                record.end = "left"
                return
        record.end = "lost"

    def close(self, *, tear: bool = False) -> None:
        """Close the tab, or lose its network."""
        for line in (self._stream, self._heartbeat):
            if line is not None:
                line.close(tear=tear)


class PageClient(Client):
    """One browser: an address and the cookies that it was given."""

    visits = ("page", "page_stalls", "page_stops", "page_closes", "page_torn", "page_reloads")

    def __init__(self, number: int, port: int, token: str, functions: Functions, chance: random.Random) -> None:
        super().__init__(number, port, chance)
        self.functions, self._token = functions, token
        self._arrive()

    def page(self, question: Question) -> list[Record]:
        """Watch an answer to its end."""
        return self._visit("page", question, to_the_end)

    def page_stalls(self, question: Question) -> list[Record]:
        """Stop reading for some seconds, then read on."""
        return self._visit("page stalls", question, self.stalling(), narrow=True)

    def page_stops(self, question: Question) -> list[Record]:
        """Press Stop in the middle."""
        record, tab = self._begin("page stops", question)
        presses = iter([threading.Thread(target=tab.stop)])

        def press(found: Record) -> bool:
            if found.text and (thread := next(presses, None)) is not None:
                thread.start()
            return False

        tab.watch(record, press)
        tab.close()
        return [record]

    def page_closes(self, question: Question) -> list[Record]:
        """Close the tab in the middle."""
        return self._visit("page closes", question, self.enough(_PIECES))

    def page_torn(self, question: Question) -> list[Record]:
        """Lose the network in the middle, for good."""
        return self._visit("page torn", question, self.enough(_PIECES), tear=True)

    def page_reloads(self, question: Question) -> list[Record]:
        """Reload in the middle: a new session of the same visitor takes the answer up."""
        self._arrive()  # as somebody else, so that what was left before is not taken up instead
        record, tab = self._begin("page reloads", question)
        tab.watch(record, lambda found: bool(found.text))
        tab.close(tear=self.chance.random() < 0.5)
        if record.end != "left":
            return [record]
        time.sleep(self.chance.uniform(0.5, 2.0))  # a browser is no faster
        again = Tab(self)
        again.press(self.functions.resume, [""])  # a browser that remembers no answer by its name
        again.watch(record, to_the_end)
        again.close()
        return [record]

    def _arrive(self, known: Mapping[str, str] | None = None) -> dict[str, str]:
        """By the link with the token, as a new visitor or with ``known`` cookies; they go with all that follows."""
        cookies = dict(known or {})
        self.headers = {"cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())} if cookies else {}
        for path in (f"/?token={self._token}", "/en/"):
            with self.line() as line:
                reply = line.ask(path, accept="text/html")
                if reply.status not in (200, 303):
                    raise RuntimeError(f"{path} answered {reply.status}")
                given = (header.split(";")[0].partition("=") for header in reply.headers.get_all("set-cookie") or ())
                cookies |= {name: value for name, _, value in given}
                reply.read()
            self.headers = {"cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())}
        return cookies

    def _begin(self, kind: str, question: Question) -> tuple[Record, Tab]:
        tab = Tab(self)
        tab.press(self.functions.generate, list({**self.functions.inputs, **question.fields()}.values()))
        return Record(self.number, kind, question), tab

    def _visit(
        self, kind: str, question: Question, leave: Leave, *, narrow: bool = False, tear: bool = False
    ) -> list[Record]:
        record, tab = self._begin(kind, question)
        tab.watch(record, leave, narrow=narrow)
        tab.close(tear=tear)
        return [record]


def _shown(before: list[Any], data: list[Any], *, final: bool) -> list[Any]:
    """What the page shows after a message, which holds everything the first and last time, and changes in between."""
    if final and not data:
        return before
    if final or not before:
        return list(data)
    from gradio_client.utils import apply_diff

    return [apply_diff(old, change) for old, change in zip(before, data, strict=True)]


def _take(record: Record, shown: list[Any]) -> None:
    record.text = shown[_OUTPUT] if isinstance(shown[_OUTPUT], str) else record.text
    take_status(record, shown[_STATUS])


def take_status(record: Record, shown: object) -> None:
    """How an answer ended, by the line that says it."""
    status = unescape(str(shown))
    if 'role="alert"' in status:
        record.end = "told: " + re.sub(r"<[^>]*>", "", status)
    elif 'data-phase="done"' in status:
        record.end = next(end for words, end in _ENDS.items() if words in status)
        tokens = re.search(r"(\d+)(?: new)? tokens", status)
        record.tokens = int(tokens[1]) if tokens else None
