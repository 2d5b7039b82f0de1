"""How a worker comes to its code and its sandbox: load, a turn among the tenants that boot, a sandbox, and off it goes.

What failed is remembered for as long as it is not to be tried again, and so is whose sandboxes keep being ended; what a
version stood for, for as long as possible.
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
from .errors import LoadBackedOff, LoaderClosed, LoadFailed, NoCapacity, RestartBackedOff
from .pool import Key, Pool
from .profiles import Profiles
from .turns import Turns
from .worker import Worker

Outcome = TypeVar("Outcome")
TRIES: Final = 3
"""How many sandboxes a call may find dead before they were used. Code that ends each in its import looks like that."""
_NOT_ITS_FAULT = (SandboxClosed, SandboxUnavailable, LoaderClosed, NoCapacity)
"""What keeps a worker from booting or ends one, and says nothing about its code."""
_NOT_ITS_DOING = (*_NOT_ITS_FAULT, SandboxUnused)
"""What a sandbox ends of that its tenant has not brought about."""


class Boots:
    """Of one loader."""

    def __init__(self, config: LoaderConfig, profiles: Profiles, now: Callable[[], float]) -> None:
        self._config, self._profiles, self._now = config, profiles, now
        self._backoff: Backoff[Key] = Backoff(config.backoff_s, config.backoff_most_s, config.remembered)
        self._ends: Backoff[str] = Backoff(
            config.restart_s,
            config.restart_most_s,
            config.remembered,
            free=config.restarts_free,
            forgiven_s=config.restart_forgiven_s,
        )
        self._constancy: Constancy[Key] = Constancy(config.remembered)
        self.turns = Turns(config.boots_at_once)
        self.going_on = 0

    @property
    def failing(self) -> int:
        """Keys whose last load failed."""
        return len(self._backoff)

    @property
    def held_back(self) -> int:
        """Tenants that get no sandbox now, since theirs kept being ended."""
        return self._ends.waiting(self._now())

    async def may_begin(self, key: Key, *, at_once: bool = False) -> bool:
        """Whether it may be tried now, `at_once` even if the code did not load a moment ago. If not yet, but soon, that
        is waited for. `LoadBackedOff`, `RestartBackedOff`."""
        failed, ended = None if at_once else self._backoff.last(key), self._ends.last(key.tenant_id)
        if failed is None and ended is None:
            return True
        kind, last = max(
            ((kind, last) for kind, last in ((LoadBackedOff, failed), (RestartBackedOff, ended)) if last is not None),
            key=lambda found: found[1].until,
        )
        wait = last.until - self._now()
        if wait <= 0:
            return True
        if wait > self._config.backoff_wait_s:
            raise kind(key.tenant_id, last.count, wait, last.error)
        await asyncio.sleep(wait)
        return False

    def calm(self, key: Key) -> bool:
        """Whether a tenant may have one more sandbox, as far as the ends of those that it had go."""
        last = self._ends.last(key.tenant_id)
        return last is None or last.until <= self._now()

    def ended(self, worker: Worker) -> None:
        """It is gone, which is told as soon as it is known and again when all of it is. Noted if the tenant did it."""
        if worker.end_noted or (error := worker.ended_by) is None:
            return
        worker.end_noted = True
        if not isinstance(error, _NOT_ITS_DOING) and not worker.pool.key.one_off:
            self._ends.failed(worker.tenant_id, error, self._now())

    def expect(self) -> None:
        """One is about to begin. Where others are under way, the cores have enough to do."""
        if not self.going_on:
            self._profiles.plain.nudge()

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
                worker.start(code, sandbox, unhurried=self.going_on > 1)
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
        self._ends.forget(tenant_id)

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
