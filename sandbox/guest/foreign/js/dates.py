"""Moments."""

from __future__ import annotations

import datetime
import time
from typing import Any


class Date(datetime.datetime):
    """A moment, in UTC."""

    @classmethod
    def new(cls, given: Any = None, *rest: Any) -> Date:
        """Now, or of milliseconds since 1970, of a text, or of year, month from 0, day and so on."""
        if given is None:
            given = cls._now()
        if isinstance(given, str):
            given = datetime.datetime.fromisoformat(given)
            given = given if given.tzinfo else given.replace(tzinfo=datetime.UTC)
        if isinstance(given, datetime.datetime):
            return cls.fromtimestamp(given.timestamp(), datetime.UTC)
        if rest:
            month, *more = rest
            day, hour, minute, second, ms = (more[at] if at < len(more) else at == 0 for at in range(5))
            return cls(given, month + 1, int(day), int(hour), int(minute), int(second), int(ms) * 1000, datetime.UTC)
        return cls.fromtimestamp(given / 1000, datetime.UTC)

    @staticmethod
    def _now() -> int:
        return time.time_ns() // 1_000_000

    def getTime(self) -> int:  # noqa: N802
        """Milliseconds since 1970."""
        return round(self.timestamp() * 1000)

    valueOf = getTime  # noqa: N815

    def toISOString(self) -> str:  # noqa: N802
        """As `2026-01-02T03:04:05.678Z`."""
        return f"{self.replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"

    toJSON = toISOString  # noqa: N815

    def getFullYear(self) -> int:  # noqa: N802
        """The year."""
        return self.year

    @staticmethod
    def parse(text: str) -> int:
        """Milliseconds since 1970 of a text."""
        return Date.new(text).getTime()


setattr(Date, "now", staticmethod(Date._now))  # noqa: B010 - which datetime has of another kind
