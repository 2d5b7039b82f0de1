"""What happened to an instance, told from any point on, and then as it happens.

A subscriber reads what is recorded and is woken when there is more: nothing is kept in memory for it, and the history
is the same for whoever comes later.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from .errors import InvalidCursor

if TYPE_CHECKING:
    from collections.abc import Awaitable

PAGE: Final = 256

STATUS_TYPES: Final[Mapping[str, str]] = {
    "queued": "workflow_queued",
    "running": "workflow_running",
    "waiting": "workflow_waiting",
    "waitingForPause": "workflow_waiting_for_pause",
    "paused": "workflow_paused",
    "complete": "workflow_completed",
    "errored": "workflow_errored",
    "terminated": "workflow_terminated",
}
TYPES: Final = frozenset({
    *STATUS_TYPES.values(), "attempt_errored", "sleep_started", "wait_started", "wait_timed_out", "rollback_started",
    "rollback_attempt_errored", "rollback_completed", "rollback_errored",
    *(f"{what}_{how}" for what in ("step", "sleep", "wait", "value", "child", "rollback_step")
      for how in ("completed", "errored")),
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class HistoryEvent:
    """One thing that happened. `id` is the cursor that continues after it."""

    id: int
    type: str
    timestamp_ms: int
    name: str | None = None
    count: int | None = None
    attempt: int | None = None
    due_ms: int | None = None
    """When the next attempt is made, the sleep is over, or the wait gives up."""
    error: Mapping[str, str] | None = None

    def plain(self, instance_id: str) -> dict[str, Any]:
        """As a dict under Cloudflare's names, without what it does not have."""
        told = {
            "eventId": self.id, "type": self.type, "timestamp": self.timestamp_ms, "instanceId": instance_id,
            "stepName": self.name, "stepCount": self.count, "attempt": self.attempt, "due": self.due_ms,
            "error": None if self.error is None else dict(self.error),
        }  # fmt: skip
        return {key: value for key, value in told.items() if value is not None}


def check_cursor(cursor: object) -> int:
    """Where to go on: the `id` of the last event that was dealt with, None for the beginning."""
    if cursor is None:
        return -1
    if type(cursor) is not int or not 0 <= cursor < 2**63:
        raise InvalidCursor
    return cursor


def check_types(types: object) -> frozenset[str]:
    """Which events are wanted; all of them if none are named."""
    if types is None:
        return frozenset()
    given = [types] if isinstance(types, str) else types
    if not isinstance(given, list | tuple | set | frozenset) or not all(isinstance(item, str) for item in given):
        raise TypeError(f"event types are a list of texts, not {types!r:.80}")
    if strange := sorted(set(given) - TYPES):
        raise ValueError(f"{strange[0]!r:.80} is no type of event; there are {', '.join(sorted(TYPES))}")
    return frozenset(given)


@dataclass(slots=True)
class Watchers:
    """Who waits for news of which instance. `watched` is read by the store, in another thread."""

    watched: set[int] = field(default_factory=set)
    _bells: dict[int, set[asyncio.Event]] = field(default_factory=dict)

    @contextmanager
    def watch(self, number: int) -> Iterator[asyncio.Event]:
        """An event that is set whenever something was recorded about this instance."""
        bell = asyncio.Event()
        self._bells.setdefault(number, set()).add(bell)
        self.watched.add(number)
        try:
            yield bell
        finally:
            bells = self._bells[number]
            bells.discard(bell)
            if not bells:
                del self._bells[number]
                self.watched.discard(number)

    def ring(self, numbers: frozenset[int] | None) -> None:
        """Something was recorded about these; None if nobody knows about which."""
        for number in self._bells.keys() & numbers if numbers is not None else tuple(self._bells):
            for bell in self._bells[number]:
                bell.set()


Read = Callable[[int, int, int], "Awaitable[tuple[list[HistoryEvent], bool]]"]
"""Number of an instance, a cursor, how many at most: what came after it, and whether the instance has ended."""


async def follow(
    number: int, read: Read, watchers: Watchers, after: int, types: frozenset[str]
) -> AsyncGenerator[HistoryEvent, None]:
    """Everything after the cursor, then everything as it comes, until the instance has ended."""
    with watchers.watch(number) as bell:
        while True:
            bell.clear()  # before it is read, so that what comes meanwhile is not missed
            events, ended = await read(number, after, PAGE)
            for event in events:
                after = event.id
                if not types or event.type in types:
                    yield event
            if len(events) == PAGE:
                continue
            if ended:
                return
            if not events:
                await bell.wait()
