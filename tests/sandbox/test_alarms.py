"""Times at which somebody wants to look: near ones by themselves, far ones together."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any

import pytest

from cloister.sandbox.alarms import FAR, Alarms


class Clockwork:
    """A loop as far as alarms ask anything of one, whose time is told."""

    def __init__(self) -> None:
        self.now, self.due, self.wrong = (
            1000.25,
            list[tuple[float, Callable[..., None], tuple[Any, ...]]](),
            list[Any](),
        )

    def time(self) -> float:
        return self.now

    def call_at(
        self, when: float, what: Callable[..., None], *args: Any, context: contextvars.Context | None = None
    ) -> Any:
        entry = when, what, args
        self.due.append(entry)
        return type("Handle", (), {"cancel": lambda _: self.due.remove(entry)})()

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.wrong.append(context["exception"])

    def go_on(self, seconds: float) -> None:
        self.now += seconds
        for entry in [entry for entry in self.due if entry[0] <= self.now]:
            self.due.remove(entry)
            entry[1](*entry[2])


@pytest.fixture
def loop() -> Clockwork:
    return Clockwork()


@pytest.fixture
def alarms(loop: Clockwork) -> Alarms:
    return Alarms(loop)  # type: ignore[arg-type] # as far as they ask anything of it


def test_a_near_one_rings_when_it_is_due(alarms: Alarms, loop: Clockwork) -> None:
    """Exactly: somebody waits for what comes of it."""
    rung: list[str] = []
    alarms.call_at(loop.now + FAR - 0.1, lambda: rung.append("near"))
    loop.go_on(FAR - 0.2)
    assert not rung
    loop.go_on(0.1)
    assert rung == ["near"]


def test_far_ones_of_one_second_wake_the_loop_once(alarms: Alarms, loop: Clockwork) -> None:
    """And ring within the second before they are due, never after it."""
    rung: list[float] = []
    for number in range(100):
        alarms.call_at(1020 + number / 100, lambda: rung.append(loop.now))
    assert len(loop.due) == 1
    loop.go_on(1019.99 - loop.now)
    assert not rung
    loop.go_on(0.01)
    assert len(rung) == 100
    assert not loop.due


def test_one_that_is_cancelled_does_not_ring(alarms: Alarms, loop: Clockwork) -> None:
    """Near or far, and the others do; once more is harmless, and so is too late."""
    rung: list[int] = []
    made = [alarms.call_at(1000 + when, lambda when=when: rung.append(when)) for when in (2, 20, 20, 30)]  # type: ignore[misc]
    made[0].cancel()
    for _ in range(2):
        made[1].cancel()
    loop.go_on(100)
    assert rung == [20, 30]
    made[2].cancel()


def test_one_that_raises_keeps_nobody_elses_from_ringing(alarms: Alarms, loop: Clockwork) -> None:
    """And is told of."""
    rung: list[int] = []
    for ring in (lambda: rung.append(1), lambda: rung.append(1 // 0), lambda: rung.append(2)):
        alarms.call_at(1020, ring)
    loop.go_on(20)
    assert sorted(rung) == [1, 2]
    assert [type(error) for error in loop.wrong] == [ZeroDivisionError]


async def test_it_is_part_of_nobodys_request() -> None:
    """Whoever it was for whom the first of them was set."""
    user: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")
    user.set("alice")
    loop, heard = asyncio.get_running_loop(), list[str]()
    alarms = Alarms(loop)
    alarms.call_at(loop.time() + 100, lambda: heard.append(user.get()))
    [timer] = [timer for timer in loop._scheduled if timer._callback == alarms._ring]  # type: ignore[attr-defined]
    timer._run()
    timer.cancel()
    assert heard == ["nobody"]
