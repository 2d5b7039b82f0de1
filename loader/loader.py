"""The loader: a tenant's id in, somewhere to call out. Warm where possible, booted where not, never twice at once.

It ties the parts together: who may call (`desk`), where sandboxes live (`house`), how they come to be (`boots`). It
refuses to know what a workflow is: `entrypoint` does.
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Any, Literal, Self

from cloister.ipc.link import Transport
from cloister.ipc.sockets import Sockets
from cloister.sandbox import Policy

from .audit import Audit
from .boots import Boots, tried
from .code import GetCode, WorkerCode
from .config import LoaderConfig
from .courier import delivered
from .desk import Desk
from .entrypoint import WorkerStub
from .errors import LoaderClosed
from .events import LoaderEvent, LoaderStatistics, SandboxStatistics
from .house import House
from .pool import Key
from .profiles import Profiles
from .quota import Quota, Quotas
from .tenants import Tenant, Tenants
from .upkeep import Upkeep
from .worker import Worker

__all__ = ["Key", "Loader"]


class Loader:
    """Keeps tenants warm, up to `max_sandboxes` sandboxes, and `spares` blank ones ready for the next ones.

    An async context manager. `config` holds every number there is; `max_sandboxes`, `spares` and `admission_timeout`
    (seconds) take precedence over its. `quotas` is asked for the quota of a tenant when it comes, and may be None or
    return None for that of the configuration. `transport` is what moves the bytes of the wire at the host's end: plain
    sockets, or libzmq, which does it in a thread of its own. `audit` hears of every call that a tenant makes of a
    capability (`CapabilityCall`), within the event loop.
    """

    def __init__(
        self,
        *,
        max_sandboxes: int | None = None,
        spares: int | None = None,
        policy: Policy | None = None,
        admission_timeout: float | None = None,
        transport: Literal["sockets", "libzmq"] = "sockets",
        config: LoaderConfig | None = None,
        quotas: Quotas | None = None,
        audit: Audit | None = None,
    ) -> None:
        if transport not in {"sockets", "libzmq"}:
            raise ValueError(f"transport is 'sockets' or 'libzmq', not {transport!r}")
        for name, value, kind in (("config", config, LoaderConfig), ("policy", policy, Policy)):
            if value is not None and not isinstance(value, kind):
                raise TypeError(f"{name} is a {kind.__name__}, not {type(value).__name__}")
        if quotas is not None:
            check_callable("quotas", quotas, "from a tenant's id to its Quota")
        if audit is not None:
            check_callable("audit", audit, "that takes a CapabilityCall")
        given: dict[str, Any] = {
            "max_sandboxes": max_sandboxes, "spares": spares, "admission_timeout": admission_timeout,
        }  # fmt: skip
        given = {name: value for name, value in given.items() if value is not None}
        self.config = dataclasses.replace(config, **given) if config is not None else LoaderConfig(**given)
        self._profiles = Profiles(
            spares=self.config.spares,
            policy=policy or Policy(),
            transport=Sockets if transport == "sockets" else _libzmq,
            idle_s=self.config.profile_idle_s,
        )
        self._tenants = Tenants(self.config.quota, quotas, self._now)
        self._boots = Boots(self.config, self._profiles, self._now)
        self._house = House(self.config, self._tenants, self._boots)
        self._house.audit = audit
        self._pools = self._house.pools
        self._desk = Desk(self.config, self._house, self._tenants)
        self._upkeep = Upkeep(self.config, self._house, self._tenants)
        self._opened = False
        self._closing: asyncio.Task[None] | None = None
        self._one_off = 0
        self._drained = False

    async def __aenter__(self) -> Self:
        if self._opened:
            raise LoaderClosed("this loader was opened before; make another one")
        await self._profiles.open()
        self._opened, self._house.closed = True, None
        self._upkeep.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._closing is None:
            self._shut("use the loader inside `async with Loader(...) as loader`")
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.shield(self._closing)  # whoever asks, and gives up asking: it is closed to the end

    async def _close(self) -> None:
        self._upkeep.stop()
        closed = LoaderClosed("the loader was closed")
        self._boots.turns.refuse(closed)
        await self._house.close(closed)
        if not self._drained:
            await delivered(self.config.drain_s)
        await self._profiles.close()

    def get(self, tenant_id: str, get_code: GetCode, *, version: str | None = None) -> WorkerStub:
        """The tenant's worker, at once and without awaiting. `get_code` is called only when the code is needed.

        With `version`, workers of different versions are kept apart, and each stands for one code: when `get_code`
        gives other code for it than before, that is `VersionChanged`. Without, other code is a redeploy, and takes
        over at the tenant's next boot, or when `redeploy` is called.
        """
        if not isinstance(tenant_id, str) or not tenant_id:
            raise ValueError(f"a tenant id is text that is not empty, not {tenant_id!r:.80}")
        if version is not None and (not isinstance(version, str) or not version):
            raise ValueError(f"a version is text that is not empty, or None, not {version!r:.80}")
        check_callable("get_code", get_code, "that gives a WorkerCode")
        key = Key(tenant_id, version)
        if (pool := self._pools.get(key)) is not None:
            pool.get_code = get_code
        return WorkerStub(self._desk, key, get_code)

    def load(self, code: WorkerCode) -> WorkerStub:
        """A worker that is nobody's: a fresh sandbox of its own, which is the first to leave when it is idle."""
        if not isinstance(code, WorkerCode):
            raise TypeError(f"load() takes a WorkerCode, not {type(code).__name__}")
        self._one_off += 1
        return WorkerStub(self._desk, Key(f"one-off {self._one_off}", one_off=True), lambda: code)

    def evict(self, tenant_id: str) -> bool:
        """End the tenant's sandboxes at once, in use or not: durable runs replay, direct calls fail. True if any."""
        return self._house.evict(tenant_id) > 0

    async def redeploy(self, tenant_id: str, get_code: GetCode | None = None) -> bool:
        """Switch the tenant to the code that it has now: True when that serves, False if it was not warm.

        The code is asked for (with `get_code`, or the one that was given last), booted and imported beside the old
        one; then new calls go to it, running ones finish where they are, and the old sandboxes end. When it does not
        load, that is raised, and the old one goes on. Versions and pinned code stay what they are.
        """
        self._house.check_open()
        if get_code is not None:
            check_callable("get_code", get_code, "that gives a WorkerCode")
        self._boots.forgive(tenant_id)
        tenant = self._tenants.known(tenant_id)
        if tenant is None or self._pools.get(Key(tenant_id)) is None:
            return False
        async with tenant.redeploying:
            pool = self._pools.get(Key(tenant_id))
            if pool is None:
                return False
            await tried(lambda: self._house.replace(pool, get_code))
        return True

    async def drain(self, tenant_id: str | None = None, *, timeout: float | None = None) -> bool:
        """Let what runs come to its end, for `timeout` seconds (`config.drain_s` without); True if all did.

        Of one tenant: its sandboxes take no new calls, and end with their last; new calls boot new ones. Of all: no
        call is taken any more, and none can be again; functions that tail are told the last of it. What is not done in
        time is ended as by `evict`.
        """
        if tenant_id is None:
            self._shut("the loader is draining: it takes no new calls")
        tenants: list[Tenant | None] = [*self._tenants] if tenant_id is None else [self._tenants.known(tenant_id)]
        pools = {pool for tenant in tenants if tenant is not None for pool in tenant.pools}
        leaving = [worker for pool in pools for worker in self._house.retire(pool, "drained")]
        left = {worker.over for worker in leaving if not worker.over.done()}
        deadline = self._now() + (self.config.drain_s if timeout is None else timeout)
        if left:
            _, left = await asyncio.wait(left, timeout=deadline - self._now())
        in_time = self._house.remove(leaving, "drained: it did not finish in time") == 0
        if tenant_id is None:
            await delivered(max(deadline - self._now(), 0.0))
            self._drained = True
        return in_time

    def quota(self, tenant_id: str) -> Quota:
        """What a tenant may take."""
        return self._tenants.quota(tenant_id)

    def subscribe(self) -> AsyncIterator[LoaderEvent]:
        """Boots, evictions, deaths, limits and redeploys from now on."""
        return self._house.register.announcements.subscribe()

    def statistics(self, *, detail: bool = False) -> LoaderStatistics:
        """How things stand. With `detail` each warm sandbox too, which the kernel is asked about one by one."""
        house, desk = self._house, self._desk
        return LoaderStatistics(
            sandboxes=tuple(self._look_at_each()) if detail else (),
            warm=len(house.room),
            in_use=house.room.in_use,
            booting=self._boots.going_on,
            spares=sum(spawner.spares for spawner in self._profiles),
            calls=desk.calls.inside,
            queued=desk.calls.waiting,
            waiting=len(house.lobby),
            failing=self._boots.failing,
            held_back=self._boots.held_back,
            memory_bytes=house.room.bytes,
            boots=house.register.boots,
            hits=house.register.hits,
            evictions=house.register.evictions,
            deaths=house.register.deaths,
            redeploys=house.register.redeploys,
            refused=desk.refused,
            dropped_log_lines=house.register.dropped,
            layers=dict(self._profiles.plain.layers),
        )

    def _look_at_each(self) -> Iterator[SandboxStatistics]:
        for worker in self._house:
            if worker.ready.done() and not worker.gone:
                sandbox = worker.sandbox
                yield SandboxStatistics(
                    tenant_id=worker.tenant_id,
                    sandbox=sandbox.number,
                    phases=sandbox.phases,
                    boot_ms=worker.boot_ms,
                    cpu_ms=round(sandbox.cpu_seconds() * 1000),
                    memory_bytes=sandbox.memory_bytes(),
                    users=worker.users,
                    dropped_log_lines=sandbox.tail.dropped,
                )

    def memory(self) -> dict[str, int]:
        """The proportional share of memory of each warm tenant in bytes, read from the kernel: not a cheap question."""
        found: dict[str, int] = {}
        for worker in self._house:
            if worker.ready.done() and not worker.gone:
                found[worker.tenant_id] = found.get(worker.tenant_id, 0) + worker.sandbox.memory_bytes()
        return found

    def warm(self, key: Key) -> Worker | None:
        """The worker of a key that would be used next, if it has its code and lives; it is not used by that."""
        return self._house.warm(key)

    def _shut(self, words: str) -> None:
        """No call is taken any more."""
        self._house.closed = words
        for waiting in (self._desk.calls, self._house.lobby):
            waiting.refuse(LoaderClosed(words))

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def check_callable(name: str, value: object, words: str) -> None:
    """`TypeError` for something that a host gave in place of a function."""
    if not callable(value):
        raise TypeError(f"{name} is a function {words}, not {type(value).__name__}")


def _libzmq() -> Transport:
    router = importlib.import_module("cloister.ipc.router")  # megabytes that a host with plain sockets has no use for
    transport: Transport = router.Router()
    return transport
