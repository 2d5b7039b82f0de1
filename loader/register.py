"""Who came and who went: counted, and told to whoever watches."""

from __future__ import annotations

import time
from typing import Any, Literal

from cloister.sandbox import LimitExceeded

from .events import Announcements, LoaderEvent
from .worker import Worker


class Register:
    """Of one house. The counters begin at 0 when it is opened."""

    def __init__(self) -> None:
        self.announcements = Announcements()
        self.boots = self.hits = self.evictions = self.deaths = self.redeploys = self.dropped = 0

    def booted(self, worker: Worker) -> None:
        """Its import has ended, or something else is to be told that comes after its boot. Told once."""
        if not worker.announced:
            worker.announced = True
            sandbox = worker.sandbox
            took = worker.boot_ms or (time.perf_counter() - worker.began) * 1000
            self._tell("boot", worker, phases=sandbox.phases, boot_ms=took, cpu_ms=round(sandbox.cpu_seconds() * 1000))

    def redeployed(self, worker: Worker, difference: str) -> None:
        """Its code is other code than its tenant had before."""
        self.redeploys += 1
        self._tell("redeploy", worker, reason=difference)

    def evicted(self, worker: Worker, reason: str) -> None:
        """It is to leave, perhaps before it has had a sandbox."""
        self.evictions += 1
        if worker.ready.done() and worker.ready.exception() is None:
            self.booted(worker)  # it may have answered before anybody was told that it had booted
            self._tell("evict", worker, reason=reason, cpu_ms=round(worker.sandbox.cpu_seconds() * 1000))
        else:
            self._tell("evict", worker, reason=reason)

    def died(self, worker: Worker) -> None:
        """Its sandbox has ended by itself, or for a limit that it crossed."""
        self.deaths += 1
        self.dropped += worker.sandbox.tail.dropped
        self.booted(worker)
        reason, end = worker.sandbox.end
        usage = worker.sandbox.usage
        kind: Literal["limit", "died"] = "limit" if issubclass(end, LimitExceeded) else "died"
        self._tell(kind, worker, reason=reason, cpu_ms=usage.cpu_ms, memory_bytes=usage.memory_bytes)

    def _tell(self, kind: Literal["boot", "evict", "died", "limit", "redeploy"], worker: Worker, **more: Any) -> None:
        number = worker.sandbox.number if worker.ready.done() and worker.ready.exception() is None else -1
        self.announcements.announce(LoaderEvent(kind=kind, tenant_id=worker.tenant_id, sandbox=number, **more))
