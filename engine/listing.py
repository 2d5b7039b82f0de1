"""Asking for many instances: what to look for, what is told of each, and the place where the next page begins.

A cursor is a place in the order of creation. It holds no authority: whoever uses it still sees its own scope only.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .errors import InvalidCursor
from .options import read_labels
from .records import Status

MAX_PAGE = 1_000
DEFAULT_PAGE = 100

FILTERS = ("status", "labels", "created_from", "created_before")

_PREFIX = b"i"


@dataclass(frozen=True, slots=True)
class Query:
    """Which instances: all that every given filter fits. `scope` None means every scope."""

    scope: str | None = None
    statuses: frozenset[Status] = frozenset()
    labels: tuple[tuple[str, str], ...] = ()
    created_from: int | None = None
    created_before: int | None = None
    before: int | None = None
    """Only instances with lower numbers."""

    @classmethod
    def read(
        cls,
        scope: str | None,
        *,
        status: object = None,
        labels: object = None,
        created_from: object = None,
        created_before: object = None,
        cursor: object = None,
        **strange: object,
    ) -> Query:
        """From what a caller gives: one status or several, a dict of labels, `datetime`s or milliseconds."""
        if strange:
            raise TypeError(f"{min(strange)!r:.80} is no filter; there are {', '.join(FILTERS)}")
        return cls(
            scope,
            _statuses(status),
            read_labels(labels),
            _moment(created_from, "created_from"),
            _moment(created_before, "created_before"),
            _place(cursor),
        )

    def beyond(self, number: int) -> Query:
        """The same for what is older than this one."""
        return replace(self, before=number)


@dataclass(frozen=True, slots=True)
class Summary:
    """One line of a list; times are in milliseconds."""

    id: str
    scope: str
    status: Status
    run: int
    created: int
    started: int | None
    ended: int | None
    labels: Mapping[str, str]

    def plain(self) -> dict[str, Any]:
        """As a dict, for those who must not learn of scopes."""
        return {
            "id": self.id,
            "status": self.status.value,
            "run": self.run,
            "created": self.created,
            "started": self.started,
            "ended": self.ended,
            "labels": dict(self.labels),
        }


@dataclass(frozen=True, slots=True)
class Page:
    """Newest first. `cursor` asks for the next page; None when there is none."""

    instances: tuple[Summary, ...]
    cursor: str | None


def cursor_after(number: int) -> str:
    return base64.urlsafe_b64encode(_PREFIX + number.to_bytes(8, "big")).decode().rstrip("=")


def page_size(limit: object) -> int:
    if type(limit) is not int or not 1 <= limit <= MAX_PAGE:
        raise ValueError(f"a page has 1 to {MAX_PAGE} instances, not {limit!r:.40}")
    return limit


def _place(cursor: object) -> int | None:
    if cursor is None:
        return None
    try:
        if not isinstance(cursor, str) or len(cursor) > 64:
            raise ValueError
        data = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    except (binascii.Error, ValueError):
        data = b""
    if len(data) != 9 or data[:1] != _PREFIX or data[1] > 127:
        raise InvalidCursor
    return int.from_bytes(data[1:], "big")


def _statuses(status: object) -> frozenset[Status]:
    if status is None:
        return frozenset()
    if not isinstance(status, Iterable):
        raise TypeError(f"a status is text, or several of them, not {type(status).__name__}")
    given = [status] if isinstance(status, str) else list(status)
    if strange := [item for item in given if item not in list(Status)]:
        raise ValueError(f"{strange[0]!r:.80} names no status; there are {', '.join(Status)}")
    named = frozenset(map(Status, given))
    if not named:  # to which every instance would fit
        raise ValueError("`status` names none; give one at least, or leave it out to mean all of them")
    return named


def _moment(value: object, what: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, dt.datetime):
        aware = value if value.tzinfo else value.replace(tzinfo=dt.UTC)
        return int(aware.timestamp() * 1000)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 2**53:
        raise TypeError(f"`{what}` is a datetime or milliseconds since the epoch, not {value!r:.40}")
    return int(value)
