"""Which connections are refused, and which are ended: on connections that go nowhere, and on real ones."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from ipaddress import ip_network
from typing import Any

import pytest
import uvicorn
from uvicorn.lifespan.off import LifespanOff
from uvicorn.server import ServerState

from chatglm_backend.access import server as server_module
from chatglm_backend.access.bodies import UnreadBody
from chatglm_backend.access.guard import Guard
from chatglm_backend.access.policy import AccessPolicy
from chatglm_backend.access.server import ImpatientH11, OrderlyServer

TOKEN = "a-token-for-tests"  # noqa: S105
HOST = b"Host: 127.0.0.1\r\n"
KEY = b"Authorization: Bearer " + TOKEN.encode() + b"\r\n"
PRIVATE = AccessPolicy(required=True, token=TOKEN)


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

    def abort(self) -> None:
        """Remember."""
        self.closed = True

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
        (["::ffff:127.0.0.1"] * 2 + ["::ffff:10.0.0.1", "10.0.0.1"] * 2, [True, True, True, True, False, False]),
        (["2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:0:1::1"], [True, True, False, True]),
        (["10.9.0.1", "::ffff:10.9.0.1", "10.9.0.1"], [True, True, True]),
    ],
)
def test_connections_beyond_the_limits_get_a_503_and_the_others_are_served(
    clients: list[str], admitted: list[bool]
) -> None:
    """One address, or one IPv6 visitor with many, cannot take all places; programs on this machine may, and proxies."""

    async def connect() -> list[Wire]:
        config = uvicorn.Config(answering, log_level="error", lifespan="off")
        config.load()
        state, wires, protocols = ServerState(), [Wire(client) for client in clients], []
        for wire in wires:
            protocol = SmallH11(config, state, {}, proxies=(ip_network("10.9.0.0/16"),))
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


def test_tls_handshakes_count_in_their_addresss_share() -> None:
    """Beside connections that are past theirs; who is one too many is hung up on at once, and counts no more."""

    async def connect() -> None:
        config = uvicorn.Config(answering, log_level="error", lifespan="off")
        config.load()
        state = ServerState()

        def shake(client: str) -> tuple[bool, Wire, SmallH11]:
            wire, protocol = Wire(client), SmallH11(config, state, {}, proxies=(ip_network("10.9.0.0/16"),))
            return protocol.count_in(wire), wire, protocol  # type: ignore[arg-type]

        past = SmallH11(config, state, {})
        past.connection_made(Wire("10.0.0.1"))  # type: ignore[arg-type]
        inside = [shake("10.0.0.1")]
        for client in ("10.0.0.1", "::ffff:10.0.0.1"):
            admitted, wire, _ = shake(client)
            assert (admitted, wire.closed, len(state.connections)) == (False, True, 2)
        inside += [shake("10.0.0.2"), shake("10.0.0.2")]
        assert [(admitted, wire.closed) for admitted, wire, _ in inside] == [(True, False)] * 3
        assert not shake("10.0.0.3")[0]  # all places are taken
        state.connections -= {protocol for _, _, protocol in inside[1:]}  # as handshakes that failed
        assert [shake(client)[0] for client in ("10.9.0.1", "10.9.0.1")] == [True, True]  # a proxy that was named
        past.connection_lost(None)
        assert shake("10.0.0.1")[0]

    asyncio.run(connect())


async def on_a_real_connection(
    policy: AccessPolicy, talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], **limits: float
) -> bytes:
    """What a client gets until it is hung up on, after it said its part. ``limits``: shorter ones of the protocol."""
    protocol = type("Protocol", (ImpatientH11,), limits)
    config = uvicorn.Config(Guard(answering, policy), log_level="critical", lifespan="off")
    config.load()
    server = await asyncio.get_running_loop().create_server(partial(protocol, config, ServerState(), {}), "127.0.0.1")
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    talking = asyncio.ensure_future(talk(reader, writer))
    try:
        return await asyncio.wait_for(reader.read(), 5)
    except ConnectionError:
        return b"reset"
    finally:
        talking.cancel()
        writer.close()
        server.close()


def drip(opening: bytes, drop: bytes = b"x") -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    """A client that begins with ``opening`` and goes on for ever, a little at a time."""

    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(opening)
        while True:
            await asyncio.sleep(0.02)
            writer.write(drop)

    return talk


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"POST /v1/models HTTP/1.1\r\nContent-Length: 900000\r\n", b"401"),
        (b"POST /v1/models HTTP/1.1\r\nContent-Length: 9000000\r\n" + KEY, b"413"),
        (b"POST /health HTTP/1.1\r\nTransfer-Encoding: chunked\r\n", b"413"),
        (b"GET / HTTP/1.1\r\nContent-Length: 900000\r\n", b"200"),
    ],
)
def test_a_reply_before_the_body_was_read_ends_the_connection(
    head: bytes, status: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What follows is a body that nobody reads, however slowly it comes; the client is told, and gets its reply."""
    monkeypatch.setattr(UnreadBody, "drain_s", 0.1)
    talk = drip(head + HOST + b"\r\n", b"5\r\nabcde\r\n")
    reply = asyncio.run(on_a_real_connection(PRIVATE, talk))
    assert reply.startswith(b"HTTP/1.1 " + status)
    assert b"connection: close" in reply.lower()


