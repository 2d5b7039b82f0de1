"""What happens to sandboxes, for whoever wants to watch: events as values, and a queue for each subscriber."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Literal

from cloister.sandbox import Phases

_BACKLOG = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderEvent:
    """`boot` (with where its time went), `evict`, `died` or `limit` (with the reason in words)."""

    kind: Literal["boot", "evict", "died", "limit"]
    tenant_id: str
    sandbox: int
    reason: str = ""
    boot_ms: float = 0.0
    phases: Phases | None = None
    time: float = field(default_factory=time.time)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderStatistics:
    """Gauges of this moment and counters since the loader was opened."""

    warm: int
    in_use: int
    booting: int
    spares: int
    boots: int
    hits: int
    evictions: int
    deaths: int
    dropped_log_lines: int
    layers: dict[str, str]
    """Each layer of the confinement: "active", or why it is not."""


class Announcements:
    """Hands each event to each subscriber. One that does not keep up loses the oldest."""

    def __init__(self) -> None:
        self._queues: list[tuple[deque[LoaderEvent], asyncio.Event]] = []

    def announce(self, event: LoaderEvent) -> None:
        """Tell all."""
        for queue, arrived in self._queues:
            queue.append(event)
            arrived.set()

    async def subscribe(self) -> AsyncIterator[LoaderEvent]:
        """All events from now on."""
        entry = deque[LoaderEvent](maxlen=_BACKLOG), asyncio.Event()
        self._queues.append(entry)
        queue, arrived = entry
        try:
            while True:
                await arrived.wait()
                arrived.clear()
                while queue:
                    yield queue.popleft()
        finally:
            self._queues.remove(entry)
