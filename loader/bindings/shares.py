"""A bound on what tenants do at once, all together and each: who waits comes in by turns, and nobody takes it all."""

from __future__ import annotations

import asyncio
from collections import Counter

from ..fair import FairQueue


class Shares:
    """At most `most` inside, and at most `each` of one tenant. What is nobody's, of the tenant `""`, has no bound."""

    def __init__(self, most: int, each: int) -> None:
        self.most, self.each = most, each
        self._inside: Counter[str] = Counter()
        self._queue: FairQueue[str, asyncio.Future[None]] = FairQueue()

    async def enter(self, tenant: str) -> None:
        """Come in, when it is one's turn."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.push(tenant, turn)
        self._let_in()
        try:
            await turn
        except BaseException:
            self._queue.remove(tenant, turn)
            if turn.done() and not turn.cancelled():
                self.leave(tenant)  # its turn had come at the moment when it gave up
            raise

    def leave(self, tenant: str) -> None:
        """Go out."""
        self._inside[tenant] -= 1
        if not self._inside[tenant]:
            del self._inside[tenant]
        self._queue.wake(tenant)
        self._let_in()

    def _let_in(self) -> None:
        while self._inside.total() < self.most and (found := self._queue.pop(self._may)) is not None:
            tenant, turn = found
            if not turn.done():  # else it has given up
                self._inside[tenant] += 1
                turn.set_result(None)

    def _may(self, tenant: str) -> bool:
        return not tenant or self._inside[tenant] < self.each
