"""The desk where calls and runs ask for a worker, each within what its tenant may take, and give it back.

One call to a tenant that is warm costs no more than to be counted. Everything else goes the long way.
"""

from __future__ import annotations

import asyncio

from .code import GetCode
from .config import LoaderConfig
from .errors import NoCapacity, TenantThrottled
from .house import House
from .pool import Key
from .silence import Silence
from .tenants import Tenant, Tenants
from .turns import Calls
from .worker import Worker


class Desk:
    """Of one loader."""

    def __init__(self, config: LoaderConfig, house: House, tenants: Tenants) -> None:
        self._config, self._house, self._tenants = config, house, tenants
        self._pools = house.pools
        self.calls = Calls(config.calls_at_once)
        self.refused = 0
        self.silence = Silence()
        """Of the runs that it has given workers to."""

    def warm(self, key: Key) -> Worker | None:
        """The worker of a key that would be used next, if it has its code and lives; it is not used by that."""
        return self._house.warm(key)

    def take(self, key: Key) -> Worker | None:
        """A warm worker for one direct call, to be given back; None where that takes more than to count it."""
        pool, calls = self._pools.get(key), self.calls
        if pool is None or calls.inside >= calls.most:
            return None
        tenant = pool.tenant
        if tenant.calls >= tenant.most or tenant.metered:
            return None
        worker = pool.next_at_once()
        if worker is not None:
            calls.inside += 1
            tenant.calls += 1
            self._house.register.hits += 1
            self._house.use(worker)
        return worker

    async def obtain(self, key: Key, get_code: GetCode) -> Worker:
        """The same, with everything that it takes: a turn, room, a boot. It is ready. See `Entrypoint` for errors."""
        house = self._house
        house.check_open()
        tenant = self._tenants.of(key)
        await self._admit(tenant)
        try:
            worker = await house.obtain(key, get_code, self._config.admission_timeout)
            try:
                await asyncio.shield(worker.ready)
            except BaseException:
                house.let_go(worker)
                raise
        except BaseException:
            self.calls.leave(tenant)
            raise
        return worker

    async def rejoin(self, worker: Worker) -> bool:
        """The same with this very worker, if it still takes calls."""
        if not self._takes_calls(worker):
            return False
        tenant = worker.pool.tenant
        await self._admit(tenant)
        if not self._takes_calls(worker):
            self.calls.leave(tenant)
            return False
        self._house.use(worker)
        return True

    @staticmethod
    def _takes_calls(worker: Worker) -> bool:
        return worker.open and not worker.retired and worker in worker.pool.workers

    def give_back(self, worker: Worker) -> None:
        """The call is over."""
        self.calls.leave(worker.pool.tenant)
        self._house.let_go(worker)

    def take_for_run(self, key: Key) -> Worker | None:
        """A warm worker for a durable run, to be let go of; None where that takes more than to count it. A run takes no
        turn among direct calls: engines have slots."""
        pool = self._pools.get(key)
        worker = None if pool is None or pool.tenant.metered else pool.next_at_once()
        if worker is not None:
            self._house.register.hits += 1
            self._house.use(worker)
        return worker

    async def obtain_for_run(self, key: Key, get_code: GetCode, *, patience: float) -> Worker:
        """The same, with everything that it takes. It is ready.

        `LoadFailed`, `NoCapacity`, `SandboxUnavailable`, `TenantThrottled` while the tenant's CPU time is used up.
        """
        if (tenant := self._tenants.known(key.tenant_id)) is not None:
            tenant.admit_run(asyncio.get_running_loop().time())
        worker = await self._house.obtain(key, get_code, patience, at_once=True)
        try:
            await asyncio.shield(worker.ready)
        except BaseException:
            self._house.let_go(worker)
            raise
        return worker

    def let_go(self, worker: Worker) -> None:
        """The run is over."""
        self._house.let_go(worker)

    async def _admit(self, tenant: Tenant) -> None:
        """Wait for a turn. `TenantThrottled`, `NoCapacity`."""
        try:
            if self.calls.full_for(tenant) and self.calls.queued(tenant) >= tenant.quota.queue:
                words = f"has {tenant.quota.queue:,} calls that wait for their turn"
                raise TenantThrottled(tenant.tenant_id, "queue", tenant.quota.queue, None, words)
            tenant.admit(asyncio.get_running_loop().time())
            await self.calls.enter(tenant, self._config.admission_timeout, lambda: self._refusal(tenant))
        except TenantThrottled:
            self.refused += 1
            raise

    def _refusal(self, tenant: Tenant) -> TenantThrottled | NoCapacity:
        waited = f"for {self._config.admission_timeout:g} s"
        if not self.calls.may(tenant):
            words = f"had {tenant.most:,} calls in flight {waited}, and this one waited behind them"
            return TenantThrottled(tenant.tenant_id, "concurrency", tenant.most, None, words)
        words = f"{self.calls.most:,} calls were in flight {waited}"
        return NoCapacity(f"{words}; raise calls_at_once, or call less at once")
