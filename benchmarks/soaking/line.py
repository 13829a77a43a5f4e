"""A client of the server at an address of its own, and its connections, closed, torn off or read slowly."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any

from benchmarks.soaking.questions import Question, Record

_TIMEOUT_S = 120.0
Leave = Callable[[Record], bool]
"""Whether the client goes away after a piece."""


class Line:
    """An open connection to 127.0.0.1. ``narrow`` has room for few unread bytes, so that a stalling reader is felt."""

    def __init__(self, port: int, address: str, headers: dict[str, str], *, narrow: bool = False) -> None:
        self._headers = headers
        self._socket = socket.socket()
        if narrow:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        self._socket.settimeout(_TIMEOUT_S)
        self._socket.bind((address, 0))
        self._socket.connect(("127.0.0.1", port))
        self._http = HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
        self._http.sock = self._socket
        self._reply: HTTPResponse | None = None

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, path: str, body: object = None, **headers: str) -> None:
        """Send a request: GET without a body, POST with one; bytes go as they are, anything else as JSON."""
        raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        kind = {} if body is None else {"content-type": "application/json"}
        self._http.request("GET" if body is None else "POST", path, raw, {**self._headers, **kind, **headers})

    def reply(self) -> HTTPResponse:
        """Wait for the reply's head."""
        self._reply = self._http.getresponse()
        return self._reply

    def ask(self, path: str, body: object = None, **headers: str) -> HTTPResponse:
        """Send a request and wait for the reply's head."""
        self.send(path, body, **headers)
        return self.reply()

    def close(self, *, tear: bool = False) -> None:
        """Say goodbye as TCP does, or vanish: a reset, as from a machine that has lost its network or process."""
        if tear:
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if self._reply is not None:
            self._reply.close()
        self._http.close()
        self._socket.close()


class Client:
    """One visitor: an address, headers, and chance. Subclasses say how it visits."""

    visits: tuple[str, ...] = ()
    """The names of its methods that take a question and give records; the first two are the usual ones."""

    def __init__(self, number: int, port: int, chance: random.Random) -> None:
        self.number, self.port, self.chance = number, port, chance
        self.address = f"127.0.1.{number + 1}"
        self.headers: dict[str, str] = {}

    def line(self, *, narrow: bool = False) -> Line:
        """A new connection."""
        return Line(self.port, self.address, self.headers, narrow=narrow)

    def ways(self) -> list[Callable[[Question], list[Record]]]:
        """Its kinds of visits."""
        return [getattr(self, name) for name in self.visits]

    def stalling(self) -> Leave:
        """Pause for some seconds at the first two pieces, then read to the end."""
        naps = iter([self.chance.uniform(1, 6), self.chance.uniform(0, 2)])
        return lambda _: time.sleep(next(naps, 0.0)) is not None

    def enough(self, pieces: Sequence[int]) -> Leave:
        """Stop once more has come than one of ``pieces``."""
        left = self.chance.choice(pieces)
        return lambda record: len(record.seen) > left


def to_the_end(_: Record) -> bool:
    """Never leave."""
    return False


def events_of(reply: HTTPResponse) -> Iterator[Any]:
    """The events of a stream: what JSON they hold, or their text. Ends where the stream does, whole or broken off."""
    try:
        while line := reply.readline():
            if line.startswith(b"data:"):
                text = line[5:].strip().decode()
                yield json.loads(text) if text.startswith("{") else text
    except (OSError, HTTPException, ValueError):
        return
