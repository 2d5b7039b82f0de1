"""How much may come in a second: a bucket that fills as time passes, and is emptied by what arrives."""

from __future__ import annotations

from collections.abc import Callable


class Meter:
    """Fills at `rate` a second, holds `most` (what comes in a second, unless another number is given), and is full at
    first."""

    __slots__ = ("_left", "_most", "_now", "_seen", "rate")

    def __init__(self, rate: float, now: Callable[[], float], *, most: float | None = None) -> None:
        self._now, self._seen, self._left, self._most = now, 0.0, 0.0, 0.0
        self.reset(rate, most=most)

    def take(self, amount: float) -> bool:
        """Take some out. False, and nothing is taken, if there is not as much."""
        if amount > self._left and amount > self.refill():
            return False
        self._left -= amount
        return True

    def draw(self, amount: float) -> float:
        """Take some out whether it is there or not: seconds until what was lacking has come, 0 if nothing was."""
        if amount > self._left:
            self.refill()
        self._left -= amount
        return -self._left / self.rate if self._left < 0 else 0.0

    def refill(self) -> float:
        """How much there is in it by now. `take` asks only when it is short, and too much would have come by then."""
        now = self._now()
        self._left = min(self._left + (now - self._seen) * self.rate, self._most)
        self._seen = now
        return self._left

    def reset(self, rate: float, *, most: float | None = None) -> None:
        """Go on at another rate, with a full bucket."""
        self.rate = rate
        self._left = self._most = rate if most is None else most
        self._seen = self._now()
