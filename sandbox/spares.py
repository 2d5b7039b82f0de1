"""Blank sandboxes that wait to be taken: as many as the demand asks for, made beside and never before what is urgent.

A spare is used once, by one tenant. One that is stale, since a younger zygote has taken over, is still as good as any
until another is there for it.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
from collections.abc import Awaitable, Callable, Container, Iterator
from typing import Final

from .demand import Demand
from .errors import SandboxClosed, SandboxError
from .litter import collect_young
from .sandbox import Sandbox

REFILL_AFTER: Final = 0.004
"""Seconds to leave to whoever took a spare before making the next one, while there are others to take."""
PATIENCE: Final = 0.04
"""Seconds for which one that was taken is waited for to say something, while most of the spares are there."""
TAKEN: Final = 64
"""How many of those that were taken last are waited for."""
AT_ONCE: Final = max(2, (os.cpu_count() or 1) // 2)
"""How many are made at once: the zygote forks one at a time, but each confines itself."""


class Spares:
    """`make` gives a blank sandbox, `fresh` those that are from the zygote that serves now."""

    def __init__(
        self,
        demand: Demand,
        make: Callable[[bool], Awaitable[Sandbox]],
        fresh: Callable[[], Container[Sandbox]],
        now: Callable[[], float],
    ) -> None:
        self._demand, self._make, self._fresh, self._now = demand, make, fresh, now
        self._waiting: collections.deque[Sandbox] = collections.deque()
        self._taken: collections.deque[tuple[Sandbox, float]] = collections.deque(maxlen=TAKEN)
        self._later: asyncio.TimerHandle | None = None
        self._makers: set[asyncio.Task[None]] = set()
        self._being_made = self._urgent = 0
        self._closed = False

    def __len__(self) -> int:
        return sum(spare.alive for spare in self._waiting)

    def __iter__(self) -> Iterator[Sandbox]:
        yield from list(self._waiting)

    def take(self) -> Sandbox | None:
        """The one that was made last, if there is one that lives: what it has touched is still in the caches."""
        self._demand.taken(now := self._now())
        while self._waiting:
            spare = self._waiting.pop()
            if spare.confirmed_alive():
                self._taken.append((spare, now))
                if not self._waiting:
                    self.fill()
                elif self._later is None:
                    self._later = asyncio.get_running_loop().call_later(REFILL_AFTER, self._fill_now)
                return spare
        return None

    def nudge(self) -> None:
        """One will be taken in a moment."""
        if self._waiting:
            self._waiting[-1].nudge()

    @contextlib.contextmanager
    def held_back(self) -> Iterator[None]:
        """While somebody waits for a sandbox, none is made that nobody waits for."""
        self._urgent += 1
        try:
            yield
        finally:
            self._urgent -= 1
            self.fill()

    def fill(self) -> None:
        """See to it that there will be as many as are wanted."""
        while len(self._makers) < min(AT_ONCE, self._missing()):
            maker = asyncio.ensure_future(self._make_some())
            self._makers.add(maker)
            maker.add_done_callback(self._makers.discard)

    def trim(self) -> None:
        """End those that are more than wanted: the stale first, then whichever has waited longest."""
        living = [spare for spare in self._waiting if spare.alive]
        surplus = max(len(living) - self._demand.wanted(self._now()), 0)
        if not surplus and len(living) == len(self._waiting):
            return
        fresh = self._fresh()
        leaving = sorted(living, key=lambda spare: spare in fresh)[:surplus]
        self._waiting = collections.deque(spare for spare in living if spare not in leaving)
        for spare in leaving:
            spare.kill(SandboxClosed("it was a spare, and there were enough of them"))

    async def close(self) -> None:
        """Make no more."""
        self._closed = True
        if self._later is not None:
            self._later.cancel()
        for maker in self._makers:
            maker.cancel()
        if self._makers:
            await asyncio.wait(set(self._makers))

    def _missing(self) -> int:
        """How many are still to be begun."""
        if self._closed or self._urgent:
            return 0
        fresh = self._fresh()
        ready = sum(spare in fresh for spare in self._waiting if spare.alive)
        return self._demand.wanted(self._now()) - ready - self._being_made

    def _fill_now(self) -> None:
        self._later = None
        self.fill()

    def _can_wait(self) -> bool:
        """Whether one that was taken is about to give its first answer, with which a fork would compete for a core and
        for memory, and there are enough others meanwhile."""
        now = self._now()
        while self._taken and not (self._taken[0][0].starting and now - self._taken[0][1] < PATIENCE):
            self._taken.popleft()
        return bool(self._taken) and 2 * len(self._waiting) > self._demand.wanted(now)

    async def _make_some(self) -> None:
        while self._missing() > 0:
            if self._can_wait():
                await asyncio.sleep(REFILL_AFTER)
                continue
            self._being_made += 1
            try:
                spare = await self._make(not self._waiting)
            except (SandboxError, OSError):
                return  # whoever takes next will try, and be told
            finally:
                self._being_made -= 1
            self._waiting.append(spare)
            self.trim()
            collect_young()
