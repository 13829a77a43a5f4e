"""Which new connections are refused, on connections that go nowhere."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from chatglm_backend.access.server import ImpatientH11


class Wire:
    """A transport that remembers what was written."""

    def __init__(self, client: str) -> None:
        self.client, self.written, self.closed = client, b"", False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """The addresses at both ends."""
        return {"peername": (self.client, 5), "sockname": ("192.168.1.2", 7860)}.get(name, default)

    def write(self, data: bytes) -> None:
        """Remember."""
        self.written += data

    def close(self) -> None:
        """Remember."""
        self.closed = True

    def is_closing(self) -> bool:
        """Whether it was closed."""
        return self.closed

    def resume_reading(self) -> None:
        """Nothing to do."""


class SmallH11(ImpatientH11):
    """Four connections, two of them from one address."""

    max_connections = 4
    max_of_one = 2


async def answering(scope: Any, receive: Any, send: Any) -> None:
    """Answer 200."""
    del scope, receive
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize(
    ("clients", "admitted"),
    [
        (["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"], [True, True, True, True, False]),
        (["10.0.0.1", "10.0.0.1", "10.0.0.1", "10.0.0.2"], [True, True, False, True]),
        (["127.0.0.1", "127.0.0.1", "127.0.0.1", "::1", "127.0.0.1"], [True, True, True, True, False]),
        (["::ffff:127.0.0.1"] * 3 + ["::ffff:10.0.0.1"] * 3, [True, True, True, True, False, False]),
    ],
)
def test_connections_beyond_the_limits_get_a_503_and_the_others_are_served(
    clients: list[str], admitted: list[bool]
) -> None:
    """One address cannot take all places; programs on this machine, a proxy among them, may."""

    async def connect() -> list[Wire]:
        config = uvicorn.Config(answering, log_level="error", lifespan="off")
        config.load()
        state, wires, protocols = ServerState(), [Wire(client) for client in clients], []
        for wire in wires:
            protocol = SmallH11(config, state, {})
            protocol.connection_made(wire)  # type: ignore[arg-type]
            protocols.append(protocol)
        for protocol in protocols:
            protocol.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(0.05)
        for protocol in protocols:
            protocol.connection_lost(None)
        assert not state.connections
        return wires

    wires = asyncio.run(connect())
    assert [wire.written.startswith(b"HTTP/1.1 200") for wire in wires] == admitted
    for wire in (wire for wire, inside in zip(wires, admitted, strict=True) if not inside):
        head, _, body = wire.written.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 5" in head
        assert json.loads(body)["error"]["code"] == "too_many_connections"
        assert wire.closed
