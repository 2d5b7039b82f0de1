"""The order in which a run learns how its steps ended: one outcome after the other, the same in every replay.

A program that waits for several things at once goes on with whichever comes first. So that it comes to the same end
again, each outcome is handed over only when the program has done all it can do with the one before; those that are
recorded come in the order of their records, and whatever is new comes after them.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
from collections import deque
from typing import Any, Final

from . import scope

Key = tuple[str, str, int]
_ENDED: Final = frozenset({"done", "failed"})
_MOST_TURNS: Final = 1000
"""Turns of the loop that a program may take to come to rest. One that never does is not waited for any longer."""
STUCK_AFTER: Final = 1.0  # seconds
NOBODY: Final = contextvars.Context()


class NonDeterminismError(Exception):
    """The run did not visit steps that it had visited before: the program changed, or depends on something else."""

    __module__ = "workers"


class Outcomes:
    """Those of one run. A step comes to `recorded` if its outcome is in the history, and to `arrived` if it is new."""

    def __init__(self, history: list[Any], run: scope.Run) -> None:
        self._run = run
        self._loop = asyncio.get_running_loop()
        self._order = deque((kind, name, count) for kind, name, count, state, *_ in history if state in _ENDED)
        self._within: dict[tuple[str, int], list[tuple[int, Key]]] = {}
        for kind, name, count, *_, mark in history:
            if mark is not None:
                attempt, outer_count, outer = mark.split(" ", 2)
                inner = int(attempt), (kind, name, count)
                self._within.setdefault((outer, int(outer_count)), []).append(inner)
        self.skipped: set[Key] = set()
        """Steps that were in such bodies as are not run again."""
        self._gates: dict[Key, asyncio.Future[None]] = {}
        self._new: deque[asyncio.Future[None]] = deque()
        self._turning = False
        self._turns = 0
        self._watch: asyncio.TimerHandle | None = None
        self.unvisited = set(self._order)

    async def recorded(self, key: Key) -> None:
        """Wait until it is this outcome's turn."""
        self.unvisited.discard(key)
        gate = self._gates[key] = self._loop.create_future()
        self._stir()
        try:
            await gate
        finally:
            del self._gates[key]
            self._order.remove(key)  # also when whoever waited has given up: the others must not wait for it
            self._stir()

    @property
    def next(self) -> bool:
        """Whether an outcome that has just come may be handed over at once, as mostly."""
        return not self._order and not self._new and not self._turning and self._run.rests(self._loop)

    async def arrived(self) -> None:
        """The same for an outcome that has just come."""
        if self.next:
            return
        gate: asyncio.Future[None] = self._loop.create_future()
        self._new.append(gate)
        self._stir()
        try:
            await gate
        except BaseException:
            if gate in self._new:
                self._new.remove(gate)
            raise
        finally:
            self._stir()

    def skip(self, name: str, count: int, *, before: float = math.inf) -> None:
        """The body of a step is not run again, or not its attempts before one: nobody will ask for what was recorded
        in them."""
        if not self._within or (inside := self._within.pop((name, count), None)) is None:
            return
        self._within[name, count] = [inner for inner in inside if inner[0] >= before]
        for attempt, key in inside:
            if attempt < before:
                self.skipped.add(key)
                if key in self.unvisited:
                    self.unvisited.discard(key)
                    self._order.remove(key)
                if key[0] == "do":
                    self.skip(key[1], key[2])
        self._stir()

    def _stir(self) -> None:
        if (self._gates or self._new) and not self._turning:
            self._turning = True
            self._run.busy += 1  # what is about to be told is nothing that the run waits for
            self._turns = 0
            self._loop.call_soon(self._turn, context=NOBODY)

    def _turn(self) -> None:
        self._turns += 1
        if self._turns < _MOST_TURNS and not self._run.rests(self._loop):
            self._loop.call_soon(self._turn, context=NOBODY)
            return
        self._turning = False
        self._run.busy -= 1
        gate = self._gates.get(self._order[0]) if self._order else self._new.popleft() if self._new else None
        if gate is not None:
            if not gate.done():
                gate.set_result(None)
        elif (self._gates or self._new) and self._watch is None:
            self._watch = self._loop.call_later(STUCK_AFTER, self._look, self._order[0], context=NOBODY)

    def _look(self, expected: Key) -> None:
        """Outcomes are waited for behind one that nobody seems to ask for."""
        from . import drift

        drift.look(self, expected)
