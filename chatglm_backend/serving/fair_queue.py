"""Who is next: round-robin over sessions, oldest first within one.

Knows sessions by name and items not at all. Not thread-safe: the worker locks.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, TypeVar

from chatglm_backend.errors import QueueFull

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Items wait under their session's name; a session that was served goes to the end of the round."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._sessions: OrderedDict[str, deque[T]] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def push(self, session: str, item: T) -> None:
        """Add an item. Raises QueueFull."""
        if self._size >= self._limit:
            raise QueueFull(waiting=self._size)
        self._sessions.setdefault(session, deque()).append(item)
        self._size += 1

    def peek(self) -> T | None:
        """The next item, left where it is."""
        for items in self._sessions.values():
            return items[0]
        return None

    def pop(self) -> T:
        """Take the next item; its session goes to the end of the round. Raises IndexError when empty."""
        if not self._sessions:
            raise IndexError("nobody waits")
        session, items = self._sessions.popitem(last=False)
        item = items.popleft()
        self._size -= 1
        if items:
            self._sessions[session] = items
        return item

    def remove(self, session: str, item: T) -> bool:
        """Take an item out of turn; False if it is not here."""
        items = self._sessions.get(session)
        if items is None or item not in items:
            return False
        items.remove(item)
        self._size -= 1
        if not items:
            del self._sessions[session]
        return True

    def waiting_for(self, session: str) -> int:
        """How many items wait under this name."""
        return len(self._sessions.get(session, ()))

    def order(self) -> list[T]:
        """All items in the order in which they would be served."""
        rounds = [list(items) for items in self._sessions.values()]
        longest = max(map(len, rounds), default=0)
        return [items[turn] for turn in range(longest) for items in rounds if turn < len(items)]
