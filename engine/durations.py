"""Durations and points in time as a workflow author writes them, as whole milliseconds, rounded so as never
to be early.
"""

from __future__ import annotations

import datetime as dt
import math
import re

from .errors import InvalidDuration, MomentTooFar

LONGEST_MS = 365 * 24 * 3_600_000

_UNITS = {"millisecond": 1, "second": 1_000, "minute": 60_000, "hour": 3_600_000, "day": 86_400_000}
_UNITS |= {"week": 7 * 86_400_000, "month": 30 * 86_400_000, "year": 365 * 86_400_000}
_TEXT = re.compile(r"\s*(\d{1,15}(?:\.\d{1,9})?)\s*(" + "|".join(_UNITS) + r")s?\s*", re.ASCII)


def milliseconds(value: object, *, what: str = "duration") -> int:
    """A number is milliseconds; text has one number and one unit, "90 seconds"; `timedelta` is itself."""
    match value:
        case bool():
            pass
        case int() | float() if 0 <= value <= LONGEST_MS:  # also refuses NaN and infinity
            return math.ceil(value)
        case dt.timedelta() if 0 <= value.total_seconds() * 1000 <= LONGEST_MS:
            return math.ceil(value.total_seconds() * 1000)
        case str() if found := _TEXT.fullmatch(value):
            amount = float(found[1]) * _UNITS[found[2]]
            if amount <= LONGEST_MS:
                return math.ceil(amount)
    raise InvalidDuration(f'{what} {value!r:.80} is neither milliseconds nor text such as "10 seconds", up to 365 days')


def moment(value: object, now: int) -> int:
    """A `datetime` (naive means this host's zone) or milliseconds since the epoch. One that has passed is as good as
    another: whether it has when it is asked for depends on how long the instance was kept waiting before.
    """
    match value:
        case bool():
            when = None
        case dt.datetime():
            when = math.ceil(value.timestamp() * 1000)
        case int() | float() if math.isfinite(value):
            when = math.ceil(value)
        case _:
            when = None
    if when is None:
        raise InvalidDuration(f"{value!r:.80} is no point in time: a datetime, or milliseconds since the epoch")
    if when - now > LONGEST_MS:
        raise MomentTooFar(f"cannot sleep until {value!s:.80}: that is more than 365 days ahead")
    return when
