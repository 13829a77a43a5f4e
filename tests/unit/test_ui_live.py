"""Answers without a page: they go on for a while, their owner comes back to them, others do not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import aclosing

from chatglm_backend.ui.live import LiveAnswers


class _Counting:
    """Counts up until it is stopped; ``ended`` says that it has run to its end."""

    def __init__(self, most: int = 1000) -> None:
        self.stopped = False
        self.ended = False
        self._most = most

    async def items(self) -> AsyncGenerator[int, None]:
        """The numbers."""
        try:
            for number in range(self._most):
                yield number
                if self.stopped:
                    return
                await asyncio.sleep(0.01)
        finally:
            self.ended = True

    def stop(self) -> None:
        """Make the numbers end."""
        self.stopped = True


def _always(_: int) -> bool:
    return True


async def _take(items: AsyncGenerator[int, None], count: int) -> list[int]:
    """The first ``count`` items; then the page is gone."""
    found: list[int] = []
    async with aclosing(items):
        async for item in items:
            found.append(item)
            if len(found) == count:
                break
    return found


async def _until(counting: _Counting, seconds: float = 5.0) -> bool:
    for _ in range(int(seconds / 0.01)):
        if counting.ended:
            return True
        await asyncio.sleep(0.01)
    return False


def test_a_watched_answer_runs_to_its_end() -> None:
    """Everything comes, in order."""

    async def scene() -> list[int]:
        counting = _Counting(5)
        return [item async for item in LiveAnswers[int](9).begin("s", "ann", counting.items(), counting.stop)]

    assert asyncio.run(scene()) == [0, 1, 2, 3, 4]


def test_its_owner_comes_back_to_it() -> None:
    """A page that returns within the grace reads on, from another session, to the end."""

    async def scene() -> tuple[list[int], bool]:
        lives, counting = LiveAnswers[int](60), _Counting(30)
        await _take(lives.begin("s1", "ann", counting.items(), counting.stop), 3)
        return [item async for item in lives.resume("s2", "ann", _always)], counting.stopped

    found, stopped = asyncio.run(scene())
    assert found == list(range(found[0], 30))
    assert not stopped


def test_an_answer_that_nobody_comes_back_to_is_stopped() -> None:
    """After the grace, and not before."""

    async def scene() -> tuple[bool, bool]:
        lives, counting = LiveAnswers[int](0.2), _Counting()
        await _take(lives.begin("s", "ann", counting.items(), counting.stop), 3)
        before = counting.stopped
        return before, await _until(counting)

    assert asyncio.run(scene()) == (False, True)


def test_coming_back_twice_begins_the_grace_anew() -> None:
    """The time runs from the last departure."""

    async def scene() -> bool:
        lives, counting = LiveAnswers[int](0.3), _Counting()
        await _take(lives.begin("s", "ann", counting.items(), counting.stop), 1)
        await asyncio.sleep(0.2)
        await _take(lives.resume("s", "ann", _always), 2)
        await asyncio.sleep(0.15)
        went_on = not counting.stopped
        lives.stop("s")
        await _until(counting)
        return went_on

    assert asyncio.run(scene())


def test_without_an_owner_the_answer_ends_with_its_page() -> None:
    """Nobody could come back to it."""

    async def scene() -> bool:
        lives, counting = LiveAnswers[int](60), _Counting()
        await _take(lives.begin("s", None, counting.items(), counting.stop), 2)
        return counting.stopped

    assert asyncio.run(scene())


def test_nobody_else_gets_it() -> None:
    """Another visitor, a nobody, another wish, and a page that takes only abandoned ones find nothing."""

    async def scene() -> list[list[int]]:
        lives, counting = LiveAnswers[int](60), _Counting()
        watched = lives.begin("s", "ann", counting.items(), counting.stop)
        await anext(watched)
        found = [
            await _take(lives.resume("t", "bob", _always), 1),
            await _take(lives.resume("t", None, _always), 1),
            await _take(lives.resume("t", "ann", lambda item: item < 0), 1),
            await _take(lives.resume("t", "ann", _always, only_left=True), 1),
        ]
        lives.detach("s")
        await watched.aclose()
        await _until(counting)
        return found

    assert asyncio.run(scene()) == [[], [], [], []]


def test_what_ended_meanwhile_is_shown_once_more() -> None:
    """The owner comes back a moment after the end and finds it."""

    async def scene() -> list[int]:
        lives, counting = LiveAnswers[int](60), _Counting(4)
        await _take(lives.begin("s", "ann", counting.items(), counting.stop), 1)
        await _until(counting)
        await asyncio.sleep(0.02)
        return [item async for item in lives.resume("t", "ann", _always)]

    assert asyncio.run(scene()) == [3]


def test_turning_to_something_else_shows_that_and_stops_the_answer() -> None:
    """The last item a page sees is the new one, also when another thread says so."""

    async def scene() -> tuple[int, bool]:
        lives, counting, found = LiveAnswers[int](60), _Counting(), [0]
        async for item in lives.begin("s", "ann", counting.items(), counting.stop):
            found.append(item)
            if item == 3:
                thread = threading.Thread(target=lives.detach, args=("s", -1))
                thread.start()
                thread.join()
        return found[-1], counting.stopped

    assert asyncio.run(scene()) == (-1, True)


def test_two_pages_watch_one_answer() -> None:
    """One leaves, the other reads on."""

    async def scene() -> tuple[list[int], bool]:
        lives, counting = LiveAnswers[int](60), _Counting(20)
        first = lives.begin("s", "ann", counting.items(), counting.stop)
        await anext(first)
        second = asyncio.create_task(_take(lives.resume("t", "ann", _always), 100))
        await anext(first)
        await anext(first)
        lives.detach("s")
        await first.aclose()
        return await second, counting.stopped

    found, stopped = asyncio.run(scene())
    assert found[-1] == 19
    assert not stopped


def test_an_error_reaches_the_page() -> None:
    """What breaks in the background is not swallowed."""

    async def broken() -> AsyncGenerator[int, None]:
        yield 1
        raise LookupError("x")

    async def scene() -> str:
        try:
            async for _ in LiveAnswers[int](60).begin("s", "ann", broken(), lambda: None):
                pass
        except LookupError as error:
            return str(error)
        return ""

    assert asyncio.run(scene()) == "x"
