"""A look at the house from time to time: how much memory sandboxes take, who takes too much, and who is not needed.

Each look measures some, the ones measured longest ago; and while no sandbox has computed, none takes more than it did,
so that thousands of idle ones cost next to nothing: each is measured once in a while all the same, since memory can be
taken in less time than is noticed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from cloister.sandbox.lockdown.cgroups import cpu_counter
from cloister.sandbox.stir import Stir

from .config import LoaderConfig
from .house import House
from .tenants import Tenant, Tenants
from .worker import Worker

_MEASURED: Final = 64
"""Sandboxes that are measured in one look at least, or a sixteenth of all."""
_WHILE_ALL_REST: Final = 12
"""So many looks go by until all are measured again, while none of them can have computed."""


class Upkeep:
    """Started and stopped by the loader."""

    def __init__(self, config: LoaderConfig, house: House, tenants: Tenants) -> None:
        self._config, self._house, self._tenants = config, house, tenants
        self._stir = Stir(cpu_counter())
        self._timer: asyncio.TimerHandle | None = None
        self._to_measure: deque[Worker] = deque()
        self._looks = 0
        self._stale = True  # something may take more than when it was measured

    def start(self) -> None:
        """Look again and again."""
        self._timer = asyncio.get_running_loop().call_later(self._config.look_every_s, self._look_and_start)

    def stop(self) -> None:
        """No more."""
        if self._timer is not None:
            self._timer.cancel()

    def look(self, now: float, *, measure: bool = True) -> None:
        """One look, at memory too unless it can be as it was."""
        if measure:
            self._measure()
        self._end_idle(now)
        for tenant in tuple(self._tenants.bounded) if measure else ():
            self._hold_to_memory(tenant)
        self._tenants.forget_silent()
        while self._house.room.over() and (leaver := self._house.room.first_to_leave()) is not None:
            self._house.remove([leaver], "evicted: all sandboxes together take more memory than memory_bytes")

    def _look_and_start(self) -> None:
        self._looks += 1
        self._stale |= self._stir.any() or self._looks % _WHILE_ALL_REST == 0
        self.look(asyncio.get_running_loop().time(), measure=self._stale or bool(self._to_measure))
        self.start()

    def _measure(self) -> None:
        if not self._to_measure:
            self._stale = False
            self._to_measure.extend(self._house)
        for _ in range(min(max(_MEASURED, len(self._house.room) // 16), len(self._to_measure))):
            worker = self._to_measure.popleft()
            if worker.open:
                self._house.room.measure(worker)

    def _end_idle(self, now: float) -> None:
        """Of a tenant that has several, those that had nothing to do for a while; one stays."""
        for pool in tuple(self._house.wide):
            if len(pool.workers) <= 1:
                self._house.wide.discard(pool)
            surplus = [
                worker
                for worker in pool.workers[1:]
                if not worker.users and not worker.held_until and now - worker.idle_since >= self._config.idle_s
            ]
            if surplus:
                self._house.remove(surplus, "idle")

    def _hold_to_memory(self, tenant: Tenant) -> None:
        """End what goes beyond the tenant's own ceiling: what is idle first, and then the largest."""
        ceiling = tenant.quota.memory_bytes
        if ceiling is None:
            return
        held = {worker for pool in tenant.pools for worker in pool.all if worker.open}
        beyond = sum(worker.measured_bytes for worker in held) - ceiling
        for worker in sorted(held, key=lambda worker: (worker.users > 0, -worker.measured_bytes)):
            if beyond <= 0:
                return
            beyond -= worker.measured_bytes
            worker.exceed(f"its tenant took more than the {ceiling >> 20:,} MiB of memory of its quota")
