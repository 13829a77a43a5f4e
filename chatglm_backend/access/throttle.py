"""Counts wrong tokens per address, so that nobody can try many. Knows no HTTP and no tokens."""

from __future__ import annotations

import threading
from collections import OrderedDict

from chatglm_backend.access.tokens import visitor_network
from chatglm_backend.core import Clock, monotonic_clock


class AttemptThrottle:
    """At most ``attempts`` wrong ones from an address at once, and as many more in every ``window_s`` seconds.

    Thread-safe. Remembers ``max_addresses``.
    """

    def __init__(
        self, attempts: int = 10, window_s: float = 60.0, *, max_addresses: int = 4096, clock: Clock = monotonic_clock
    ) -> None:
        self._attempts = attempts
        self._each_s = window_s / attempts
        self._max = max_addresses
        self._clock = clock
        self._lock = threading.Lock()
        self._forgiven: OrderedDict[str, float] = OrderedDict()  # when the address's last wrong one no longer counts

    def __len__(self) -> int:
        """How many addresses are remembered."""
        with self._lock:
            return len(self._forgiven)

    def wait_s(self, address: str) -> float:
        """Seconds until the address may try again; 0 when it may now."""
        now = self._clock()
        with self._lock:
            left = self._forgiven.get(visitor_network(address), now) - now
        return max(0.0, left - (self._attempts - 1) * self._each_s)

    def failed(self, address: str) -> None:
        """Count a wrong attempt."""
        key, now = visitor_network(address), self._clock()
        with self._lock:
            self._forgiven[key] = max(now, self._forgiven.pop(key, now)) + self._each_s
            while len(self._forgiven) > self._max:
                self._forgiven.popitem(last=False)
