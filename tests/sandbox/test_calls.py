"""Calls into a sandbox: what is charged to each is held by the tests of the watch; here, what is seen between them."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from cloister.sandbox.calls import Calls
from cloister.sandbox.lockdown.shares import Rank
from cloister.sandbox.policy import Limits
from cloister.sandbox.precedence import Precedence
from cloister.sandbox.watch import Account

LIMITS = Limits()
NOTHING: Any = None


class Machine:
    """A clock, a process's CPU time and timers, moved by hand; and how much of it was had by one that goes first."""

    def __init__(self) -> None:
        self.now = self.cpu = self.first = 0.0
        self.rank = Rank.FIRST
        self.charges: list[Any] = []
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self.watch = Account(lambda: self.cpu, lambda: self.now, self._call_at)
        self.watch._cores = 2
        self.precedence = Precedence(
            lambda: self.cpu, lambda: self.now, self._call_at, busy=lambda: bool(self.charges), rank=self._take_rank
        )
        self.calls = Calls(self.watch, self.precedence, NOTHING, NOTHING, NOTHING)

    def cancel(self) -> None: ...

    def _call_at(self, when: float, what: Callable[[], None]) -> Machine:
        heapq.heappush(self._timers, (when, next(self._count), what))
        return self

    def _take_rank(self, rank: Rank) -> None:
        self.rank = rank

    def begin(self) -> None:
        self.charges.append(self.calls.begin(LIMITS))

    def end(self) -> None:
        self.precedence.answered()
        self.watch.end(self.charges.pop())

    def run(self, seconds: float, *, busy: float) -> None:
        end = self.now + seconds
        while self._timers and self._timers[0][0] <= end:
            when, _, what = heapq.heappop(self._timers)
            self._go_to(when, busy)
            what()
        self._go_to(end, busy)

    def _go_to(self, when: float, busy: float) -> None:
        used, self.now = max(when - self.now, 0.0) * busy, max(when, self.now)
        self.cpu += used
        self.first += used * (self.rank is Rank.FIRST)


@pytest.mark.parametrize("period", [0.012, 0.016, 0.02, 0.04, 0.06])
async def test_who_computes_between_calls_when_nobody_looks_gives_way(period: float) -> None:
    """Each call is answered at once and followed by a rest until it was glanced at. What is left until the next one is
    too short to be noticed by itself, and would be had by one that goes first."""
    machine = Machine()
    for _ in range(int(6 / period)):
        machine.begin()
        machine.run(0.0002, busy=1.0)
        machine.end()
        machine.run(0.0035, busy=0.0)
        machine.run(period - 0.0037, busy=1.0)
    assert machine.first < 0.1 * machine.now


async def test_who_only_answers_and_tidies_up_does_not_compute_unasked() -> None:
    """However many calls there are, and whether or not each was looked at when it ended."""
    for length, rest in ((0.0001, 0.0001), (0.002, 0.0005), (0.002, 0.01), (0.03, 0.01)):
        machine = Machine()
        for _ in range(2000):
            machine.begin()
            machine.run(length, busy=0.9)
            machine.end()
            machine.run(rest / 2, busy=0.3)
            machine.run(rest / 2, busy=0.0)
        machine.run(10, busy=0.0)
        machine.calls.count_unasked()
        assert not machine.precedence._strays
        assert machine.rank is Rank.FIRST
