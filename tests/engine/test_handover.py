"""The way between a loop and its thread: nothing is lost on it, nothing overtakes, and what is unhurried waits."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from contextlib import asynccontextmanager
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final

from cloister.engine import handover
from cloister.engine.handover import Handover

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    import pytest

    Rests = Callable[[Handover[Any]], Awaitable[None]]

PATIENCE: Final = 200
"""Seconds after which a thread that waits for the other has waited in vain."""


@asynccontextmanager
async def echo(
    here: Callable[[], bool] = lambda: False, way_is: Callable[[Handover[int]], None] = lambda way: None
) -> AsyncIterator[tuple[Handover[int], list[list[int]]]]:
    """A thread that gives back what it takes; the list is what came back, one list for each time that it took some."""
    way: Handover[int] = Handover(lambda: here())
    way_is(way)
    came: list[list[int]] = []

    def work() -> None:
        way.wait()
        while taken := way.take(3):
            way.tell(came.append, taken)
            way.wait()

    thread = threading.Thread(target=work)
    thread.start()
    yield way, came
    way.close()
    await asyncio.to_thread(thread.join)
    way.closed()


async def until(came: list[list[int]], count: int) -> list[int]:
    while sum(map(len, came)) < count:  # noqa: ASYNC110 - with each turn of the loop some may come
        await asyncio.sleep(0)
    return [number for taken in came for number in taken]


async def test_everything_comes_back_once_and_in_order() -> None:
    """However the two meet: whatever is put while the thread falls asleep is not forgotten."""
    async with echo() as (way, came):
        for number in range(2000):
            way.put(number)
            if number % 7:
                await asyncio.sleep(0)
        assert await until(came, 2000) == list(range(2000))


async def test_what_is_put_at_once_is_taken_together_up_to_a_bound(rests: Rests) -> None:
    """The thread is woken when the loop has put all it had to put."""
    async with echo() as (way, came):
        await rests(way)
        for number in range(5):
            way.put(number)
        await until(came, 5)
        assert came == [[0, 1, 2], [3, 4]]


async def test_the_unhurried_goes_with_what_comes_next_and_before_it(
    rests: Rests, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It costs the thread no awakening of its own."""
    monkeypatch.setattr(handover, "UNHURRIED_SECONDS", 3600)
    async with echo() as (way, came):
        await rests(way)
        way.put_unhurried(1)
        await asyncio.sleep(0.01)
        assert came == []
        way.put(2)
        await until(came, 2)
        assert came == [[1, 2]]


async def test_the_unhurried_goes_by_itself_before_long_or_when_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """And never stays behind."""
    async with echo() as (way, came):
        way.put_unhurried(1)
        assert await until(came, 1) == [1]
        monkeypatch.setattr(handover, "UNHURRIED_SECONDS", 3600)
        way.put_unhurried(2)
        way.hurry()
        assert await until(came, 2) == [1, 2]
        way.put_unhurried(3)
    assert await until(came, 3) == [1, 2, 3]


async def test_who_waits_for_so_long_only_goes_on_and_misses_nothing() -> None:
    """Whatever comes as the time runs out."""
    for _ in range(50):
        async with asyncio.timeout(PATIENCE):
            way: Handover[int] = Handover()
            waiting = asyncio.ensure_future(asyncio.to_thread(way.wait, 0.001))
            assert not await waiting
            assert not way._asleep, "nobody may wake it now"
            waiting = asyncio.ensure_future(asyncio.to_thread(way.wait, 0.001))
            await asyncio.sleep(0.001)
            way.put(1)
            if not await waiting:
                assert await asyncio.to_thread(way.wait, 0.001)
            assert way.take(3) == [1]
            way.closed()


async def test_who_waits_for_so_long_only_does_not_go_on_while_something_is_done_here() -> None:
    """Both use the same."""
    tired = threading.Event()

    class Bell(SimpleQueue[None]):
        def get(self, block: bool = True, timeout: float | None = None) -> None:
            try:
                return super().get(block, timeout)
            finally:
                tired.set()

    def do() -> bool:
        tired.clear()
        assert tired.wait(PATIENCE)
        assert not waiting.done()
        return bool(way.take(3))

    way: Handover[int] = Handover(do)
    way._bell = Bell()
    waiting = asyncio.ensure_future(asyncio.to_thread(way.wait, 1.0))
    while not way._asleep:  # noqa: ASYNC110 - nobody says when it is
        await asyncio.sleep(0)
    way.put(1)
    way.hurry()
    assert not await waiting
    way.closed()


async def test_what_is_done_here_wakes_nobody(rests: Rests) -> None:
    """The thread is woken for the rest."""
    here: list[int] = []

    def odd() -> bool:
        if not all(number % 2 for number in way):
            return False
        here.extend(way.take(3))
        return True

    async with echo(odd) as (way, came):
        for number in (1, 3, 2, 5, 7):
            await rests(way)
            way.put(number)
            await asyncio.sleep(0)
        assert await until(came, 1) == [2]
        assert here == [1, 3, 5, 7]


async def test_what_is_done_here_does_not_overtake_what_the_thread_has_told() -> None:
    """Though the thread sleeps already, what it told may not have been heard."""

    def odd() -> bool:
        if not all(number % 2 for number in way):
            return False
        came.append(way.take(3))
        return True

    async with echo(odd) as (way, came):
        while not way._asleep:  # noqa: ASYNC110 - nobody says when it is
            await asyncio.sleep(0)
        way.put(2)
        way.hurry()
        while not (way._told and way._asleep):
            time.sleep(0.001)  # noqa: ASYNC251 - the loop must hear nothing of it
        way.put(1)
        way.hurry()
        assert await until(came, 2) == [2, 1]


async def test_the_thread_does_not_take_what_is_being_done_here() -> None:
    """Not even if it was falling asleep when the work came, and sees it."""
    here: list[list[int]] = []
    ways: list[Handover[int]] = []
    looking, doing, resting = threading.Event(), threading.Event(), threading.Event()

    class Work(deque[Any]):
        """Between the thread's two looks at it, work comes and the loop is about to take it."""

        def __bool__(self) -> bool:
            if threading.current_thread() is not threading.main_thread() and ways[0]._asleep and not looking.is_set():
                looking.set()
                assert doing.wait(PATIENCE)
            return len(self) > 0

    class Bell(SimpleQueue[None]):
        def get(self, block: bool = True, timeout: float | None = None) -> None:
            resting.set()
            return super().get(block, timeout)

    def so(made: Handover[int]) -> None:
        ways.append(made)
        made._work, made._bell = Work(), Bell()

    def do() -> bool:
        doing.set()
        resting.wait(PATIENCE)
        here.append(ways[0].take(3))
        return True

    async with echo(do, so) as (way, came):
        assert await asyncio.to_thread(looking.wait, PATIENCE)
        for number in (1, 2):
            way.put(number)
            way.hurry()
        assert (here, came) == ([[1], [2]], [])
