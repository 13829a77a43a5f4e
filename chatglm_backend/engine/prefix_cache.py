"""The KV of earlier sequences, kept so that a follow-up only reads what is new.

A part whose K/V depend on what follows is reused whole or not at all: ChatGLM-6B's prompt up to ``<sop>``, which a
repeated question and a continued answer share. Compares tokens exactly, is bounded in bytes, forgets the least
recently used. Every owner has their own: a prefix that one visitor has sent makes nobody else's answer quicker, which
would tell them of it. Knows nothing of requests or texts.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from chatglm_backend.models.adapter import Adapter
from chatglm_backend.models.kv_cache import KVCache

_CUE = 8
_BESIDE_KNOWN, _BESIDE_TOKENS = 2, 2048
"""Of how many sequences the ends are looked at, and how much of each."""


class PrefixCache:
    """Keeps copies of KV caches by owner and token ids; nothing where there is no room for any."""

    def __init__(
        self,
        new_cache: Callable[[int, Adapter | None], KVCache],
        *,
        max_bytes: int,
        min_tokens: int = 8,
    ) -> None:
        self.nbytes = 0
        self._new_cache = new_cache
        self._max_bytes = max_bytes
        self._min_tokens = min_tokens
        self._entries: OrderedDict[tuple[str, tuple[int, ...]], KVCache] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def fill(self, owner: str, ids: tuple[int, ...], cache: KVCache) -> int:
        """Copy the longest prefix of ``ids`` that ``owner`` has had into the empty ``cache``; its number of tokens.

        At least one token is always left to evaluate.
        """
        best: tuple[int, ...] | None = None
        length = 0
        for known in self._known(owner):
            common = common_prefix(known, ids)
            if common > max(length, _context(self._entries[owner, known])):
                best, length = known, common
        length = min(length, len(ids) - 1)
        if best is None or length < self._min_tokens:
            return 0
        cache.copy_prefix_from(self._entries[owner, best], length)
        self._entries.move_to_end((owner, best))
        return length

    def keep(self, owner: str, ids: tuple[int, ...], cache: KVCache) -> KVCache | None:
        """Remember for ``owner`` the K/V of ``ids``, which are the first tokens of ``cache``; what is new, a copy."""
        if len(ids) < self._min_tokens or cache.bytes_per_token * len(ids) > self._max_bytes:
            return None
        for known in self._known(owner):
            common = common_prefix(known, ids)
            if common == len(ids):
                self._entries.move_to_end((owner, known))
                return None
            # Another question leaves nothing to reuse of ChatGLM-6B's, whose K/V are large.
            if common == len(known) or _context(cache):
                self._drop((owner, known))
        copy = self._new_cache(len(ids), cache.adapter)
        copy.copy_prefix_from(cache, len(ids))
        self._entries[owner, ids] = copy
        self.nbytes += copy.nbytes
        while self.nbytes > self._max_bytes and self._entries:
            self._drop(next(iter(self._entries)))
        return copy

    def beside(self, owner: str, ids: tuple[int, ...]) -> tuple[int, ...]:
        """What ``owner`` has had that goes on otherwise than ``ids``, each from a little before, the latest last."""
        found: list[int] = []
        for known in self._known(owner)[-_BESIDE_KNOWN:]:
            common = common_prefix(known, ids)
            if common < len(known):
                found += known[max(0, common - _CUE, len(known) - _BESIDE_TOKENS) :]
        return tuple(found)

    def keep_only(self, wanted: Callable[[KVCache], bool]) -> None:
        """Forget all others."""
        for key in [key for key, cache in self._entries.items() if not wanted(cache)]:
            self._drop(key)

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self.nbytes = 0

    def _known(self, owner: str) -> list[tuple[int, ...]]:
        return [ids for name, ids in self._entries if name == owner]

    def _drop(self, key: tuple[str, tuple[int, ...]]) -> None:
        self.nbytes -= self._entries.pop(key).nbytes


def common_prefix(first: tuple[int, ...], second: tuple[int, ...]) -> int:
    """How many leading tokens are equal."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _context(cache: KVCache) -> int:
    """How many leading tokens see one another."""
    return cache.plan.context if cache.plan is not None else 0
