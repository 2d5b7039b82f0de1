"""When a live run can only wait, so that it is put aside, and how it comes to rest for a pause.

What it waits for is kept in memory, beside its deadline on record: outcomes return to the run in the order in which
they were recorded, and while it is being drained none does.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .clock import resolve
from .recorder import Known, Recorder
from .records import Key, StepKind
from .store import instances

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 5.0
"""Seconds that the outcomes behind an event wait for a run that is on its way to ask for it."""
KEPT_PER_RECORD = 0.005
"""Seconds for each record of a run for which it is kept, if it goes on by then. To replay a record takes about a
hundredth of that: however many deadlines a run has, its replays take a hundredth of the time between them.
"""
KEPT_AT_MOST = 2.0
"""Seconds; for longer than that nobody is to hold a sandbox who does nothing in it."""
DRAIN_LOOKS, DRAIN_LOOK_SECONDS = 100, 0.01
"""How often a program that is to pause is asked whether it rests, and how long after the time before."""


class Parking(Recorder):
    """What knows whether anything is in progress: `_stir` is called whenever something has begun or ended."""

    __slots__ = ()

    def deliver(self, name: str, count: int, event: bytes, kind: StepKind = "wait") -> None:
        """An event was recorded as this wait's outcome, or how an awaited instance ended."""
        key: Key = (kind, name, count)
        self._turns.join(key)
        if key in self._waits:
            future = self._waits[key][1]
            if not future.done():
                future.set_result(event)
                return
        self._arrived[key] = event
        if key not in self._occupied:  # the run has yet to come to it; if it does not, others must not wait for ever
            self._clock.call_later(PATIENCE, lambda: None if key in self._occupied else self._turns.leave(key))

    @property
    def _next(self) -> bool:
        """Whether nothing is before an outcome that returns to the run now, as mostly: see `_turn`."""
        return not self._turns.waiting and self._gate is None and self._mocks is None

    async def _turn(self, key: Key) -> None:
        """Return to the run after every outcome that was recorded before this one."""
        if self._next:
            return
        try:
            await self._come(key)
        finally:
            self._left(key)
        if self._mocks is not None and self._mocks.evict:
            self._host.on_drained()
            self._check_open()

    async def _come(self, key: Key) -> None:
        await self._turns.come(key, self._check_open)
        await self._held()

    def _left(self, key: Key) -> None:
        self._turns.leave(key)
        self._activity += 1  # what returns now may have come after the program was asked whether it rests

    async def _until(self, key: Key, known: Known) -> bytes | None:
        """Wait in memory for the deadline of a recorded step, or for the event that ends it sooner."""
        if (event := self._arrived.pop(key, None)) is not None:
            return event
        due = known.due or 0
        if due <= self._clock.now():
            return None
        future: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        timer = self._clock.call_at(due, lambda: resolve(future))
        self._waits[key] = (due, future)
        self._stir()
        try:
            return await future
        finally:
            timer.cancel()
            del self._waits[key]
            self._go_on()
            self._stir()

    def _stir(self) -> None:
        """Something happened: see whether the drain is over, or whether the run can only wait from now on."""
        self._activity += 1
        if self.over is not None or self._running:
            return
        if self._gate is not None:
            if self._draining is None and not self._writes:
                self._draining = asyncio.ensure_future(self._drained())
        elif self._waits and self._linger_timer is None:
            seen = self._activity
            self._linger_timer = self._clock.call_later(self._linger, lambda: self._lingered(seen))

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Whoever asks waits for something that is none of the run's deadlines: it is not put aside meanwhile."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
            self._activity += 1

    def _lingered(self, seen: int) -> None:
        self._linger_timer = None
        if self.over is not None or self._running or not self._waits:
            return
        if self._writes or self._holds or self._activity != seen:
            self._stir()
        else:
            self._asking = asyncio.ensure_future(self._park(seen))

    async def _park(self, seen: int) -> None:
        """Ask whoever runs the program whether it really only waits, and have it put aside if nothing came between and
        it does not go on soon.
        """
        kept = self._linger + min(len(self._known) * KEPT_PER_RECORD, KEPT_AT_MOST)
        nearest = min((due for due, _ in self._waits.values()), default=0)  # the last may just have ended
        soon = nearest - self._clock.now() <= kept * 1000
        idle = await self.only_waits()
        if self.over is not None or self._running or not self._waits:
            return
        if not idle or self._writes or self._holds or self._activity != seen:
            self._stir()
        elif soon:
            self._rests = True
            self._writer.submit_unhurried(self._not_stored, instances.rest, self._number, nearest)
        else:
            self._host.on_parkable(tuple(self._waits))

    async def _drained(self) -> None:
        """Say that nothing is in progress, when whoever runs the program says so as well: bodies that have only just
        begun were not announced, and outcomes may be on their way. A program that never rests is not waited for long.
        """
        try:
            for _ in range(DRAIN_LOOKS):
                seen, idle = self._activity, await self.only_waits()
                for _ in range(3):
                    await asyncio.sleep(0)  # what has come before that answer is looked at first
                if self.over is not None or self._gate is None or self._running or self._writes:
                    return  # what goes on stirs again when it ends
                if idle and self._activity == seen:
                    break
                await asyncio.sleep(DRAIN_LOOK_SECONDS)
                if self._running or self._writes:
                    return
            if self.over is None and self._gate is not None:
                self._host.on_drained()
        finally:
            self._draining = None

    async def _held(self) -> None:
        """While the run is being drained nothing returns to it, so that it begins nothing new."""
        if self._gate is not None:
            self._stir()
            await self._gate.wait()
            self._check_open()

    def drain(self) -> None:
        if self._gate is None and self.over is None:
            self._gate = asyncio.Event()
            asyncio.get_running_loop().call_soon(self._stir)

    def undrain(self) -> None:
        if self._gate is not None:
            gate, self._gate = self._gate, None
            gate.set()
            self._stir()
