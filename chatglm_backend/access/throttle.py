"""Counts wrong tokens per address, so that nobody can try many. Knows no HTTP and no tokens."""

from __future__ import annotations

import ipaddress
import threading
from collections import OrderedDict

from chatglm_backend.access.tokens import parse_address
from chatglm_backend.core import Clock, monotonic_clock


class AttemptThrottle:
    """At most ``attempts`` wrong ones from an address in ``window_s`` seconds. Remembers ``max_addresses``.

    Thread-safe. One IPv6 network of 64 bits counts as one address, because one visitor has all of it.
    """

    def __init__(
        self, attempts: int = 10, window_s: float = 60.0, *, max_addresses: int = 4096, clock: Clock = monotonic_clock
    ) -> None:
        self._attempts = attempts
        self._window_s = window_s
        self._max = max_addresses
        self._clock = clock
        self._lock = threading.Lock()
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def __len__(self) -> int:
        """How many addresses are remembered."""
        with self._lock:
            return len(self._failures)

    def wait_s(self, address: str) -> float:
        """Seconds until the address may try again; 0 when it may now."""
        with self._lock:
            count, since = self._failures.get(_key(address), (0, 0.0))
            left = since + self._window_s - self._clock()
            return left if count >= self._attempts and left > 0 else 0.0

    def failed(self, address: str) -> None:
        """Count a wrong attempt."""
        key, now = _key(address), self._clock()
        with self._lock:
            count, since = self._failures.pop(key, (0, now))
            if now - since >= self._window_s:
                count, since = 0, now
            self._failures[key] = (count + 1, since)
            while len(self._failures) > self._max:
                self._failures.popitem(last=False)

    def succeeded(self, address: str) -> None:
        """Forget an address that knew the token."""
        with self._lock:
            self._failures.pop(_key(address), None)


def _key(address: str) -> str:
    ip = parse_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((ip, 64), strict=False))
    return address[:64] if ip is None else str(ip)
