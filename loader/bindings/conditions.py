"""What an object has to be for something to be done about it: tags and times, as a map, or as a request's headers."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Final

from . import options as given

_NAMES: Final = "etag_matches etag_does_not_match uploaded_before uploaded_after seconds_granularity"
_HEADERS: Final = {
    "if-match": "etag_matches", "if-none-match": "etag_does_not_match",
    "if-unmodified-since": "uploaded_before", "if-modified-since": "uploaded_after",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """Tags of which it has one, or none, and seconds since 1970 before or after which it was put there."""

    etag_matches: frozenset[str] | None = None
    etag_does_not_match: frozenset[str] | None = None
    uploaded_before: float | None = None
    uploaded_after: float | None = None
    seconds_granularity: bool = False
    """Whether parts of seconds do not count, as in the dates of HTTP."""

    def holds(self, etag: str | None, uploaded: float | None) -> bool:
        """Of the object that is there, or of none."""
        if self.seconds_granularity and uploaded is not None:
            uploaded = math.floor(uploaded)
        if self.etag_matches is not None and not _among(etag, self.etag_matches):
            return False
        if self.etag_does_not_match is not None and _among(etag, self.etag_does_not_match):
            return False
        if self.uploaded_before is not None and not (uploaded is not None and uploaded <= self.uploaded_before):
            return False
        return self.uploaded_after is None or (uploaded is not None and uploaded > self.uploaded_after)


ANY: Final = Condition()


def read(only_if: object) -> Condition:
    """What was given. `TypeError`, `ValueError`."""
    if (told := given.headers(only_if)) is not None:
        only_if = _of_headers(told)
    found = given.options(only_if, {}, _NAMES, "only_if")
    return Condition(**{name: _READ[name](value) for name, value in found.items()})


def _of_headers(told: Mapping[str, str]) -> dict[str, Any]:
    """Dates that are none do not count, as HTTP has it: they are a client's, and the tenant cannot help them."""
    found: dict[str, Any] = {"seconds_granularity": True}
    for header, name in _HEADERS.items():
        if header in told and (name.startswith("etag") or _date(told[header]) is not None):
            found[name] = told[header]
    if "etag_does_not_match" in found:  # beside which HTTP has this one not count
        found.pop("uploaded_after", None)
    if "etag_matches" in found:
        found.pop("uploaded_before", None)
    return found


def _tags(value: object) -> frozenset[str]:
    tags = value.split(",") if isinstance(value, str) else value
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise TypeError(f"an etag is text, or a list of them, not {value!r:.80}")
    return frozenset(tag.strip().removeprefix("W/").strip('"') for tag in tags)


def _moment(value: object) -> float:
    if isinstance(value, str):
        value = _date(value)
    if not isinstance(value, datetime.datetime):
        raise TypeError("uploaded_before and uploaded_after are datetimes, or dates of HTTP")
    return (value if value.tzinfo else value.replace(tzinfo=datetime.UTC)).timestamp()


def _date(text: str) -> datetime.datetime | None:
    try:
        return parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None


_READ: Final[dict[str, Callable[[object], Any]]] = {
    "etag_matches": _tags, "etag_does_not_match": _tags, "uploaded_before": _moment, "uploaded_after": _moment,
    "seconds_granularity": bool,
}  # fmt: skip


def _among(etag: str | None, tags: frozenset[str]) -> bool:
    return etag is not None and (etag in tags or "*" in tags)
