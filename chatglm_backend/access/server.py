"""What uvicorn must be told: certificates, limits, to refuse connections beyond a number, to hang up on clients that
never finish their headers or never say who they are, and to end in order when it is asked to: first what is running,
then the connections, then back to whoever called it.

Knows no policy but :class:`AccessPolicy` and no application.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.utils import get_remote_addr

from chatglm_backend.access.asgi import error_reply
from chatglm_backend.access.policy import MAX_OF_ONE, AccessPolicy, Network
from chatglm_backend.access.tokens import parse_address, visitor_network
from chatglm_backend.settings import Settings

_HEAD_SECONDS = 15.0
_REFUSED_SECONDS = 2.0
_MAX_CONNECTIONS = 512
_OPEN_FILES = 4 * _MAX_CONNECTIONS
_LAST_WORDS_SECONDS = 1.5
_HANG_UP_SECONDS = 3
_POLL_S = 0.05
_FULL_BODY = bytes(
    error_reply(503, "too_many_connections", "There are too many connections. Try again in a few seconds.").body
)
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 5\r\nconnection: close\r\n"
    b"cache-control: no-store\r\ncontent-length: %d\r\n\r\n%b" % (len(_FULL_BODY), _FULL_BODY)
)


class ImpatientH11(H11Protocol):
    """uvicorn's own protocol, with limits on what it takes for ever: connections, and a client's time for its headers.

    Beyond ``max_connections``, or ``max_of_one`` from one address that is neither this machine nor one of ``proxies``,
    a new connection gets a 503 and is closed, while those that are open go on. uvicorn's own limit would refuse
    everybody's requests instead. A connection on which nobody was admitted is ended after ``stranger_seconds``,
    whatever else happens on it.
    """

    head_seconds = _HEAD_SECONDS
    stranger_seconds = _HEAD_SECONDS
    max_connections = _MAX_CONNECTIONS
    max_of_one = MAX_OF_ONE
    _head_timer: asyncio.TimerHandle | None = None
    _stranger_timer: asyncio.TimerHandle | None = None
    _refused = False

    def __init__(self, *args: Any, proxies: Sequence[Network] = (), **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **kwargs)
        self._proxies = proxies
        self.app_state = {**self.app_state, "admit": self._admit}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request, or to refuse it."""
        super().connection_made(transport)
        if self.client is None:  # it has gone already: nobody would hear the answer, nor be counted as its visitor
            transport.abort()
        elif self._one_too_many():
            self._refused = True
            self.connections.discard(self)
            self.head_seconds = min(self.head_seconds, _REFUSED_SECONDS)
        self._watch_head()
        self._stranger_timer = self.loop.call_later(self.stranger_seconds, transport.abort)

    def count_in(self, transport: asyncio.Transport) -> bool:
        """Count a connection before anything was said on it; false where there are too many, and it was ended."""
        self.transport, self.client = transport, get_remote_addr(transport)
        self.connections.add(self)
        if self.client is not None and not self._one_too_many():
            return True
        self.connections.discard(self)
        transport.abort()
        return False

    def data_received(self, data: bytes) -> None:
        """Take bytes; wait on only while headers are incomplete."""
        if self._refused:
            self._stop_watching()
            if not self.transport.is_closing():
                self.transport.write(_FULL)
                self.transport.close()
            return
        super().data_received(data)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers."""
        self._stop_watching()
        self._admit()
        super().connection_lost(exc)

    def _one_too_many(self) -> bool:
        if len(self.connections) > self.max_connections:
            return True
        ip = parse_address(self.client[0]) if self.client else None
        if self.client is None or ip is None or ip.is_loopback or any(ip in proxies for proxies in self._proxies):
            return False
        clients = (getattr(other, "client", None) for other in self.connections)
        own = visitor_network(self.client[0])
        return sum(client is not None and visitor_network(client[0]) == own for client in clients) > self.max_of_one

    def _admit(self) -> None:
        if self._stranger_timer is not None:
            self._stranger_timer.cancel()
            self._stranger_timer = None

    def _watch_head(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._stop_watching()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_seconds, self._hang_up)

    def _stop_watching(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _hang_up(self) -> None:
        self._head_timer = None
        if self.conn.their_state is h11.IDLE:
            self.transport.abort()  # to close would wait for a client that does not read


class HandshakeFirst(asyncio.Protocol):
    """The TLS handshake of a connection, which counts among its address's own like what comes after it.

    asyncio's own way would call ``then`` when the handshake is over, so that nobody knew of those that never are.
    """

    def __init__(self, then: ImpatientH11, context: ssl.SSLContext) -> None:
        self._then, self._context, self._early, self._lost = then, context, b"", False
        self._shaking: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, unless there are too many. The task runs before anything can be read, and stops reading."""
        if self._then.count_in(transport):
            self._shaking = self._then.loop.create_task(self._shake(transport))

    def data_received(self, data: bytes) -> None:
        """What came with the handshake's end."""
        self._early += data

    def connection_lost(self, _: Exception | None) -> None:
        """Nobody is there any more."""
        self._lost = True

    async def _shake(self, transport: asyncio.Transport) -> None:
        secured = None
        with contextlib.suppress(OSError):
            secured = await self._then.loop.start_tls(
                transport, self, self._context, server_side=True, ssl_handshake_timeout=_HEAD_SECONDS
            )
        if secured is None or self._lost:
            self._then.connections.discard(self._then)
            transport.abort()
            return
        secured.set_protocol(self._then)
        self._then.connection_made(secured)
        if self._early:
            self._then.data_received(self._early)


