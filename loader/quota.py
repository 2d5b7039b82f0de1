"""What one tenant may take of a loader, as a value, and how much of it is left. No clock: time comes in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from .errors import LoaderError

CPU_WINDOW: Final = 10.0
"""Seconds over which a share of CPU time is averaged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """Ceilings of one tenant, all its sandboxes and versions together. `None` is no ceiling.

    Calls beyond `concurrency` wait for their turn. Beyond any other ceiling they are refused with `TenantThrottled`,
    which says when to come again. Durable runs have slots of their own (`WorkflowLimits`); they are put off while
    their tenant has used up its CPU time.
    """

    concurrency: int = 1024
    """Direct calls in flight."""
    queue: int = 65_536
    """Direct calls that wait for their turn."""
    calls_per_second: float | None = None
    """Direct calls, averaged: as many may come at once as are allowed in a second."""
    cpu_share: float | None = None
    """CPU time in cores, averaged over ten seconds: 0.5 is half of one core. What was used is charged when it has been
    used, so one long call may go beyond, and the tenant waits for that afterwards."""
    memory_bytes: int | None = None
    """What its sandboxes take together, as measured. It gets no further one that would go beyond; when it is beyond,
    the idle ones end first and then the largest."""
    storage_bytes: int | None = None
    """What it may store in all the stores of bindings together that were given a `bindings.Storage` with these quotas:
    keys and values, databases, objects and messages. Beyond it, what would store more is `StorageQuotaExceeded`."""
    weight: float = 1.0
    """Its share where tenants take turns: boots, calls, and runs that resume."""

    def __post_init__(self) -> None:
        for name in ("concurrency", "queue", "memory_bytes", "storage_bytes"):
            value = getattr(self, name)
            if value is None and name in {"memory_bytes", "storage_bytes"}:
                continue
            if type(value) is not int or value < (0 if name == "queue" else 1):
                raise ValueError(f"Quota.{name} must be a whole number above zero, not {value!r}")
        for name in ("calls_per_second", "cpu_share", "weight"):
            value = getattr(self, name)
            if value is None and name != "weight":
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
                raise ValueError(f"Quota.{name} must be a number above zero, not {value!r}")


Quotas = Callable[[str], Quota | None]
"""The host's function from a tenant's id to its quota. `None`: that of the configuration."""


class Weights(Mapping[str, float]):
    """The weights of quotas as an engine asks for them: by a tenant's id."""

    def __init__(self, quota: Callable[[str], Quota]) -> None:
        self._quota = quota

    def __getitem__(self, tenant_id: str) -> float:
        try:
            return self._quota(tenant_id).weight
        except LoaderError as error:  # the host's own failure, which its calls are told
            raise KeyError(tenant_id) from error

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0

    def __bool__(self) -> bool:
        return True


class Bucket:
    """Fills at `rate` a second up to `size`, and may be drawn below zero by what was used already."""

    __slots__ = ("_level", "_seen", "rate", "size")

    def __init__(self, rate: float, size: float, now: float) -> None:
        self.rate, self.size = rate, size
        self._level, self._seen = size, now

    def level(self, now: float) -> float:
        """How much is in it."""
        self._level = min(self._level + (now - self._seen) * self.rate, self.size)
        self._seen = now
        return self._level

    def draw(self, amount: float, now: float) -> None:
        """Take out."""
        self._level = self.level(now) - amount

    def wait(self, amount: float, now: float) -> float:
        """Seconds until so much is in it; 0 if it is."""
        return max(amount - self.level(now), 0.0) / self.rate
