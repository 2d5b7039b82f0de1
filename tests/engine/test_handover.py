"""The way between a loop and its thread: nothing is lost on it, nothing overtakes, and what is unhurried waits."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from cloister.engine import handover
from cloister.engine.handover import Handover

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import pytest


@asynccontextmanager
async def echo(here: Callable[[], bool] = lambda: False) -> AsyncIterator[tuple[Handover[int], list[list[int]]]]:
    """A thread that gives back what it takes; the list is what came back, one list for each time that it took some."""
    way: Handover[int] = Handover(lambda: here())
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


async def test_what_is_put_at_once_is_taken_together_up_to_a_bound() -> None:
    """The thread is woken when the loop has put all it had to put."""
    async with echo() as (way, came):
        for number in range(5):
            way.put(number)
        await until(came, 5)
        assert came == [[0, 1, 2], [3, 4]]


async def test_the_unhurried_goes_with_what_comes_next_and_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs the thread no awakening of its own."""
    monkeypatch.setattr(handover, "UNHURRIED_SECONDS", 3600)
    async with echo() as (way, came):
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


async def test_what_is_done_here_wakes_nobody() -> None:
    """The thread is woken for the rest."""
    here: list[int] = []

    def odd() -> bool:
        if not all(number % 2 for number in way):
            return False
        here.extend(way.take(3))
        return True

    async with echo(odd) as (way, came):
        for number in (1, 3, 2, 5, 7):
            while not way._asleep:  # noqa: ASYNC110 - nobody says when it is
                await asyncio.sleep(0)
            way.put(number)
            await asyncio.sleep(0)
        assert await until(came, 1) == [2]
        assert here == [1, 3, 5, 7]
