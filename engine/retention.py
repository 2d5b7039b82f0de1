"""When what has ended goes: one timer for the earliest, and small transactions with room for others in between."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from .errors import EngineClosed, StorageError
from .store.wipe import sweep

if TYPE_CHECKING:
    from .clock import Clock, Timer
    from .writer import Writer

GATHER_MS = 1_000
"""Those that expire within so long of each other go together."""
STORAGE_NAP_MS = 1_000


class Sweeper:
    """Deletes what has expired, and the rows of what was deleted. One for an engine."""

    def __init__(self, writer: Writer, clock: Clock) -> None:
        self._writer, self._clock = writer, clock
        self._timer: Timer | None = None
        self._at = 0
        self._task: asyncio.Task[None] | None = None
        self._closed = self._again = False
        self.expired = 0

    def expect(self, at: int) -> None:
        """Something may go at this moment; or now, for a moment that is past."""
        if self._closed or (self._timer is not None and self._at <= at):
            return
        if at <= self._clock.now():
            self._ring()
            return
        if self._timer is not None:
            self._timer.cancel()
        self._at = at
        self._timer = self._clock.call_at(at, self._ring)

    async def close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            await self._task

    def _ring(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._again = True
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._sweep())

    async def _sweep(self) -> None:
        more = False
        while (more or self._again) and not self._closed:
            self._again = False
            try:
                swept = await self._writer.submit(sweep, self._clock.now())
            except EngineClosed:
                return
            except StorageError:
                self.expect(self._clock.now() + STORAGE_NAP_MS)
                return
            self.expired += swept.expired
            more = swept.more
            if not more and swept.next_at is not None:
                self.expect(max(swept.next_at, self._clock.now() + GATHER_MS))
            await asyncio.sleep(0)
