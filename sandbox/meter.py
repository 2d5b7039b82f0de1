"""How much may come in a second: a bucket that fills as time passes, and is emptied by what arrives."""

from __future__ import annotations

from collections.abc import Callable


class Meter:
    """Holds as much as comes in a second at `rate`, and is full at first."""

    __slots__ = ("_left", "_now", "_seen", "rate")

    def __init__(self, rate: float, now: Callable[[], float]) -> None:
        self.rate = rate
        self._now = now
        self._left = rate
        self._seen = now()

    def take(self, amount: float) -> bool:
        """Take some out. False, and nothing is taken, if there is not as much."""
        if amount > self._left and amount > self.refill():
            return False
        self._left -= amount
        return True

    def refill(self) -> float:
        """How much there is in it by now. `take` asks only when it is short, and too much would have come by then."""
        now = self._now()
        self._left = min(self._left + (now - self._seen) * self.rate, self.rate)
        self._seen = now
        return self._left

    def reset(self, rate: float) -> None:
        """Go on at another rate, with a full bucket."""
        self.rate = self._left = rate
        self._seen = self._now()
