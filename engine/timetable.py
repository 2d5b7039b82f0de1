"""The schedules of one workflow while its host is alive: which there are, and when the next firing of each is due.

An instance is created in the transaction that notes its firing. What was missed while no host was there is made up for
once, by its latest firing, and not more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar

from .records import Fired
from .schedules import Schedule
from .store.schedules import add, fire, register, remove

if TYPE_CHECKING:
    from .clock import Clock, Timer
    from .store.store import Store

P = ParamSpec("P")
T = TypeVar("T")


class Insist(Protocol):
    """Write what must be written, however long the storage fails; None if there is no use in it any longer."""

    async def __call__(
        self, verb: Callable[Concatenate[Store, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T | None: ...


@dataclass(frozen=True, slots=True)
class Occasion:
    """What a timetable needs of whoever runs the workflow."""

    workflow_name: str
    longest_retention_ms: int
    clock: Clock
    insist: Insist
    queued: Callable[[], None]
    spawn: Callable[[Coroutine[Any, Any, None]], object]
    submit: Callable[..., Awaitable[Any]]
    """Write, or raise what keeps that from being stored."""


class Timetable:
    """The schedules of one workflow while its host is alive: one timer for each."""

    def __init__(self, schedules: tuple[Schedule, ...], occasion: Occasion) -> None:
        self._schedules = {(schedule.scope, schedule.name): schedule for schedule in schedules}
        self._occasion = occasion
        self._timers: dict[tuple[str, str], Timer] = {}
        self._opened = asyncio.Event()
        self._closed = False

    async def open(self) -> None:
        """Make up for what was missed, and wait for what is to come."""
        occasion = self._occasion
        known = await occasion.insist(register, occasion.workflow_name, list(self._schedules), occasion.clock.now())
        for each in known or ():
            if each.definition is not None:
                self._schedules[each.scope, each.name] = Schedule.unpack(each.scope, each.definition)
        self._opened.set()
        for each in known or ():
            if (schedule := self._schedules.get((each.scope, each.name))) is not None:
                await self._fire(schedule, each.at)

    async def listed(self, scope: str | None) -> list[Schedule]:
        """Those there are, of one scope or of all."""
        await self._opened.wait()
        return [schedule for schedule in self._schedules.values() if scope in {None, schedule.scope}]

    async def add(self, schedule: Schedule) -> None:
        """From now on it fires, under every host to come, until it is removed. Durable on return."""
        await self._opened.wait()
        occasion, now = self._occasion, self._occasion.clock.now()
        definition = schedule.pack(occasion.longest_retention_ms)
        place = schedule.scope, schedule.name
        await occasion.submit(add, occasion.workflow_name, *place, definition, now)
        self._schedules[place] = Schedule.unpack(schedule.scope, definition)
        await self._fire(self._schedules[place], now)

    async def remove(self, scope: str, name: str) -> None:
        """It fires no more. What it has created goes on."""
        await self._opened.wait()
        await self._occasion.submit(remove, self._occasion.workflow_name, scope, name)
        self._schedules.pop((scope, name), None)
        if (timer := self._timers.pop((scope, name), None)) is not None:
            timer.cancel()

    def close(self) -> None:
        self._closed = True
        self._opened.set()
        for timer in self._timers.values():
            timer.cancel()

    async def _fire(self, schedule: Schedule, seen: int) -> None:
        """Create what is due and was not seen to, and set the timer for the next."""
        occasion, now = self._occasion, self._occasion.clock.now()
        due = schedule.last_until(now)
        if due is not None and due > seen:
            creation = schedule.creation(due, occasion.longest_retention_ms)
            fired = Fired(schedule.cron, due)
            made = await occasion.insist(
                fire, occasion.workflow_name, schedule.scope, schedule.name, creation, fired, now
            )
            seen = due
            if made:
                occasion.queued()
        seen = max(seen, now)
        following = schedule.next_after(seen)
        there = self._schedules.get((schedule.scope, schedule.name)) is schedule
        if following is not None and there and not self._closed:
            timer = occasion.clock.call_at(following, lambda: self._ring(schedule, seen))
            self._timers[schedule.scope, schedule.name] = timer

    def _ring(self, schedule: Schedule, seen: int) -> None:
        if not self._closed:
            self._occasion.spawn(self._fire(schedule, seen))
