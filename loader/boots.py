"""How a worker comes to its code and its sandbox: load, a turn among the tenants that boot, a sandbox, and off it goes.

What failed is remembered for as long as it is not to be tried again; what a version stood for, for as long as possible.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from cloister.sandbox import SandboxClosed, SandboxUnavailable, SandboxUnused

from .backoff import Backoff
from .config import LoaderConfig
from .constancy import Constancy, Difference
from .errors import LoadBackedOff, LoaderClosed, LoadFailed, NoCapacity
from .pool import Key, Pool
from .profiles import Profiles
from .turns import Turns
from .worker import Worker

Outcome = TypeVar("Outcome")
TRIES: Final = 3
"""How many sandboxes a call may find dead before they were used. Code that ends each in its import looks like that."""
_NOT_ITS_FAULT = (SandboxClosed, SandboxUnavailable, LoaderClosed, NoCapacity)
"""What keeps a worker from booting and says nothing about its code."""


class Boots:
    """Of one loader."""

    def __init__(self, config: LoaderConfig, profiles: Profiles, now: Callable[[], float]) -> None:
        self._config, self._profiles, self._now = config, profiles, now
        self._backoff: Backoff[Key] = Backoff(config.backoff_s, config.backoff_most_s, config.remembered)
        self._constancy: Constancy[Key] = Constancy(config.remembered)
        self.turns = Turns(config.boots_at_once)
        self.going_on = 0

    @property
    def failing(self) -> int:
        """Keys whose last load failed."""
        return len(self._backoff)

    async def may_begin(self, key: Key) -> bool:
        """Whether it may be tried now. If not yet, but soon, that is waited for. `LoadBackedOff`."""
        failure = self._backoff.last(key)
        if failure is None or (wait := failure.until - self._now()) <= 0:
            return True
        if wait > self._config.backoff_wait_s:
            raise LoadBackedOff(key.tenant_id, failure.count, wait, failure.error)
        await asyncio.sleep(wait)
        return False

    async def begin(self, pool: Pool, worker: Worker) -> None:
        """Give it its code, and a sandbox to run it in. What went wrong is raised."""
        self.going_on += 1
        try:
            code = await pool.load()
            if pool.key.version is not None and not pool.key.digest:
                self._constancy.hold(pool.key, pool.key.tenant_id, pool.key.version, code)
            await self.turns.enter(pool.tenant, self._config.admission_timeout, self._refusal)
            try:
                sandbox = await (await self._profiles.spawner(code.preload)).take()
                if worker.evicted:
                    sandbox.kill(SandboxClosed("its worker was evicted before it had booted"))
                    raise LoadFailed(f"the worker was {worker.evicted} while it was booting")
                worker.start(code, sandbox)
            finally:
                self.turns.leave(pool.tenant)
        except Exception as error:
            self._note_failure(pool, error)
            raise
        finally:
            self.going_on -= 1

    def imported(self, worker: Worker) -> Difference | None:
        """Its import has ended, well or not: how its code differs from what it was when it was last loaded, if so."""
        key = worker.pool.key
        error = None if worker.imported.cancelled() else worker.imported.exception()
        if isinstance(error, Exception):
            self._note_failure(worker.pool, error)
            return None
        self._backoff.forget(key)
        return self._constancy.note(key, worker.code) if not (key.version or key.digest or key.one_off) else None

    def forgive(self, tenant_id: str) -> None:
        """There is reason to try its code again at once."""
        self._backoff.forget_all(lambda key: key.tenant_id == tenant_id)

    def _note_failure(self, pool: Pool, error: Exception) -> None:
        if isinstance(error, _NOT_ITS_FAULT) or pool.candidate:
            return
        known = self._backoff.last(pool.key)
        if known is None or known.error is not error:  # one load that failed fails several workers
            free = TRIES - 1 if isinstance(error, SandboxUnused) else 0
            self._backoff.failed(pool.key, error, self._now(), free=free)

    def _refusal(self) -> NoCapacity:
        return NoCapacity(
            f"{self.turns.most} tenants were booting for {self._config.admission_timeout:g} s; raise boots_at_once, or "
            "send fewer tenants at once"
        )


async def tried(once: Callable[[], Awaitable[Outcome]]) -> Outcome:
    """Again with another sandbox where one had died before it was used: nothing of the tenant has run."""
    for _ in range(TRIES - 1):
        with contextlib.suppress(SandboxUnused):
            return await once()
    return await once()
