"""The engine's only source of time. Deadlines are wall time in milliseconds; short waits are elapsed seconds.

Nothing else in the folder asks the operating system or the event loop what time it is.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

RECHECK_SECONDS = 1.0
"""How long a deadline is trusted before the wall clock, which may have been set forward, is read again."""


class Timer(Protocol):
    def cancel(self) -> None: ...


class Clock(Protocol):
    """What the engine needs to know about time. Implement it to test with time under control."""

    def now(self) -> int:
        """Wall time in milliseconds since the epoch."""
        ...

    def call_at(self, when: int, callback: Callable[[], object]) -> Timer:
        """Call once the wall time is `when` (milliseconds) or later, however the clock is set meanwhile."""
        ...

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        """Call after this much time has passed, however the wall clock is set."""
        ...

    async def sleep(self, seconds: float) -> None: ...

    def attach(self, idle: Callable[[], Awaitable[bool]]) -> None:
        """An engine hands over what waits for its writes to end.

        Only a clock that decides when time moves needs it.
        """
        ...


class SystemClock:
    """Real time, on the running event loop."""

    def now(self) -> int:
        return time.time_ns() // 1_000_000

    def call_at(self, when: int, callback: Callable[[], object]) -> Timer:
        return _Deadline(self, when, callback)

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        return asyncio.get_running_loop().call_later(seconds, callback)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def attach(self, idle: Callable[[], Awaitable[bool]]) -> None:
        """Time passes by itself."""


class _Deadline:
    """A point in wall time, looked at again at least once a second, since the clock may be set meanwhile."""

    __slots__ = ("_callback", "_clock", "_timer", "_when")

    def __init__(self, clock: SystemClock, when: int, callback: Callable[[], object]) -> None:
        self._clock, self._when, self._callback = clock, when, callback
        self._timer = self._arm(when - clock.now())

    def _arm(self, left_ms: int) -> Timer:
        return self._clock.call_later(min(max(left_ms, 0) / 1000, RECHECK_SECONDS), self._look)

    def _look(self) -> None:
        left = self._when - self._clock.now()
        if left > 0:
            self._timer = self._arm(left)
        else:
            self._callback()

    def cancel(self) -> None:
        self._timer.cancel()


def resolve(future: asyncio.Future[T | None], *_: object) -> None:
    """End a wait, unless something else has ended it."""
    if not future.done():
        future.set_result(None)
