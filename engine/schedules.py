"""Cron schedules as values: when they fire, by the clocks of a time zone, and what each firing creates.

A firing is an instance whose id is made of the schedule and its time. It knows no clock: when to fire is a timetable's
business.
"""

from __future__ import annotations

import datetime as dt
import zoneinfo
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

from cronsim import CronSim, CronSimError

from cloister.ipc import values

from .errors import InvalidSchedule
from .options import Creation, Retention, read_labels
from .records import Encoded
from .rules import check_name, encode

MAX_SCHEDULES = 100
MAX_EXPRESSION = 256
HOUR_MS = 3_600_000
LONGEST_LOOK_MS = 40 * 366 * 24 * HOUR_MS


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
            zoneinfo.ZoneInfo(self.zone if isinstance(self.zone, str) else "")
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
        checked = Encoded(params, around=len(params))  # when it was added
        return cls(cron, zone=zone, scope=scope, params=checked, labels=labels, retention=retention)

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
