"""How many may live here, by number and by what they were measured to take, and who of the idle leaves first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from .cache import PinnedLRU
from .config import LoaderConfig
from .errors import NoCapacity
from .tenants import Tenant
from .worker import Worker

_UNMEASURED: Final = 3 << 20
"""What one is reckoned at while none has been measured."""
_SLOWLY: Final = 0.1
"""How far the usual size follows one that is measured."""


class Room:
    """An LRU of workers, pinned while they are used, within a number and within a sum of bytes."""

    def __init__(self, config: LoaderConfig) -> None:
        self._config = config
        self._lru: PinnedLRU[Worker, Worker] = PinnedLRU(config.max_sandboxes)
        self.bytes = 0
        """What all of them take: what was measured, and the usual size of those that were not yet."""
        self.usual = float(_UNMEASURED)

    def __len__(self) -> int:
        return len(self._lru)

    def __iter__(self) -> Iterator[Worker]:
        return (worker for worker, _ in self._lru)

    @property
    def in_use(self) -> int:
        """How many are used."""
        return self._lru.pinned

    @property
    def full(self) -> bool:
        """Whether one more would be too many or too much. One fits in any case."""
        return len(self._lru) >= self._lru.maxsize or self.over(self.usual)

    def over(self, more: float = 0.0) -> bool:
        """Whether so many bytes more would be too much."""
        return len(self._lru) > 0 and self.bytes + more > self._config.memory_bytes

    def for_one_more(self, tenant: Tenant) -> bool:
        """Whether the tenant's own memory has room for one more. One fits in any case."""
        ceiling = tenant.quota.memory_bytes
        if ceiling is None:
            return True
        held = [worker.measured_bytes for pool in tenant.pools for worker in pool.all]
        return not held or sum(held) + self.usual <= ceiling

    def add(self, worker: Worker) -> None:
        """One more, used once. The caller has made room."""
        self._lru.add(worker, worker)
        worker.measured_bytes = round(self.usual)
        self.bytes += worker.measured_bytes

    def measure(self, worker: Worker) -> None:
        """Look at what one takes."""
        found = worker.sandbox.charged_bytes()
        if found and self._lru.peek(worker) is not None:
            self.bytes += found - worker.measured_bytes
            self.usual += (found - self.usual) * _SLOWLY
            worker.measured_bytes = found

    def pin(self, worker: Worker) -> None:
        """It is used once more."""
        self._lru.pin(worker)

    def unpin(self, worker: Worker) -> bool:
        """It is used once less. Whether nobody uses it any more."""
        return self._lru.unpin(worker, worker, passing=worker.pool.key.one_off)

    def remove(self, worker: Worker) -> bool:
        """It is here no more, used or not; False if it was not."""
        if not self._lru.remove(worker, worker):
            return False
        self.bytes -= worker.measured_bytes
        return True

    def first_to_leave(self) -> Worker | None:
        """The idle one that was used longest ago; None if all are used."""
        found = self._lru.first_to_leave()
        return found[0] if found is not None else None

    def leave(self) -> Worker | None:
        """The same, and it is here no more."""
        leaver = self.first_to_leave()
        if leaver is not None:
            self.remove(leaver)
        return leaver

    def refusal(self, patience: float) -> NoCapacity:
        """What whoever has waited in vain is told."""
        if len(self._lru) < self._lru.maxsize:
            number = "memory_bytes"
            words = f"all {self._config.memory_bytes >> 20:,} MiB for sandboxes were in use"
        else:
            number, words = "max_sandboxes", f"all {self._lru.maxsize} sandboxes were in use"
        return NoCapacity(f"{words} for {patience:g} s; raise {number}, or call less at once")
