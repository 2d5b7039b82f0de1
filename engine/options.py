"""What an instance is created with, as a caller writes it, checked at the border and turned into a value."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from cloister.ipc import values

from .attempt import current_attempt
from .durations import LONGEST_MS, milliseconds
from .errors import InvalidLabels, InvalidRetention
from .records import PinnedCode
from .rules import check_id, encode, is_name
from .store.codes import Packed

MAX_LABELS = 16
MAX_LABEL_NAME = 64
IDS_AT_ONCE = 64
DAY_MS = 86_400_000
LONGEST_RETENTION_MS = 30 * DAY_MS
"""What one instance may ask for. A workflow's own retention may be longer, and then its instances' as well."""

_NO_PARAMS = values.dumps({})
_SPELLINGS = {"success_retention": "success", "successRetention": "success"}
_SPELLINGS |= {"error_retention": "error", "errorRetention": "error"}


@dataclass(frozen=True, slots=True)
class Retention:
    """How long an instance is kept after its end, in milliseconds; None where its workflow decides."""

    success_ms: int | None = None
    error_ms: int | None = None

    @classmethod
    def read(cls, value: object, *, longest_ms: int) -> Retention:
        """A duration for both, or a dict of `success_retention` and `error_retention` (camel case too)."""
        if value is None:
            return _UNSAID
        if not isinstance(value, Mapping):
            both = _keep(value, "retention", longest_ms)
            return cls(both, both)
        found: dict[str, int] = {}
        for key, duration in value.items():
            if key not in _SPELLINGS:
                raise InvalidRetention(f"{key!r:.40} is no key of a retention; known are {sorted(_SPELLINGS)}")
            found[_SPELLINGS[key]] = _keep(duration, key, longest_ms)
        return cls(found.get("success"), found.get("error"))

    @classmethod
    def of_workflow(cls, value: object) -> Retention:
        """What instances have that say nothing themselves."""
        if value == "forever":
            return cls()
        given = cls.read(value, longest_ms=LONGEST_MS)
        return cls(
            DEFAULT_RETENTION.success_ms if given.success_ms is None else given.success_ms,
            DEFAULT_RETENTION.error_ms if given.error_ms is None else given.error_ms,
        )

    def longest_ms(self) -> int:
        """What one of a workflow's instances may ask for."""
        if None in (self.success_ms, self.error_ms):
            return LONGEST_MS
        return max(LONGEST_RETENTION_MS, self.success_ms or 0, self.error_ms or 0)


CREATION: Final = ("id", "params", "retention", "labels")
_UNSAID = Retention()
DEFAULT_RETENTION = Retention(7 * DAY_MS, 7 * DAY_MS)


class Creation(NamedTuple):
    """An instance to be created."""

    id: str
    params: bytes
    retention: Retention = Retention()
    labels: tuple[tuple[str, str], ...] = ()
    derived: bool = False
    """The id follows from the step that creates it, so that it may exist already from an earlier attempt."""
    code: PinnedCode | Packed | None = None
    """What it is tied to from the beginning; else to what it is first run with."""

    @classmethod
    def read(
        cls, options: object, *, longest_ms: int = LONGEST_RETENTION_MS, code: PinnedCode | Packed | None = None
    ) -> Creation:
        """From a dict of `id`, `params`, `retention` and `labels`. Other keys are ignored, as everywhere else."""
        if type(options) is not dict and not isinstance(options, Mapping):
            raise TypeError(f"the options of an instance are a dict, not {type(options).__name__}")
        given, attempt = options.get("id"), current_attempt()
        derived = given is None and attempt is not None
        name = check_id(given) if given is not None else _ids.next() if attempt is None else attempt.derived_id()
        return cls(
            name,
            encode(options["params"], "the params") if "params" in options else _NO_PARAMS,
            Retention.read(options.get("retention"), longest_ms=longest_ms),
            read_labels(options.get("labels")),
            derived,
            code,
        )


def together(
    options: object, named: Mapping[str, Any], known: Iterable[str] = CREATION, *, what: str = "create()"
) -> dict[str, Any]:
    """Options of a dict, whose other keys are ignored, and those given by name: `TypeError` unless they are `known`."""
    if options is not None and not isinstance(options, Mapping):
        raise TypeError(f"{what} takes a dict of options, or options by name, not {type(options).__name__}")
    if named and (strange := named.keys() - set(known)):
        raise TypeError(f"{what} has no option {min(strange)!r}; there are {', '.join(known)}")
    return {**(options or {}), **named}


class _Ids:
    """Random UUIDs, whose randomness is fetched for many at once: each fetch lets another thread go first."""

    def __init__(self) -> None:
        self._left = ""

    def next(self) -> str:
        if not self._left:
            self._left = os.urandom(16 * IDS_AT_ONCE).hex()
        digits, self._left = self._left[:32], self._left[32:]
        variant = "89ab"[int(digits[16], 16) & 3]
        return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


_ids = _Ids()


def read_labels(value: Any) -> tuple[tuple[str, str], ...]:
    """At most 16 names of 64 characters, each with one text of 256, none with control characters."""
    if value is None:
        return ()
    if not isinstance(value, Mapping):
        raise InvalidLabels(f"labels are a dict of names and texts, not {type(value).__name__}")
    if len(value) > MAX_LABELS:
        raise InvalidLabels(f"{len(value)} labels; an instance has at most {MAX_LABELS}")
    for name, text in value.items():
        if not is_name(name) or not 1 <= len(name) <= MAX_LABEL_NAME:
            raise InvalidLabels(f"label {name!r:.80} is not a name of 1 to {MAX_LABEL_NAME} characters")
        if not is_name(text):
            raise InvalidLabels(f"label {name!r} is {text!r:.80}, not text of at most 256 characters")
    return tuple(sorted(value.items()))


def _keep(value: object, what: str, longest_ms: int) -> int:
    kept = milliseconds(value, what=f"`{what}`")
    if kept > longest_ms:
        raise InvalidRetention(f"`{what}` is {kept:,} ms; instances are kept for at most {longest_ms:,} ms here")
    return kept
