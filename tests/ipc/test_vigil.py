"""Staying awake for an answer: as long as answers come soon, and never for one that is late."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from cloister.ipc.vigil import MOMENT, Vigil


class Loop:
    """A loop whose turns the test makes, and whose clock goes on by a tenth of a moment with each."""

    def __init__(self) -> None:
        self.now, self.turns = 1.0, 0
        self._soon: deque[Callable[[], Any]] = deque()

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[[], Any]) -> None:
        self._soon.append(callback)

    def turn(self) -> bool:
        """Whether there was something to do, so that the loop did not sleep."""
        self.now += MOMENT / 10
        awake = bool(self._soon)
        self.turns += awake
        for _ in range(len(self._soon)):
            self._soon.popleft()()
        return awake


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    loop = Loop()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: loop)
    return loop


def call(loop: Loop, vigil: Vigil, turns: int) -> int:
    """One that is answered after so many turns; for how many the loop stayed awake."""
    before = loop.turns
    vigil.sent()
    for _ in range(turns):
        loop.turn()
    vigil.heard()
    spent = loop.turns - before
    while loop.turn():
        pass
    return spent


def test_the_loop_stays_awake_until_the_answer_is_there(loop: Loop) -> None:
    """And not for a turn longer than it takes to see that it is."""
    vigil = Vigil()
    for _ in range(100):
        assert call(loop, vigil, 5) == 5
        assert not loop.turn()


def test_nobody_waits_for_long(loop: Loop) -> None:
    """An answer that does not come is left to the selector after a moment."""
    vigil = Vigil()
    vigil.sent()
    turns = 0
    while loop.turn():
        turns += 1
    assert 9 <= turns <= 12


def test_answers_that_come_late_are_slept_for(loop: Loop) -> None:
    """After a few, no turn is spent on them; when they come soon again, it is after as many that one is."""
    vigil = Vigil()
    spent = [call(loop, vigil, 30) for _ in range(200)]
    assert sum(spent) < 150
    assert not any(spent[20:])
    spent = [call(loop, vigil, 5) for _ in range(200)]
    assert not any(spent[:50])
    assert all(spent[100:])


def test_who_is_not_answered_keeps_nobody_else_from_being_waited_for(loop: Loop) -> None:
    """One call that takes for ever, and others that are answered soon."""
    vigil = Vigil()
    vigil.sent()
    for _ in range(50):
        loop.turn()
    assert call(loop, vigil, 5) == 5


def test_many_that_are_asked_at_once_cost_one_watch(loop: Loop) -> None:
    """However many are under way, the loop looks once a turn, and the first answer ends it."""
    vigil = Vigil()
    for _ in range(50):
        vigil.sent()
    assert loop.turn()
    assert len(loop._soon) == 1
    vigil.heard()
    loop.turn()
    assert not loop.turn()


def test_it_ends_by_itself_on_a_real_loop() -> None:
    """Whoever is never answered costs nothing more."""

    async def wait() -> None:
        vigil = Vigil()
        vigil.sent()
        async with asyncio.timeout(30):
            while vigil.awake:  # noqa: ASYNC110 - it ends with turns of the loop
                await asyncio.sleep(0)

    asyncio.run(wait())
