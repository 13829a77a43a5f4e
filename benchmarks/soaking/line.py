"""One connection to the server from an address of the client's own, that can be closed, torn off or read slowly.

Standard library only, because victims, which are started often, import it.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import struct
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["Line", "events_of"]

_TIMEOUT_S = 120.0


class Line:
    """An open connection to 127.0.0.1. ``narrow`` has room for few unread bytes, so that a stalling reader is felt."""

    def __init__(self, port: int, address: str, headers: Mapping[str, str], *, narrow: bool = False) -> None:
        self._headers = dict(headers)
        self._socket = socket.socket()
        if narrow:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        self._socket.settimeout(_TIMEOUT_S)
        self._socket.bind((address, 0))
        self._socket.connect(("127.0.0.1", port))
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
        self._http.sock = self._socket
        self._reply: http.client.HTTPResponse | None = None

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, path: str, body: object = None, **headers: str) -> None:
        """Send a request: GET without a body, POST with one; bytes go as they are, anything else as JSON."""
        raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        kind = {} if body is None else {"content-type": "application/json"}
        self._http.request("GET" if body is None else "POST", path, raw, {**self._headers, **kind, **headers})

    def reply(self) -> http.client.HTTPResponse:
        """Wait for the reply's head."""
        self._reply = self._http.getresponse()
        return self._reply

    def ask(self, path: str, body: object = None, **headers: str) -> http.client.HTTPResponse:
        """Send a request and wait for the reply's head."""
        self.send(path, body, **headers)
        return self.reply()

    def close(self) -> None:
        """Say goodbye as TCP does."""
        if self._reply is not None:
            self._reply.close()
        self._http.close()
        self._socket.close()

    def tear(self) -> None:
        """Vanish: the other side gets a reset, as from a machine that has lost its network or its process."""
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()


def events_of(reply: http.client.HTTPResponse) -> Iterator[Any]:
    """The events of a stream: what JSON they hold, or their text. Ends where the stream does, whole or broken off."""
    try:
        while line := reply.readline():
            if line.startswith(b"data:"):
                text = line[5:].strip().decode()
                yield json.loads(text) if text.startswith("{") else text
    except (OSError, http.client.HTTPException, ValueError):
        return
