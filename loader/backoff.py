"""How long a tenant whose code did not load is left alone: twice as long after each failure. No clock: time comes in.

A failure is not remembered as an answer: when the time is over, the next call loads anew.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

import cachetools

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Failure:
    """The last of so many in a row, and the time from which on it may be tried again."""

    error: Exception
    count: int
    until: float


class Backoff(Generic[Key]):
    """Of the `remembered` keys that failed last."""

    def __init__(self, first_s: float, most_s: float, remembered: int) -> None:
        self._first, self._most = first_s, most_s
        self._failures: cachetools.LRUCache[Key, Failure] = cachetools.LRUCache(remembered)

    def __len__(self) -> int:
        return len(self._failures)

    def failed(self, key: Key, error: Exception, now: float, *, free: int = 0) -> None:
        """One more. The first so many in a row cost nothing."""
        before = self._failures.get(key)
        count = 1 if before is None else before.count + 1
        delay = min(self._first * 2.0 ** min(count - 1, 64), self._most) if count > free else 0.0
        self._failures[key] = Failure(error, count, now + delay)

    def last(self, key: Key) -> Failure | None:
        """The failure after which the key has not been loaded again."""
        return self._failures.get(key) if self._failures else None

    def forget(self, key: Key) -> None:
        """It has been loaded."""
        self._failures.pop(key, None)

    def forget_all(self, which: Callable[[Key], bool]) -> None:
        """There is reason to try these again at once."""
        for key in [key for key in self._failures if which(key)]:
            del self._failures[key]
