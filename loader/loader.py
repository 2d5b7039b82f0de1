"""The loader: a tenant's id in, somewhere to call out. Warm where possible, booted where not, never twice at once.

It knows what code is and where sandboxes come from. It refuses to know what a workflow is: `entrypoint` does.
"""

from __future__ import annotations

import asyncio
import importlib
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Final, Literal, NamedTuple, Self

from cloister.ipc.link import Transport
from cloister.ipc.sockets import Sockets
from cloister.sandbox import LATE_GRACE, LimitExceeded, Policy, SandboxClosed

from .cache import PinnedLRU
from .code import GetCode, WorkerCode, load_code
from .entrypoint import WorkerStub
from .errors import LoaderClosed, LoadFailed, NoCapacity
from .events import Announcements, LoaderEvent, LoaderStatistics, SandboxStatistics
from .lease import Lease
from .profiles import Profiles
from .worker import Worker

BACKGROUND: Final = 30.0
"""Seconds for which work given to `wait_until` keeps its sandbox from being evicted."""


class Key(NamedTuple):
    """What a warm worker is found by. `digest` is that of the code it is pinned to, empty for the newest."""

    tenant_id: str
    version: str | None = None
    digest: bytes = b""
    one_off: bool = False


class Loader:
    """Keeps up to `max_sandboxes` tenants warm, and `spares` blank sandboxes ready for the next ones.

    An async context manager. `admission_timeout` is how many seconds a call waits for room when every sandbox is in
    use, before `NoCapacity`. `transport` is what moves the bytes of the wire at the host's end: plain sockets, or
    libzmq, which does it in a thread of its own.
    """

    def __init__(
        self,
        *,
        max_sandboxes: int = 256,
        spares: int = 4,
        policy: Policy | None = None,
        admission_timeout: float = 30.0,
        transport: Literal["sockets", "libzmq"] = "sockets",
    ) -> None:
        if max_sandboxes < 1 or spares < 0:
            raise ValueError("max_sandboxes must be at least 1, and spares at least 0")
        if transport not in {"sockets", "libzmq"}:
            raise ValueError(f"transport is 'sockets' or 'libzmq', not {transport!r}")
        self._profiles = Profiles(
            spares=spares, policy=policy or Policy(), transport=Sockets if transport == "sockets" else _libzmq
        )
        self._cache: PinnedLRU[Key, Worker] = PinnedLRU(max_sandboxes)
        self._patience = admission_timeout
        self._waiting: OrderedDict[asyncio.Future[None], Key] = OrderedDict()
        self._announcements = Announcements()
        self._open = False
        self._closing: asyncio.Task[None] | None = None
        self._boot_tasks: dict[Worker, asyncio.Task[None]] = {}
        self._one_off = 0
        self._booting = self._boots = self._hits = self._evictions = self._deaths = self._dropped = 0

    async def __aenter__(self) -> Self:
        if self._closing is not None or self._open:
            raise LoaderClosed("this loader was opened before; make another one")
        await self._profiles.open()
        self._open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._closing is None:
            self._open = False
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.shield(self._closing)  # whoever asks, and gives up asking: it is closed to the end

    async def _close(self) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(LoaderClosed("the loader was closed"))
        boots = list(self._boot_tasks.values())
        for worker, boot in list(self._boot_tasks.items()):
            worker.fail(LoaderClosed("the loader was closed"))
            boot.cancel()
        if boots:
            await asyncio.wait(boots)
        await self._profiles.close()

    def get(self, tenant_id: str, get_code: GetCode, *, version: str | None = None) -> WorkerStub:
        """The tenant's worker, at once and without awaiting. `get_code` is called only when the code is needed.

        With `version`, workers of different versions are kept apart.
        """
        if not isinstance(tenant_id, str) or not tenant_id:
            raise ValueError(f"a tenant id is text that is not empty, not {tenant_id!r}")
        return WorkerStub(self, Key(tenant_id, version), get_code)

    def load(self, code: WorkerCode) -> WorkerStub:
        """A worker that is nobody's: a fresh sandbox of its own, which is the first to leave when it is idle."""
        self._one_off += 1
        return WorkerStub(self, Key(f"one-off {self._one_off}", one_off=True), lambda: code)

    def evict(self, tenant_id: str) -> bool:
        """End the tenant's sandboxes at once, in use or not: durable runs replay, direct calls fail. True if any."""
        return (
            sum(self._remove(key, worker, "evicted") for key, worker in self._cache if key.tenant_id == tenant_id) > 0
        )

    def subscribe(self) -> AsyncIterator[LoaderEvent]:
        """Boots, evictions, deaths and limits from now on."""
        return self._announcements.subscribe()

    def statistics(self, *, detail: bool = False) -> LoaderStatistics:
        """How things stand. With `detail` each warm sandbox too, which the kernel is asked about one by one."""
        return LoaderStatistics(
            sandboxes=tuple(self._look_at_each()) if detail else (),
            warm=len(self._cache),
            in_use=self._cache.pinned,
            booting=self._booting,
            spares=sum(spawner.spares for spawner in self._profiles),
            boots=self._boots,
            hits=self._hits,
            evictions=self._evictions,
            deaths=self._deaths,
            dropped_log_lines=self._dropped,
            layers=dict(self._profiles.plain.layers),
        )

    def _look_at_each(self) -> Iterator[SandboxStatistics]:
        for key, worker in self._cache:
            if worker.ready.done() and not worker.gone:
                sandbox = worker.sandbox
                yield SandboxStatistics(
                    tenant_id=key.tenant_id,
                    sandbox=sandbox.number,
                    phases=sandbox.phases,
                    boot_ms=worker.boot_ms,
                    cpu_ms=round(sandbox.cpu_seconds() * 1000),
                    memory_bytes=sandbox.memory_bytes(),
                    dropped_log_lines=sandbox.tail.dropped,
                )

    def memory(self) -> dict[str, int]:
        """The proportional share of memory of each warm tenant in bytes, read from the kernel: not a cheap question."""
        found: dict[str, int] = {}
        for key, worker in self._cache:
            if worker.ready.done() and not worker.gone:
                found[key.tenant_id] = found.get(key.tenant_id, 0) + worker.sandbox.memory_bytes()
        return found

    def warm(self, key: Key) -> Worker | None:
        """The worker of a key if it has its code and lives, without using it."""
        worker = self._cache.peek(key)
        return worker if worker is not None and worker.ready.done() and not worker.gone else None

    def lease(self, key: Key, get_code: GetCode, *, patience: float | None = None) -> Lease:
        """A worker that stays warm while the lease is held. `LoadFailed`, `NoCapacity`, `SandboxUnavailable`."""
        return Lease(
            lambda: self._obtain(key, get_code, self._patience if patience is None else patience),
            lambda worker: self._let_go(key, worker),
        )

    async def _obtain(self, key: Key, get_code: GetCode, patience: float) -> Worker:
        deadline = None
        while True:
            if not self._open:
                raise LoaderClosed("use the loader inside `async with Loader(...) as loader`")
            worker = self._cache.peek(key)
            if worker is not None and worker.doubtful:
                await asyncio.sleep(LATE_GRACE)
                continue
            worker = self._cache.pin(key)
            if worker is not None and not worker.gone:
                self._hits += 1
                self._admit()
                return worker
            if worker is not None:
                self._cache.remove(key, worker)
            fits, leaver = self._cache.make_room()
            if leaver is not None:
                self._leave(*leaver, "evicted")
            if fits:
                worker = Worker(
                    key.tenant_id, lambda worker: self._idle(key, worker), lambda worker: self._gone(key, worker)
                )
                self._cache.add(key, worker)
                boot = self._boot_tasks[worker] = asyncio.ensure_future(self._boot(key, worker, get_code))
                boot.add_done_callback(lambda done: done.cancelled() or done.exception())
                self._admit(key)
                return worker
            first = deadline is None
            deadline = asyncio.get_running_loop().time() + patience if deadline is None else deadline
            await self._room(key, deadline, first, patience)

    async def _boot(self, key: Key, worker: Worker, get_code: GetCode) -> None:
        """One boot at a time for each key: whoever comes meanwhile finds the worker and waits for it."""
        self._booting += 1
        try:
            code = await load_code(get_code)
            sandbox = await (await self._profiles.spawner(code.preload)).take()
            if worker.evicted:
                sandbox.kill(SandboxClosed("its worker was evicted before it had booted"))
                raise LoadFailed(f"the worker was {worker.evicted} while it was booting")
            worker.start(code, sandbox)
        except BaseException as error:
            self._cache.remove(key, worker)
            self._admit()
            worker.fail(error if isinstance(error, Exception) else LoaderClosed("the boot was cancelled"))
            raise
        finally:
            self._booting -= 1
            self._boot_tasks.pop(worker, None)
        self._boots += 1
        worker.imported.add_done_callback(lambda _: self._booted(key, worker))

    def _booted(self, key: Key, worker: Worker) -> None:
        if worker.announced:
            return
        worker.announced = True
        sandbox = worker.sandbox
        self._announcements.announce(
            LoaderEvent(
                kind="boot",
                tenant_id=key.tenant_id,
                sandbox=sandbox.number,
                phases=sandbox.phases,
                boot_ms=worker.boot_ms or (time.perf_counter() - worker.began) * 1000,
                cpu_ms=round(sandbox.cpu_seconds() * 1000),
            )
        )

    def _let_go(self, key: Key, worker: Worker) -> None:
        if worker.busy:  # work goes on after the answer: this pin is let go of when it is done, or has had its time
            worker.held_for_background += 1
            asyncio.get_running_loop().call_later(BACKGROUND, self._let_go_of_background, key, worker)
        else:
            self._cache.unpin(key, worker, passing=key.one_off)
            self._admit()

    def _let_go_of_background(self, key: Key, worker: Worker) -> None:
        if worker.held_for_background:
            worker.held_for_background -= 1
            self._cache.unpin(key, worker, passing=key.one_off)
            self._admit()

    def _idle(self, key: Key, worker: Worker) -> None:
        if not worker.busy:
            while worker.held_for_background:
                worker.held_for_background -= 1
                self._cache.unpin(key, worker, passing=key.one_off)
            self._admit()

    def _gone(self, key: Key, worker: Worker) -> None:
        """The worker's sandbox died, or its code did not load."""
        if self._cache.remove(key, worker):
            self._admit()
            if not worker.evicted and worker.ready.exception() is None:
                self._deaths += 1
                self._dropped += worker.sandbox.tail.dropped
                reason, end = worker.sandbox.end
                kind: Literal["limit", "died"] = "limit" if issubclass(end, LimitExceeded) else "died"
                self._booted(key, worker)
                usage = worker.sandbox.usage
                self._announcements.announce(
                    LoaderEvent(
                        kind=kind,
                        tenant_id=key.tenant_id,
                        sandbox=worker.sandbox.number,
                        reason=reason,
                        cpu_ms=usage.cpu_ms,
                        memory_bytes=usage.memory_bytes,
                    )
                )

    def _remove(self, key: Key, worker: Worker, reason: str) -> bool:
        if not self._cache.remove(key, worker):
            return False
        self._leave(key, worker, reason)
        self._admit()
        return True

    def _leave(self, key: Key, worker: Worker, reason: str) -> None:
        self._evictions += 1
        number, cpu_ms = -1, 0
        if worker.ready.done() and worker.ready.exception() is None:
            self._booted(key, worker)  # it may have answered before anybody was told that it had booted
            number, cpu_ms = worker.sandbox.number, round(worker.sandbox.cpu_seconds() * 1000)
        worker.end(reason)
        if (boot := self._boot_tasks.get(worker)) is not None:
            worker.fail(SandboxClosed(f"the sandbox was {reason} while it was booting"))
            boot.cancel()
        self._announcements.announce(
            LoaderEvent(kind="evict", tenant_id=key.tenant_id, sandbox=number, reason=reason, cpu_ms=cpu_ms)
        )

    async def _room(self, key: Key, deadline: float, first_time: bool, patience: float) -> None:
        """Wait for a turn to look for room. Whoever has had one in vain is the next to have another."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[turn] = key
        if not first_time:
            self._waiting.move_to_end(turn, last=False)
        try:
            async with asyncio.timeout_at(deadline):
                await turn
        except BaseException as error:
            self._waiting.pop(turn, None)
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._admit()  # it came too late for this one
            if isinstance(error, TimeoutError):
                raise NoCapacity(
                    f"all {self._cache.maxsize} sandboxes were in use for {patience:g} s; "
                    "raise max_sandboxes, or call less at once"
                ) from None
            raise

    def _admit(self, key: Key | None = None) -> None:
        """Whoever has waited longest may look for room, and so may all who wait for this key, which is there by now.

        Each who gets in lets the next one look.
        """
        for turn in [turn for turn, wanted in self._waiting.items() if wanted == key] if key is not None else ():
            self._waiting.pop(turn)
            if not turn.done():
                turn.set_result(None)
        while self._waiting:
            turn, _ = self._waiting.popitem(last=False)
            if not turn.done():
                turn.set_result(None)
                return


def _libzmq() -> Transport:
    router = importlib.import_module("cloister.ipc.router")  # megabytes that a host with plain sockets has no use for
    transport: Transport = router.Router()
    return transport
