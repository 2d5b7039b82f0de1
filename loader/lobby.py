"""Where calls wait while every sandbox is in use: tenants take turns by weight, and each looks for room itself.

Whoever has had a turn in vain is the next to have another. Calls for the same worker that somebody has found room for
come in together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .fair import FairQueue
from .pool import Key
from .tenants import Tenant
from .turns import came


class Lobby:
    """`refusal` makes the error of whoever has waited too long, from how many seconds that was."""

    def __init__(self, refusal: Callable[[float], Exception]) -> None:
        self._refusal = refusal
        self._queue: FairQueue[Tenant, asyncio.Future[None]] = FairQueue()
        self._keys: dict[asyncio.Future[None], Key] = {}

    def __len__(self) -> int:
        return len(self._queue)

    async def wait(self, tenant: Tenant, key: Key, deadline: float, *, again: bool, patience: float) -> None:
        """Until it is this call's turn to look for room. `NoCapacity` at the deadline."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._keys[turn] = key
        self._queue.push(tenant, turn, tenant.weight, first=again)
        tenant.waiting += 1
        try:
            async with asyncio.timeout_at(deadline):
                await turn
        except BaseException as error:
            self._queue.remove(tenant, turn)
            if came(turn):
                self.let_in()
            if isinstance(error, TimeoutError):
                raise self._refusal(patience) from None
            raise
        finally:
            tenant.waiting -= 1
            del self._keys[turn]

    def let_in(self) -> None:
        """Whose turn it is may look for room; each who gets in lets the next one look."""
        while (found := self._queue.pop()) is not None:
            if not found[1].done():
                found[1].set_result(None)
                return

    def let_in_for(self, tenant: Tenant, key: Key) -> None:
        """So may all who wait for this key: it is there by now."""
        for turn in self._queue.of(tenant) if self._keys else ():
            if self._keys[turn] == key:
                self._queue.remove(tenant, turn)
                if not turn.done():
                    turn.set_result(None)
        self.let_in()

    def refuse(self, error: Exception) -> None:
        """All who wait are told why they need not."""
        for turn in self._queue:
            if not turn.done():
                turn.set_exception(error)
