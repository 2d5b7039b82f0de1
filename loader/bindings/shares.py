"""A bound on what tenants do at once, all together and each: who waits comes in by turns, and nobody takes it all."""

from __future__ import annotations

import asyncio
from collections import Counter

from ..fair import FairQueue
from ..turns import came


class Shares:
    """At most `most` inside, and at most `each` of one tenant. What is nobody's, of the tenant `""`, has no bound."""

    def __init__(self, most: int, each: int) -> None:
        self.most, self.each = most, each
        self.inside: Counter[str] = Counter()
        self._queue: FairQueue[str, asyncio.Future[None]] = FairQueue()
        self._passed: set[str] = set()
        """Who was passed over, and may come in when somebody leaves."""
        self._left = asyncio.Event()
        self._refusal: Exception | None = None

    async def enter(self, tenant: str) -> None:
        """Come in, when it is one's turn."""
        if self._refusal is not None:
            raise self._refusal
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.push(tenant, turn)
        self._let_in()
        try:
            await turn
        except BaseException:
            self._queue.remove(tenant, turn)
            if came(turn):
                self.leave(tenant)
            raise

    def leave(self, tenant: str) -> None:
        """Go out."""
        self.inside[tenant] -= 1
        if not self.inside[tenant]:
            del self.inside[tenant]
        self._left.set()
        for one in self._passed:
            self._queue.wake(one)
        self._passed.clear()
        self._let_in()

    async def close(self, refusal: Exception) -> None:
        """Nobody comes in any more; who is inside is waited for."""
        self._refusal = refusal
        for turn in self._queue:
            if not turn.done():
                turn.set_exception(refusal)
        while self.inside:
            self._left.clear()
            await self._left.wait()

    def may(self, tenant: str) -> bool:
        """Whether one more of a tenant's may come in, if there is room."""
        return not tenant or self.inside[tenant] < self.each

    def _let_in(self) -> None:
        while self._refusal is None and self.inside.total() < self.most and (found := self._queue.pop(self._admits)):
            tenant, turn = found
            if not turn.done():  # else it has given up
                self.inside[tenant] += 1
                turn.set_result(None)

    def _admits(self, tenant: str) -> bool:
        if self.may(tenant):
            return True
        self._passed.add(tenant)
        return False
