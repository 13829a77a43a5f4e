"""Who is next: round-robin over visitors, oldest first within one.

Knows visitors by name and items not at all. Not thread-safe: the worker locks.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Container
from typing import Generic, TypeVar

from chatglm_backend.errors import QueueFull

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Items wait under their visitor's name; a visitor that was served goes to the end of the round."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._visitors: OrderedDict[str, deque[T]] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def push(self, visitor: str, item: T) -> None:
        """Add an item. Raises QueueFull."""
        if self._size >= self._limit:
            raise QueueFull(waiting=self._size)
        self._visitors.setdefault(visitor, deque()).append(item)
        self._size += 1

    def peek(self, sated: Container[str] = ()) -> T | None:
        """The next item, left where it is; those of ``sated`` visitors go on waiting."""
        return next((items[0] for visitor, items in self._visitors.items() if visitor not in sated), None)

    def pop(self, sated: Container[str] = ()) -> T:
        """Take the item that :meth:`peek` shows; its visitor goes to the end of the round. Raises IndexError."""
        visitor = next((one for one in self._visitors if one not in sated), None)
        if visitor is None:
            raise IndexError("nobody waits")
        items = self._visitors.pop(visitor)
        item = items.popleft()
        self._size -= 1
        if items:
            self._visitors[visitor] = items
        return item

    def remove(self, visitor: str, item: T) -> bool:
        """Take an item out of turn; False if it is not here."""
        items = self._visitors.get(visitor)
        if items is None or item not in items:
            return False
        items.remove(item)
        self._size -= 1
        if not items:
            del self._visitors[visitor]
        return True

    def waiting_for(self, visitor: str) -> int:
        """How many items wait under this name."""
        return len(self._visitors.get(visitor, ()))

    def order(self) -> list[T]:
        """All items in the order in which they would be served."""
        rounds = [list(items) for items in self._visitors.values()]
        longest = max(map(len, rounds), default=0)
        return [items[turn] for turn in range(longest) for items in rounds if turn < len(items)]
