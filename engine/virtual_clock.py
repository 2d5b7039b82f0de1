"""Time under control, for tests of workflows: hours pass in milliseconds, and never by themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Any

from .clock import Timer, resolve

Idle = Callable[[], Awaitable[bool]]
TURNS = 200
"""Turns of a loop that does not show what it has to do, in which nobody has written anything, until nothing goes on."""


class VirtualClock:
    """A clock that stands still until `advance`.

    Give the same one to everything that has to agree on the time.
    """

    def __init__(self, now: int = 1_800_000_000_000) -> None:
        self._wall_offset = now
        self._elapsed = 0.0
        self._timers: list[_Timer] = []
        self._attached: list[Idle] = []

    def now(self) -> int:
        return self._wall_offset + int(self._elapsed * 1000 + 1e-6)

    def call_at(self, when: int, callback: Callable[[], object]) -> Timer:
        return self._add(_Timer(self, callback, when=when))

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        return self._add(_Timer(self, callback, at=self._elapsed + seconds))

    async def sleep(self, seconds: float) -> None:
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        timer = self.call_later(seconds, lambda: resolve(over))
        try:
            await over
        finally:
            timer.cancel()

    def attach(self, idle: Idle) -> None:
        self._attached.append(idle)

    def set_wall(self, seconds: float) -> None:
        """Set the wall clock forward, or back if negative, as an operator would: no time passes."""
        self._wall_offset += round(seconds * 1000)

    async def advance(self, seconds: float) -> None:
        """Let this much time pass: fire what becomes due, in order, and after each let everything it causes
        happen.
        """
        end = self._elapsed + seconds
        await self.run_until_idle()
        while (timer := min(self._timers, key=_Timer.moment, default=None)) and timer.moment() <= end:
            self._elapsed = max(self._elapsed, timer.moment())
            self._timers.remove(timer)
            timer.callback()
            await self.run_until_idle()
        self._elapsed = end

    async def run_until_idle(self) -> None:
        """Return when nothing on this loop can go on and every engine on this clock has written what it was
        given.
        """
        ready = _ready_on(asyncio.get_running_loop())
        quiet, most = 0, TURNS if ready is None else 1
        while quiet < most:
            await asyncio.sleep(0)
            busy = bool(ready)
            for idle in self._attached:
                busy = await idle() or busy
            quiet = 0 if busy else quiet + 1

    def _add(self, timer: _Timer) -> _Timer:
        self._timers.append(timer)
        return timer

    def _remove(self, timer: _Timer) -> None:
        if timer in self._timers:
            self._timers.remove(timer)

    def _moment_of(self, when: int) -> float:
        return (when - self._wall_offset) / 1000


def _ready_on(loop: Any) -> Collection[object] | None:
    """What the loop will do in its next turn, where it can be seen: not in uvloop's."""
    return getattr(loop, "_ready", None)


class _Timer:
    def __init__(
        self, clock: VirtualClock, callback: Callable[[], object], *, when: int | None = None, at: float = 0.0
    ) -> None:
        self.callback = callback
        self._clock, self._when, self._at = clock, when, at

    def moment(self) -> float:
        """When it fires, in seconds that have passed on its clock; a wall time moves when the wall clock is
        set.
        """
        return self._at if self._when is None else self._clock._moment_of(self._when)

    def cancel(self) -> None:
        self._clock._remove(self)
