"""A bound on what goes on at once, at which tenants take turns by weight and nobody waits for ever.

Used for boots and for direct calls. Whoever finds room comes in without waiting; that costs no more than a count.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from .errors import LoaderError
from .fair import FairQueue
from .tenants import Tenant

_LOOK: Final = 0.01
"""Seconds between two looks at a tenant whose calls wait."""
_LATE: Final = 0.002
"""Seconds by which the loop is late when it has no time to spare."""


class Turns:
    """At most `most` inside."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.inside = 0
        self._queue: FairQueue[Tenant, asyncio.Future[None]] = FairQueue()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._queue)

    def full_for(self, tenant: Tenant) -> bool:
        """Whether one more of this tenant's would have to wait."""
        return self.inside >= self.most or not self.may(tenant)

    def queued(self, tenant: Tenant) -> int:
        """How many of one tenant's wait."""
        return self._queue.length(tenant)

    async def enter(self, tenant: Tenant, patience: float, refusal: Callable[[], LoaderError]) -> None:
        """Come in, at once or in turn. After `patience` seconds the refusal is raised."""
        if not self.full_for(tenant):
            self.come_in(tenant)
            return
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._queue.push(tenant, turn, tenant.weight)
        self.hold_up(tenant)
        tenant.waiting += 1
        timer = loop.call_later(patience, _refuse, turn, refusal)
        try:
            await turn
        except BaseException:
            self._queue.remove(tenant, turn)
            if came(turn):
                self.leave(tenant)
            raise
        finally:
            tenant.waiting -= 1
            timer.cancel()

    def leave(self, tenant: Tenant) -> None:
        """Go out; whose turn it is comes in."""
        self.go_out(tenant)
        if len(self._queue):
            self.answered(tenant)
            self._queue.wake(tenant)
            self._let_in()

    def refuse(self, error: Exception) -> None:
        """Nobody comes in any more, and all who wait are told why."""
        self.most = 0
        for turn in self._queue:
            if not turn.done():
                turn.set_exception(error)

    def may(self, tenant: Tenant) -> bool:
        """Whether one more of this tenant's may be inside, if there is room."""
        return True

    def hold_up(self, tenant: Tenant) -> None:
        """One of this tenant's has to wait."""

    def answered(self, tenant: Tenant) -> None:
        """One of this tenant's has gone out while others wait."""

    def come_in(self, tenant: Tenant) -> None:
        """One more."""
        self.inside += 1

    def go_out(self, tenant: Tenant) -> None:
        """One less."""
        self.inside -= 1

    def _let_in(self) -> None:
        while self.inside < self.most and (found := self._queue.pop(self.may)) is not None:
            tenant, turn = found
            if not turn.done():  # else it has given up
                self.come_in(tenant)
                turn.set_result(None)


def came(turn: asyncio.Future[None]) -> bool:
    """Whether a turn had come at the moment when whoever waited for it gave up, so that somebody else is to have it."""
    return turn.done() and not turn.cancelled() and turn.exception() is None


def _refuse(turn: asyncio.Future[None], refusal: Callable[[], LoaderError]) -> None:
    if not turn.done():
        turn.set_exception(refusal())


class Calls(Turns):
    """Direct calls. A tenant whose calls come faster than they are answered has few in flight, and the rest wait.

    How few depends on whether the host has time to spare: every few milliseconds the number doubles, up to the tenant's
    ceiling, if the loop is on time or none of them was answered, and halves if it is late. So calls that only wait for
    something are soon all in flight, and a flood of quick ones leaves the loop to the others.
    """

    def may(self, tenant: Tenant) -> bool:
        """As long as it is below what it may have in flight now."""
        return tenant.calls < tenant.most

    def come_in(self, tenant: Tenant) -> None:
        """Counted for the tenant as well."""
        self.inside += 1
        tenant.calls += 1

    def go_out(self, tenant: Tenant) -> None:
        """Likewise."""
        self.inside -= 1
        tenant.calls -= 1

    def answered(self, tenant: Tenant) -> None:
        """Some of the tenant's calls that were in flight are so no more."""
        tenant.answered = True

    def hold_up(self, tenant: Tenant) -> None:
        """See to it that it may have more in flight, if that does no harm."""
        if not tenant.watched:
            tenant.watched = True
            self._look_later(tenant)

    def _look_later(self, tenant: Tenant) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + _LOOK
        loop.call_at(due, self._look, tenant, due)

    def _look(self, tenant: Tenant, due: float) -> None:
        late = asyncio.get_running_loop().time() - due
        if not self.queued(tenant):
            tenant.narrow(2 * tenant.calls)
        elif late < _LATE or not tenant.answered:
            tenant.narrow(2 * tenant.most)
        else:
            tenant.narrow(tenant.most // 2)
        tenant.answered = False
        self._queue.wake(tenant)
        self._let_in()
        tenant.watched = self.queued(tenant) > 0 or tenant.most > tenant.least
        if tenant.watched:
            self._look_later(tenant)