def test_a_large_body_that_is_refused_does_not_cost_the_reply() -> None:
    """The rest of it is read and dropped for a moment: closing at once would reset the connection."""

    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"POST /v1/models HTTP/1.1\r\nContent-Length: 3000000\r\n" + HOST + KEY + b"\r\n")
        for _ in range(30):
            writer.write(b"x" * 100_000)
            await writer.drain()

    reply = asyncio.run(on_a_real_connection(PRIVATE, talk))
    assert b'"code":"body_too_large"' in reply


@pytest.mark.parametrize(
    "talk",
    [
        drip(b"GET / HTTP/1.1\r\nX-Slow: "),
        drip(b"", b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n"),
        drip(b"", b"GET /config HTTP/1.1\r\nAuthorization: Bearer wrong\r\n" + HOST + b"\r\n"),
        drip(b"POST / HTTP/1.1\r\nContent-Length: 4000\r\n" + HOST + b"\r\n"),
        drip(b"", b"\r\n"),
    ],
)
def test_a_stranger_is_hung_up_on_whatever_they_send(
    talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> None:
    """Heads and forms that never end, wrong keys, empty lines, and what everybody may ask, again and again."""
    asyncio.run(on_a_real_connection(PRIVATE, talk, stranger_seconds=0.2, head_seconds=9.0))


def test_who_has_shown_the_key_may_stay() -> None:
    """The limit is for strangers only, also where later requests of the connection are anybody's."""
    heard: list[bytes] = []

    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"GET /config HTTP/1.1\r\n" + HOST + KEY + b"\r\n")
        await asyncio.sleep(0.3)
        heard.append(b"still open")
        writer.write(b"GET /health HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n")

    reply = asyncio.run(on_a_real_connection(PRIVATE, talk, stranger_seconds=0.1))
    assert heard
    assert reply.count(b"HTTP/1.1 200") == 2


@pytest.mark.parametrize("count", [1, 6])
def test_a_tls_handshake_that_never_comes_is_counted_and_hung_up_on(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those beyond the limit at once, the others after the time that a stranger has."""
    monkeypatch.setattr(server_module, "_HEAD_SECONDS", 1.0)

    async def wait() -> list[int]:
        config = uvicorn.Config(answering, http=SmallH11, log_level="critical", lifespan="off")
        config.load()
        config.ssl, config.ssl_certfile = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), "none"
        server = OrderlyServer(config)
        server.lifespan = LifespanOff(config)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            await server.startup([listener])
            lines = [await asyncio.open_connection(*listener.getsockname()) for _ in range(count)]
            ended: list[int] = []

            async def read(number: int) -> None:
                with contextlib.suppress(ConnectionError):
                    assert await asyncio.wait_for(lines[number][0].read(), 5) == b""
                ended.append(number)

            await asyncio.gather(*map(read, range(count)))
            for _, writer in lines:
                writer.close()
            server.servers[0].close()
            assert not server.server_state.connections
            return ended

    ended = asyncio.run(wait())
    assert sorted(ended[: max(0, count - 4)]) == list(range(4, count))
