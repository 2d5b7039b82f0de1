"""How long a tenant is left alone with which something went wrong again: twice as long each time. Time comes in.

Used for code that does not load, and for sandboxes that their tenant has brought to an end. What went wrong is not
remembered as an answer: when the time is over, the next call tries anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

import cachetools

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Failure:
    """The last of so many in a row, how much they weigh by now, and the time from which on it may be tried again."""

    error: Exception
    count: int
    weight: int
    until: float


class Backoff(Generic[Key]):
    """Of the `remembered` keys that failed last.

    The first `free` failures in a row cost nothing, the next one `first_s`, the longest wait is `most_s`. One is
    forgiven for each `forgiven_s` that pass without another after it might have been tried again.
    """

    def __init__(
        self, first_s: float, most_s: float, remembered: int, *, free: int = 0, forgiven_s: float = math.inf
    ) -> None:
        self._first, self._most, self._free, self._forgiven = first_s, most_s, free, forgiven_s
        self._failures: cachetools.LRUCache[Key, Failure] = cachetools.LRUCache(remembered)

    def __len__(self) -> int:
        return len(self._failures)

    def failed(self, key: Key, error: Exception, now: float, *, free: int | None = None) -> None:
        """One more, for which another number of those may be free."""
        before = self._failures.get(key)
        weight = 0 if before is None else self._left(before, now)
        count = before.count if before is not None and weight else 0
        delay = self._delay(weight + 1 - (self._free if free is None else free))
        if delay < self._most or not weight:  # beyond, it would take the longer to be forgiven and change nothing else
            weight += 1
        self._failures[key] = Failure(error, count + 1, weight, now + delay)

    def last(self, key: Key) -> Failure | None:
        """The failure after which nothing has been heard of the key."""
        return self._failures.get(key) if self._failures else None

    def waiting(self, now: float) -> int:
        """How many may not be tried again yet."""
        return sum(failure.until > now for failure in self._failures.values())

    def forget(self, key: Key) -> None:
        """All is well with it."""
        self._failures.pop(key, None)

    def forget_all(self, which: Callable[[Key], bool]) -> None:
        """There is reason to try these again at once."""
        for key in [key for key in self._failures if which(key)]:
            del self._failures[key]

    def _left(self, failure: Failure, now: float) -> int:
        """What it weighs still, after quiet."""
        return max(failure.weight - int(max(now - failure.until, 0.0) / self._forgiven), 0)

    def _delay(self, beyond: int) -> float:
        return min(self._first * 2.0 ** min(beyond - 1, 64), self._most) if beyond > 0 else 0.0
