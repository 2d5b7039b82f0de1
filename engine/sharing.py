"""Who gets the next slot, and who may create how much: the rules between the scopes of one workflow.

Pure: what is queued, what is running and what time it is come in as arguments.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from .errors import CreationRateExceeded
from .rules import MAX_STEPS, MOST_STEPS

T = TypeVar("T")

_FEW_BUCKETS = 1_024


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowLimits:
    """What each scope of a workflow may take; None is no limit.

    `concurrency_per_scope`: instances that run at once. `creates_per_second`: instances that are created or restarted,
    on average; `creates_at_once`: how many of them may come together, at least 100 or a second's worth by default.
    `queued_per_scope`: instances that wait for their first run, a million by default; `queued`: of all scopes together,
    two millions. Those that sleep, wait or are paused are not counted, and what exists may always begin anew.
    `bytes_per_scope`: what a scope may store at most, in bytes, of all its instances together; counted only if it is
    given. That a step has failed (in a few words), sleeps, waits or awaits may take an eighth more. What ends, ends all
    the same, so that there may be an output more for each that runs.
    `steps`: how many of a kind one run may have, 10,000 by default and 25,000 at most.
    `weights`: scope to its share of the slots when they are scarce, 1 by default. It is looked at whenever slots are
    given away, so it may change at any time.
    """

    concurrency_per_scope: int | None = None
    creates_per_second: float | None = None
    creates_at_once: int | None = None
    queued_per_scope: int | None = 1_000_000
    queued: int | None = 2_000_000
    bytes_per_scope: int | None = None
    steps: int = MAX_STEPS
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("concurrency_per_scope", "creates_at_once", "queued_per_scope", "queued", "bytes_per_scope"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"`{name}` is a whole number from 1, or None; not {value!r:.40}")
        if type(self.steps) is not int or not 1 <= self.steps <= MOST_STEPS:
            raise ValueError(f"`steps` is a whole number from 1 to {MOST_STEPS:,}, not {self.steps!r:.40}")
        rate = self.creates_per_second
        if rate is not None and (isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < 1e9):
            raise ValueError(f"`creates_per_second` is a number above 0, or None; not {rate!r:.40}")
        if not isinstance(self.weights, Mapping):
            raise TypeError("`weights` is a mapping of scopes to numbers")

    def full(self, busy: int) -> bool:
        """Whether a scope with so many running instances has to wait."""
        return self.concurrency_per_scope is not None and busy >= self.concurrency_per_scope

    def weight(self, scope: str) -> float:
        weight = self.weights.get(scope, 1)
        return weight if isinstance(weight, int | float) and 0 < weight < math.inf else 1


@dataclass(frozen=True, slots=True)
class Turn:
    """What there is to give away, and to whom it went last."""

    slots: int
    busy: Mapping[str, int]
    """Running instances of each scope that has any."""
    limits: WorkflowLimits
    after: str | None = None


@dataclass(frozen=True, slots=True)
class Shares(Generic[T]):
    """What came of a turn."""

    given: list[T]
    last: str | None
    """The scope that got the last slot."""
    more: bool
    """Whether others could have had a slot, had there been one."""
    held: list[str]
    """Scopes that have more queued, and now all that they may running."""


def share(turn: Turn, scopes: Iterable[str], next_of: Callable[[str], T | None]) -> Shares[T]:
    """Give each slot to the scope that has the fewest running for its weight; among equals, in order.

    `next_of` gives the next that a scope has queued, None when there is none.
    """
    busy = Counter(turn.busy)
    given: list[T] = []
    held: list[str] = []
    last = turn.after
    line = [((busy[scope] + 1) / turn.limits.weight(scope), place, scope) for place, scope in enumerate(scopes)]
    heapq.heapify(line)
    while line:
        _, place, scope = heapq.heappop(line)
        if (item := next_of(scope)) is None:
            continue
        if turn.limits.full(busy[scope]):
            held.append(scope)
            continue
        if len(given) == turn.slots:
            return Shares(given, last, True, held)
        given.append(item)
        last = scope
        busy[scope] += 1
        heapq.heappush(line, ((busy[scope] + 1) / turn.limits.weight(scope), place, scope))
    return Shares(given, last, False, held)


class Allowance:
    """How much each scope may create: a bucket that fills with time, and that each creation takes from."""

    def __init__(self, limits: WorkflowLimits) -> None:
        self._rate = limits.creates_per_second
        self._most = float(limits.creates_at_once or max(100, math.ceil(self._rate or 0)))
        self._buckets: dict[str, tuple[float, int]] = {}
        self._many = _FEW_BUCKETS

    def take(self, scope: str, count: int, now: int) -> None:
        """Take so many, or nothing and raise `CreationRateExceeded`."""
        if self._rate is None:
            return
        left = self._left(scope, now)
        self._buckets[scope] = (left, now)  # so that a clock that was set back counts from here
        if count > self._most:
            raise CreationRateExceeded(
                f"{count} instances at once are more than this scope may ever create together ({self._most:,.0f})"
            )
        if left < count:
            wait = math.ceil((count - left) / self._rate * 1000)
            raise CreationRateExceeded(
                f"this scope creates more than {self._rate:g} instances a second; try again in {wait:,} ms",
                retry_after_ms=wait,
            )
        self._buckets[scope] = (left - count, now)
        if len(self._buckets) > self._many:
            self._forget(now)
            self._many = max(_FEW_BUCKETS, 2 * len(self._buckets))

    def _left(self, scope: str, now: int) -> float:
        left, since = self._buckets.get(scope, (self._most, now))
        return min(self._most, left + max(0, now - since) / 1000 * (self._rate or 0))

    def _forget(self, now: int) -> None:
        """A full bucket is as good as none."""
        self._buckets = {scope: kept for scope, kept in self._buckets.items() if self._left(scope, now) < self._most}
