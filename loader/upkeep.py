"""A look at the house from time to time: how much memory sandboxes take, who takes too much, and who is not needed.

Each look measures some, the ones measured longest ago, so that thousands of idle sandboxes cost next to nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from .config import LoaderConfig
from .house import House
from .tenants import Tenant, Tenants
from .worker import Worker

_MEASURED: Final = 64
"""Sandboxes that are measured in one look at least, or a sixteenth of all."""


class Upkeep:
    """Started and stopped by the loader."""

    def __init__(self, config: LoaderConfig, house: House, tenants: Tenants) -> None:
        self._config, self._house, self._tenants = config, house, tenants
        self._timer: asyncio.TimerHandle | None = None
        self._to_measure: deque[Worker] = deque()

    def start(self) -> None:
        """Look again and again."""
        self._timer = asyncio.get_running_loop().call_later(self._config.look_every_s, self._look_and_start)

    def stop(self) -> None:
        """No more."""
        if self._timer is not None:
            self._timer.cancel()

    def look(self, now: float) -> None:
        """One look."""
        self._measure()
        self._end_idle(now)
        for tenant in self._tenants:
            self._hold_to_memory(tenant)
            self._tenants.forget(tenant)
        while self._house.room.over() and (leaver := self._house.room.first_to_leave()) is not None:
            self._house.remove([leaver], "evicted: all sandboxes together take more memory than memory_bytes")

    def _look_and_start(self) -> None:
        self.look(asyncio.get_running_loop().time())
        self.start()

    def _measure(self) -> None:
        if not self._to_measure:
            self._to_measure.extend(self._house)
        for _ in range(min(max(_MEASURED, len(self._house.room) // 16), len(self._to_measure))):
            worker = self._to_measure.popleft()
            if worker.open:
                self._house.room.measure(worker)

    def _end_idle(self, now: float) -> None:
        """Of a tenant that has several, those that had nothing to do for a while; one stays."""
        for pool in list(self._house.pools.values()):
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
