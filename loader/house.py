"""Who lives where: the pools of all tenants, the room they share, and who has to leave when there is none left.

It boots a tenant's sandbox when there is none, or not enough, and ends what is not needed; never what is in use. It
knows no methods and no calls: whoever holds a worker says so, and lets go.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import Final

from cloister.sandbox import LATE_GRACE, SandboxClosed

from .audit import Audit
from .boots import Boots
from .code import GetCode
from .config import LoaderConfig
from .errors import LoaderClosed
from .lobby import Lobby
from .pool import Key, Pool
from .register import Register
from .room import Room
from .tenants import Tenants
from .worker import Worker

_NEWCOMER_FIRST: Final = 0.004
"""Seconds for which one that has left for another goes on existing: the kernel takes a core to end it, and the newcomer
has somebody waiting."""


class House:
    """Opened and closed by the loader."""

    def __init__(self, config: LoaderConfig, tenants: Tenants, boots: Boots) -> None:
        self._config, self._tenants, self._boots = config, tenants, boots
        self.register = Register()
        self.audit: Audit | None = None
        self.pools: dict[Key, Pool] = {}
        self.wide: set[Pool] = set()
        """Those that have more than one worker, or had until a moment ago."""
        self.room = Room(config)
        self.lobby = Lobby(self.room.refusal)
        self.closed: str | None = "use the loader inside `async with Loader(...) as loader`"
        self._tasks: dict[Worker, asyncio.Task[None]] = {}
        self._leaving: set[Worker] = set()
        """Who has left for another one, and ends in a moment."""

    def __iter__(self) -> Iterator[Worker]:
        """Everybody, idle or not."""
        return iter(self.room)

    def check_open(self) -> None:
        """`LoaderClosed`, with the reason."""
        if self.closed is not None:
            raise LoaderClosed(self.closed)

    def warm(self, key: Key) -> Worker | None:
        """The worker of a key that would be used next, if it has its code and lives; it is not used by that."""
        pool = self.pools.get(key)
        worker = pool.next() if pool is not None else None
        return worker if worker is not None and worker.ready.done() and not worker.gone else None

    async def obtain(self, key: Key, get_code: GetCode, patience: float, *, at_once: bool = False) -> Worker:
        """A worker to use, warm or beginning to boot. `LoadFailed`, `RestartBackedOff`, `NoCapacity`.

        `at_once`: even if the code failed to load a moment ago, for who has its own way of coming back later.
        """
        deadline = None
        while True:
            self.check_open()
            worker = self._next(key)
            if worker is not None and worker.doubtful:
                await asyncio.sleep(LATE_GRACE)
                continue
            if worker is None and not await self._boots.may_begin(key, at_once=at_once):
                continue
            pool = self.pools.get(key) or self._new_pool(key, get_code)
            wanted = worker is None or (pool.short(worker) and self._boots.calm(key))
            if wanted and (fresh := self._another(pool)) is not None:
                self.lobby.let_in_for(pool.tenant, key)
                return fresh
            if worker is not None:
                self.register.hits += 1
                self.use(worker)
                self.lobby.let_in()
                return worker
            again, now = deadline is not None, asyncio.get_running_loop().time()
            deadline = now + patience if deadline is None else deadline
            await self.lobby.wait(pool.tenant, key, deadline, again=again, patience=patience)

    def use(self, worker: Worker) -> None:
        """Hold it: it stays until it is let go of."""
        self.room.pin(worker)
        worker.users += 1

    def let_go(self, worker: Worker) -> None:
        """Hold it no longer. Work that goes on after the answer keeps it for a while, and a stream while it is open."""
        worker.users -= 1
        if worker.busy and self._held(worker):
            return
        self._unpin(worker)
        self.lobby.let_in()

    def evict(self, tenant_id: str) -> int:
        """End all sandboxes of a tenant at once; how many there were."""
        self._boots.forgive(tenant_id)
        tenant = self._tenants.known(tenant_id)
        found = self.remove([] if tenant is None else [w for pool in tenant.pools for w in pool.all], "evicted")
        leaving = [worker for worker in self._leaving if worker.tenant_id == tenant_id]
        for worker in leaving:
            self._end_leaving(worker, "evicted")
        return found + len(leaving)

    def remove(self, workers: Iterable[Worker], reason: str) -> int:
        """End these at once; how many there were."""
        leaving = [worker for worker in list(workers) if self.room.remove(worker)]
        for worker in leaving:
            self._leave(worker, reason)
        self.lobby.let_in()
        return len(leaving)

    def retire(self, pool: Pool, reason: str) -> list[Worker]:
        """It takes no new calls, and its workers end when they have finished what they do; these are given back."""
        if self.pools.get(pool.key) is pool:
            del self.pools[pool.key]
        leaving, pool.workers = list(pool.all), []
        for worker in leaving:
            worker.retired = reason
        self.remove([worker for worker in leaving if worker.idle], reason)
        return leaving

    async def replace(self, pool: Pool, get_code: GetCode | None) -> None:
        """Boot another pool in its place, which takes over when its code has been imported. Else nothing changes."""
        fresh = Pool(pool.key, pool.tenant, get_code or pool.get_code, most=pool.most, full=pool.full)
        fresh.candidate = True
        now = asyncio.get_running_loop().time
        deadline, again = now() + self._config.admission_timeout, False
        while (worker := self._another(fresh)) is None:
            patience = self._config.admission_timeout
            await self.lobby.wait(pool.tenant, pool.key, deadline, again=again, patience=patience)
            self.check_open()
            again = True
        self.lobby.let_in()
        try:
            await asyncio.shield(worker.ready)
            await asyncio.shield(worker.imported)
            fresh.candidate = False
            if (current := self.pools.get(pool.key)) is not None:
                self.retire(current, "replaced by a redeploy")
            self.pools[pool.key] = fresh
        finally:
            self.let_go(worker)

    async def close(self, error: LoaderClosed) -> None:
        """Boots are given up."""
        booting = dict(self._tasks)
        for worker, boot in booting.items():
            worker.fail(error)
            boot.cancel()
        if booting:
            await asyncio.wait(booting.values())

    def _next(self, key: Key) -> Worker | None:
        """Who gets the next call, if anybody is there and alive."""
        while (pool := self.pools.get(key)) is not None:
            worker = pool.next()
            if worker is None or not worker.gone:
                return worker
            self.room.remove(worker)
            self._shrink(worker)  # the rest is told when all of its end is known
            self._boots.ended(worker)
        return None

    def _new_pool(self, key: Key, get_code: GetCode) -> Pool:
        most = 1 if key.one_off else self._config.sandboxes_per_tenant
        return Pool(key, self._tenants.of(key), get_code, most=most, full=self._config.calls_per_sandbox)

    def _another(self, pool: Pool) -> Worker | None:
        """One more worker of this pool, that is used and begins to boot; None if there is no room for it."""
        if not self.room.for_one_more(pool.tenant):
            return None
        self._boots.expect()
        if not self._make_room():
            return None
        worker = Worker(pool, self._idle, self._gone, self.audit)
        worker.users = 1
        self.room.add(worker)
        if not pool.candidate:
            self.pools[pool.key] = pool
        pool.workers.append(worker)
        if len(pool.workers) > 1:
            self.wide.add(pool)
        pool.all.add(worker)
        pool.tenant.pools.add(pool)
        boot = self._tasks[worker] = asyncio.ensure_future(self._boot(pool, worker))
        boot.add_done_callback(lambda done: done.cancelled() or done.exception())
        return worker

    def _make_room(self) -> bool:
        while self.room.full:
            leaver = self.room.leave()
            if leaver is None:
                return False
            self._leave(leaver, "evicted", after=_NEWCOMER_FIRST)
        return True

    async def _boot(self, pool: Pool, worker: Worker) -> None:
        try:
            await self._boots.begin(pool, worker)
        except BaseException as error:
            self.room.remove(worker)
            self._forget(worker)
            self.lobby.let_in()
            worker.fail(error if isinstance(error, Exception) else LoaderClosed("the boot was cancelled"))
            raise
        finally:
            self._tasks.pop(worker, None)
        self.register.boots += 1
        worker.imported.add_done_callback(lambda _: self._imported(worker))

    def _imported(self, worker: Worker) -> None:
        self.register.booted(worker)
        difference = self._boots.imported(worker)
        if difference is not None:
            self.register.redeployed(worker, str(difference))

    def _unpin(self, worker: Worker) -> None:
        if not self.room.unpin(worker):
            return
        if worker.retired:
            self.remove([worker], worker.retired)
        elif len(worker.pool.workers) > 1:
            worker.idle_since = asyncio.get_running_loop().time()

    def _held(self, worker: Worker) -> bool:
        """Whether it is held for its own work from now on, and was not before."""
        loop = asyncio.get_running_loop()
        before, worker.held_until = worker.held_until, loop.time() + self._config.background_s
        if not before:
            loop.call_at(worker.held_until, self._let_go_of_background, worker)
        return not before

    def _let_go_of_background(self, worker: Worker) -> None:
        if not worker.held_until:
            return
        loop = asyncio.get_running_loop()
        if worker.busy and worker.sandbox.streaming:
            worker.held_until = max(worker.held_until, loop.time() + self._config.look_every_s)
        if loop.time() < worker.held_until:
            loop.call_at(worker.held_until, self._let_go_of_background, worker)
        else:
            self._rests(worker)

    def _idle(self, worker: Worker) -> None:
        """What it did beside its answers is done."""
        if not worker.busy:
            self._rests(worker)

    def _rests(self, worker: Worker) -> None:
        if worker.held_until:
            worker.held_until = 0.0
            self._unpin(worker)
        self.lobby.let_in()

    def _gone(self, worker: Worker) -> None:
        """The worker's sandbox died, or its code did not load."""
        removed = self.room.remove(worker)
        if not self._forget(worker):
            return
        if removed:
            self.lobby.let_in()
        if worker.ready.exception() is None:
            self.register.died(worker)
            self._boots.ended(worker)

    def _leave(self, worker: Worker, reason: str, *, after: float = 0.0) -> None:
        """It is out of the room, and ends; so many seconds later if it has come up."""
        self._forget(worker)
        self.register.evicted(worker, reason)
        boot = self._tasks.get(worker)
        if after and boot is None:
            self._leaving.add(worker)
            asyncio.get_running_loop().call_later(after, self._end_leaving, worker, reason)
            return
        worker.end(reason)
        if boot is not None:
            worker.fail(SandboxClosed(f"the sandbox was {reason} while it was booting"))
            boot.cancel()

    def _end_leaving(self, worker: Worker, reason: str) -> None:
        if worker in self._leaving:
            self._leaving.discard(worker)
            worker.end(reason)

    def _forget(self, worker: Worker) -> bool:
        """It belongs to its pool no more, which may be the end of that; False if it did not."""
        pool = worker.pool
        if worker not in pool.all:
            return False
        pool.tenant.charge(worker.newly_used(), asyncio.get_running_loop().time())
        pool.all.discard(worker)
        self._shrink(worker)
        if not pool.all:
            pool.tenant.pools.discard(pool)
            self._tenants.forget(pool.tenant)
        worker.over.set_result(None)
        return True

    def _shrink(self, worker: Worker) -> None:
        """It takes no more calls. A pool without any that do is forgotten, and its code with it."""
        pool = worker.pool
        if worker in pool.workers:
            pool.workers.remove(worker)
        if not pool.workers and self.pools.get(pool.key) is pool:
            del self.pools[pool.key]
