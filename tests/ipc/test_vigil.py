"""Staying awake for an answer: where answers come sooner by it, and for a moment at most."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from cloister.ipc.vigil import MOMENT, RARELY, Vigil


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


def call(loop: Loop, vigil: Vigil, awake: int, asleep: int) -> bool:
    """One that is answered after so many turns if the loop stays awake, or sleeps; whether it stayed."""
    vigil.sent()
    stayed = vigil.awake
    for _ in range(awake if stayed else asleep):
        loop.turn()
    vigil.heard()
    while loop.turn():
        pass
    return stayed


def test_the_loop_stays_awake_until_the_answer_is_there(loop: Loop) -> None:
    """And not for a turn longer than it takes to see that it is."""
    vigil = Vigil()
    vigil.sent()
    for _ in range(5):
        assert loop.turn()
    vigil.heard()
    loop.turn()
    assert not loop.turn()


def test_nobody_waits_for_long(loop: Loop) -> None:
    """An answer that does not come is left to the selector after a moment."""
    vigil = Vigil()
    vigil.sent()
    turns = 0
    while loop.turn():
        turns += 1
    assert 9 <= turns <= 12


@pytest.mark.parametrize(
    ("awake", "asleep", "better"),
    [(5, 8, True), (8, 5, False), (6, 6, False), (60, 60, False)],
    ids=["a core to spare", "no core to spare", "all the same", "answers that take long"],
)
def test_what_brings_answers_sooner_is_found_out(loop: Loop, awake: int, asleep: int, better: bool) -> None:
    """The other way is tried rarely, and no oftener."""
    vigil = Vigil()
    for _ in range(2000):
        call(loop, vigil, awake, asleep)
    stayed = sum(call(loop, vigil, awake, asleep) for _ in range(RARELY * 20))
    assert stayed == (RARELY - 1) * 20 if better else stayed == 20


def test_a_machine_that_changes_is_noticed(loop: Loop) -> None:
    """A core that was to spare is taken by others, and given back."""
    vigil = Vigil()
    for awake, asleep in [(5, 8), (20, 7), (5, 8)] * 3:
        for _ in range(1000):
            call(loop, vigil, awake, asleep)
        stayed = sum(call(loop, vigil, awake, asleep) for _ in range(RARELY))
        assert stayed == (RARELY - 1 if awake < asleep else 1)


def test_who_is_not_answered_keeps_nobody_else_from_being_waited_for(loop: Loop) -> None:
    """One call that takes for ever, and others that are answered soon."""
    vigil = Vigil()
    vigil.sent()
    for _ in range(50):
        loop.turn()
    assert any(call(loop, vigil, 5, 8) for _ in range(RARELY))


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
        async with asyncio.timeout(100):
            while vigil.awake:  # noqa: ASYNC110 - it ends with turns of the loop
                await asyncio.sleep(0)

    asyncio.run(wait())
