"""Cron schedules: when they fire, and that each firing creates one instance.

A firing is an instance whose id is made of the schedule and its time, created in the transaction that notes the firing.
What was missed while no host was there is made up for once, by its latest firing, and not more.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import zoneinfo
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar

from cronsim import CronSim, CronSimError

from cloister.ipc import values

from .errors import InvalidSchedule
from .options import Creation, Retention, read_labels
from .records import Encoded, Fired
from .rules import check_name, encode
from .store_schedules import add, fire, register, remove

if TYPE_CHECKING:
    from .clock import Clock, Timer
    from .store import Store

MAX_SCHEDULES = 100
MAX_EXPRESSION = 256
HOUR_MS = 3_600_000
LONGEST_LOOK_MS = 40 * 366 * 24 * HOUR_MS

P = ParamSpec("P")
T = TypeVar("T")


class _Clock(CronSim):
    """Goes from one full hour to the next by the clocks as they then stand, and so past a change of half an hour. The
    library adds an hour each time, and would come to rest on the half."""

    def advance_hour(self) -> bool:
        if self.dt.hour in self.hours:
            return False
        while self.dt.hour not in self.hours:
            self.tick(seconds=3600 - 60 * self.dt.minute - self.dt.second)
            if self.dt.hour == 0:
                break
        return True


@dataclass(frozen=True, slots=True)
class Schedule:
    """A cron expression of five fields and its time zone, and what its instances are created with.

    It goes by the clocks of its zone: a time that is skipped when they are set forward fires right afterwards, and one
    that comes twice fires once, unless the hour or the minute is `*`. Raises `InvalidSchedule`.
    """

    cron: str
    _: KW_ONLY
    zone: str = "UTC"
    scope: str = ""
    params: Any = None
    labels: Mapping[str, str] | None = None
    retention: Any = None

    def __post_init__(self) -> None:
        if not isinstance(self.cron, str) or len(self.cron) > MAX_EXPRESSION or len(self.cron.split()) != 5:
            raise InvalidSchedule(
                f"{self.cron!r:.80} is not a cron expression: minute, hour, day of the month, month, day of the week"
            )
        try:
            CronSim(self.cron, dt.datetime.now(dt.UTC))
        except CronSimError as error:
            raise InvalidSchedule(f"{self.cron!r:.80} is no cron expression: {error}") from None
        try:
            zoneinfo.ZoneInfo(self.zone)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, TypeError, OSError):
            raise InvalidSchedule(
                f"{self.zone!r:.80} is no time zone that this machine knows (its name? is the package tzdata there?)"
            ) from None
        check_name(self.scope, what="scope")

    @property
    def name(self) -> str:
        """What it is known by, in ids and in the store."""
        return self.cron if self.zone == "UTC" else f"{self.cron} {self.zone}"

    def next_after(self, moment: int) -> int | None:
        """The first firing later than this; None if there is none within decades. Milliseconds since the epoch."""
        return next(self._firings(moment), None)

    def last_until(self, moment: int) -> int | None:
        """The latest firing at this moment or before it, None if there was none for decades.

        Found by looking forwards from further and further back: going backwards, the hour that comes twice is lost.
        """
        back = HOUR_MS
        while back < LONGEST_LOOK_MS:
            if (last := self._last_between(moment - back, moment)) is not None:
                return last
            back *= 8
        return None

    def _last_between(self, begin: int, end: int) -> int | None:
        last = None
        for firing in self._firings(begin):
            if firing > end:
                break
            last = firing
        return last

    def _firings(self, moment: int) -> Iterator[int]:
        when = dt.datetime.fromtimestamp(moment // 1000, zoneinfo.ZoneInfo(self.zone))
        for firing in _Clock(self.cron, when):
            yield int(firing.timestamp() * 1000)

    def pack(self, longest_ms: int) -> bytes:
        """What is to be kept of one that is added; whatever is wrong with it is said now."""
        creation = self.creation(0, longest_ms)
        kept = [creation.retention.success_ms, creation.retention.error_ms]
        return values.dumps([self.cron, self.zone, creation.params, dict(creation.labels), kept])

    @classmethod
    def unpack(cls, scope: str, data: bytes) -> Schedule:
        """The same again."""
        cron, zone, params, labels, kept = values.loads(data, trusted=True)
        spelled = zip(("success_retention", "error_retention"), kept, strict=True)
        retention = {name: value for name, value in spelled if value is not None}
        return cls(cron, zone=zone, scope=scope, params=Encoded(params), labels=labels, retention=retention)

    def creation(self, moment: int, longest_ms: int) -> Creation:
        """The instance of one firing."""
        return Creation(
            f"{self.name} {moment}",
            encode({} if self.params is None else self.params, "the params"),
            Retention.read(self.retention, longest_ms=longest_ms),
            read_labels(self.labels),
        )


def read_schedules(given: object) -> tuple[Schedule, ...]:
    """One schedule or several; text is an expression in UTC. Two of one scope may not have the same name."""
    listed = [given] if isinstance(given, str | Schedule) else given
    if not isinstance(listed, Sequence):
        raise TypeError(f"schedules are a list of `Schedule`s and expressions, not {type(given).__name__}")
    found = tuple(item if isinstance(item, Schedule) else Schedule(item) for item in listed)
    if len(found) > MAX_SCHEDULES:
        raise InvalidSchedule(f"{len(found)} schedules; a workflow has at most {MAX_SCHEDULES}")
    names = [(schedule.scope, schedule.name) for schedule in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InvalidSchedule(f"{twice[0][1]!r} is there twice, so its instances would have the same ids")
    return found


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
