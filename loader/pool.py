"""The sandboxes of one tenant and version: which of them gets the next call, and whether there should be another.

It starts nothing and ends nothing; the house does.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from .code import GetCode, WorkerCode, load_code
from .tenants import Tenant
from .worker import Worker


class Key(NamedTuple):
    """What a pool is found by. `digest` is that of the code it is pinned to, empty for the newest."""

    tenant_id: str
    version: str | None = None
    digest: bytes = b""
    one_off: bool = False


class Pool:
    """Up to `most` workers with the same code, each full with `full` calls in flight."""

    __slots__ = ("_loading", "all", "candidate", "code", "full", "get_code", "key", "most", "tenant", "workers")

    def __init__(self, key: Key, tenant: Tenant, get_code: GetCode, *, most: int, full: int) -> None:
        self.key = key
        self.tenant = tenant
        self.get_code = get_code
        """The newest that the host has given."""
        self.code: WorkerCode | None = None
        self.most, self.full = most, full
        self.workers: list[Worker] = []
        """Those that take calls, the oldest first, so that the youngest are idle first."""
        self.all: set[Worker] = set()
        """These, and those that only finish what they have begun."""
        self.candidate = False
        """It is yet to take another one's place, and will not if it does not load."""
        self._loading: asyncio.Future[None] | None = None

    def next(self) -> Worker | None:
        """The one with the fewest calls in flight, of those that can be expected to answer if there are any."""
        workers = self.workers
        if len(workers) == 1:
            return workers[0]
        return min(workers, key=_load, default=None)

    def next_at_once(self) -> Worker | None:
        """The same, if it can take a call now and there is no reason for another one."""
        workers = self.workers
        worker = workers[0] if len(workers) == 1 else self.next()  # nearly all have one
        if worker is None or not worker.open:
            return None
        if worker.users and (worker.users >= self.full or worker.computing) and len(self.workers) < self.most:
            return None
        return worker

    def short(self, worker: Worker) -> bool:
        """Whether calls queue up even in the one that has the fewest."""
        if len(self.workers) >= self.most or not worker.users:
            return False
        return worker.users >= self.full or worker.computing

    async def load(self) -> WorkerCode:
        """Its code, for which the host is asked once, whoever needs it. `LoadFailed`, `InvalidCode`."""
        while self.code is None:
            if self._loading is not None:
                await asyncio.shield(self._loading)
                continue
            loading = self._loading = asyncio.get_running_loop().create_future()
            try:
                self.code = await load_code(self.get_code)
            except Exception as error:
                loading.set_exception(error)
                loading.exception()  # somebody has been told, if nobody else waits
                raise
            finally:
                self._loading = None
                if not loading.done():
                    loading.set_result(None)
        return self.code


def _load(worker: Worker) -> tuple[bool, int]:
    return worker.doubtful, worker.users
