"""What uvicorn must be told: certificates, limits, to hang up on clients that never finish their headers, and to
return when it is asked to end, so that what comes after it can clean up.

Knows no policy but :class:`AccessPolicy` and no application.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from chatglm_backend.access.policy import AccessPolicy
from chatglm_backend.settings import Settings

__all__ = ["ImpatientH11", "ReturningServer", "server_options"]

_HEAD_SECONDS = 15.0
_MAX_CONNECTIONS = 512


class ImpatientH11(H11Protocol):
    """uvicorn's own protocol, which lets a client take for ever over its headers, with a limit on that."""

    head_seconds = _HEAD_SECONDS
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        """Take bytes; wait on only while headers are incomplete."""
        super().data_received(data)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timer."""
        self._stop_watching()
        super().connection_lost(exc)

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
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.transport.close()


class ReturningServer(uvicorn.Server):
    """Returns from ``run`` after SIGTERM or Ctrl-C; uvicorn's own would then send itself the signal again and die."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take signals as uvicorn does, and count them as dealt with."""
        with super().capture_signals():
            yield
            self._captured_signals.clear()


def server_options(policy: AccessPolicy, settings: Settings) -> dict[str, Any]:
    """Keyword arguments for ``uvicorn.Config``."""
    return {
        "http": ImpatientH11,
        "ws": "none",
        "root_path": policy.root_path,
        "ssl_certfile": settings.tls_cert,
        "ssl_keyfile": settings.tls_key,
        "limit_concurrency": _MAX_CONNECTIONS,
        "h11_max_incomplete_event_size": 2 * policy.max_head,
        "timeout_keep_alive": 10,
        "access_log": False,  # it would write tokens in addresses to the log
        "server_header": False,
    }
