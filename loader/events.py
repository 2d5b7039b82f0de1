"""What happens to sandboxes, for whoever wants to watch: events as values, and a queue for each subscriber."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections import deque
from dataclasses import dataclass, field
from typing import Literal, Self

from cloister.sandbox import Phases

_BACKLOG = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderEvent:
    """`boot` (with where its time went), `evict`, `died` or `limit` (with the reason in words), `redeploy` (with the
    modules that differ)."""

    kind: Literal["boot", "evict", "died", "limit", "redeploy"]
    tenant_id: str
    sandbox: int
    reason: str = ""
    boot_ms: float = 0.0
    """From having the code and a sandbox to the end of the import."""
    phases: Phases | None = None
    cpu_ms: int = 0
    """CPU time that the sandbox had used by then."""
    memory_bytes: int = 0
    """The most memory that it had resident, where its end is told."""
    time: float = field(default_factory=time.time)


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxStatistics:
    """One warm sandbox. `memory_bytes` is its proportional share."""

    tenant_id: str
    sandbox: int
    phases: Phases
    boot_ms: float
    cpu_ms: int
    memory_bytes: int
    users: int = 0
    """Calls and runs that hold it."""
    dropped_log_lines: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderStatistics:
    """Gauges of this moment and counters since the loader was opened."""

    warm: int
    in_use: int
    booting: int
    spares: int
    calls: int = 0
    """Direct calls in flight."""
    queued: int = 0
    """Direct calls that wait for their turn."""
    waiting: int = 0
    """Calls and runs that wait for room."""
    failing: int = 0
    """Tenants and versions whose last load failed."""
    held_back: int = 0
    """Tenants that get no sandbox now, since theirs kept being ended by what they did."""
    memory_bytes: int = 0
    """What the warm ones take, as last measured."""
    boots: int
    hits: int
    evictions: int
    deaths: int
    redeploys: int = 0
    refused: int = 0
    """Calls that were beyond their tenant's quota."""
    dropped_log_lines: int
    sandboxes: tuple[SandboxStatistics, ...] = ()
    """Each warm sandbox, where that was asked for."""
    layers: dict[str, str]
    """Each layer of the confinement: "active", or why it is not."""


class Subscription:
    """What one subscriber has not heard yet. One that does not keep up loses the oldest."""

    def __init__(self) -> None:
        self._queue: deque[LoaderEvent] = deque(maxlen=_BACKLOG)
        self._arrived = asyncio.Event()

    def put(self, event: LoaderEvent) -> None:
        """One more."""
        self._queue.append(event)
        self._arrived.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> LoaderEvent:
        while not self._queue:
            self._arrived.clear()
            await self._arrived.wait()
        return self._queue.popleft()


class Announcements:
    """Hands each event to each subscriber, for as long as there is one."""

    def __init__(self) -> None:
        self._subscriptions: weakref.WeakSet[Subscription] = weakref.WeakSet()

    def announce(self, event: LoaderEvent) -> None:
        """Tell all."""
        for subscription in self._subscriptions:
            subscription.put(event)

    def subscribe(self) -> Subscription:
        """All events from now on."""
        subscription = Subscription()
        self._subscriptions.add(subscription)
        return subscription