class OrderlyServer(uvicorn.Server):
    """Ends in order at SIGTERM or Ctrl-C: ``drain``, while requests are still answered; then it hangs up and returns.

    ``drain`` runs in a thread of its own and should refuse new work, let running work end, and limit its own time.
    A second Ctrl-C or SIGTERM does not wait for it. uvicorn's own server would kill the process afterwards; this one
    lets what comes after ``run`` clean up.
    """

    def __init__(self, config: uvicorn.Config, drain: Callable[[], None] = lambda: None) -> None:
        super().__init__(config)
        self._drain = drain
        self._hurry = False

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take signals as uvicorn does, and count them as dealt with."""
        with super().capture_signals():
            yield
            self._captured_signals.clear()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """The first signal asks for the end, the second for a quick one."""
        self._captured_signals.append(sig)
        self._hurry = self.should_exit
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen; a client that does not finish the TLS handshake is counted and hung up on like any other stranger."""
        loop = asyncio.get_running_loop()
        create = loop.create_server

        async def listen(factory: Callable[[], ImpatientH11], **options: Any) -> asyncio.Server:  # noqa: ANN401
            context = options.pop("ssl")
            return await create(lambda: HandshakeFirst(factory(), context), **options)

        if self.config.is_ssl:
            loop.create_server = listen  # type: ignore[assignment, method-assign]
        await super().startup(sockets)
        loop.create_server = create  # type: ignore[method-assign]

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain, then end the connections."""
        draining = threading.Thread(target=self._drain, name="drain", daemon=True)
        draining.start()
        while draining.is_alive() and not self._hurry:  # noqa: ASYNC110  neither thread nor signal can set an event
            await asyncio.sleep(_POLL_S)
        await self._hang_up()
        await super().shutdown(sockets)

    async def _hang_up(self) -> None:
        """Give streams a moment to send their last words; then those that never end, a page's, see their reader go."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _LAST_WORDS_SECONDS
        while self.server_state.tasks and loop.time() < until and not self._hurry:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)
        for connection in list(self.server_state.connections):
            connection.transport.close()


def allow_open_files(wanted: int = _OPEN_FILES) -> None:
    """Let this process have so many files open at once, or as many as the system allows, so that none are lacking."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def server_options(policy: AccessPolicy, settings: Settings) -> dict[str, Any]:
    """Keyword arguments for ``uvicorn.Config``."""
    return {
        "http": functools.partial(ImpatientH11, proxies=policy.proxies),
        "ws": "none",
        "root_path": policy.root_path,
        "workers": 1,  # else uvicorn reads WEB_CONCURRENCY
        "forwarded_allow_ips": _believed(policy.proxies),  # else FORWARDED_ALLOW_IPS
        "ssl_certfile": settings.tls_cert,
        "ssl_keyfile": settings.tls_key,
        "h11_max_incomplete_event_size": 2 * policy.max_head,
        "timeout_keep_alive": 10,
        "timeout_graceful_shutdown": _HANG_UP_SECONDS,
        "access_log": False,  # it would write tokens in addresses to the log
        "server_header": False,
    }


def _believed(proxies: Sequence[Network]) -> list[str]:
    """As uvicorn reads them: an IPv4 address has another form where a socket takes both kinds."""
    mapped = [f"::ffff:{net.network_address}/{96 + net.prefixlen}" for net in proxies if net.version == 4]
    return [*map(str, proxies), *mapped]
