"""A bound on what goes on at once, at which tenants take turns by weight and nobody waits for ever.

Used for boots and for direct calls. Whoever finds room comes in without waiting; that costs no more than a count.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .errors import LoaderError
from .fair import FairQueue
from .tenants import Tenant


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
        tenant.waiting += 1
        timer = loop.call_later(patience, _refuse, turn, refusal)
        try:
            await turn
        except BaseException:
            self._queue.remove(tenant, turn)
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.leave(tenant)  # its turn had come at the moment when it gave up
            raise
        finally:
            tenant.waiting -= 1
            timer.cancel()

    def leave(self, tenant: Tenant) -> None:
        """Go out; whose turn it is comes in."""
        self.go_out(tenant)
        if len(self._queue):
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


def _refuse(turn: asyncio.Future[None], refusal: Callable[[], LoaderError]) -> None:
    if not turn.done():
        turn.set_exception(refusal())


class Calls(Turns):
    """Direct calls, of which a tenant has a ceiling of its own."""

    def may(self, tenant: Tenant) -> bool:
        """As long as it is below its ceiling."""
        return tenant.calls < tenant.most

    def come_in(self, tenant: Tenant) -> None:
        """Counted for the tenant as well."""
        self.inside += 1
        tenant.calls += 1

    def go_out(self, tenant: Tenant) -> None:
        """Likewise."""
        self.inside -= 1
        tenant.calls -= 1
