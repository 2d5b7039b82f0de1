"""How many blank sandboxes to keep, from how they have been taken of late. No clock and no process: time comes in.

As many as have been taken within a moment may be taken within the next one, so the number follows a burst at once. It
comes down slowly: a spare that waits costs memory and nothing else, and bursts come in rows.
"""

from __future__ import annotations

import math
import os
from typing import Final

MOMENT: Final = 0.5
"""Seconds, about, within which takes are counted together. A spare takes some milliseconds to make."""
HALF_LIFE: Final = 10.0
"""Seconds in which the number falls by half when nobody takes any."""
_PER_CORE: Final = 16
_PART_OF_MEMORY: Final = 64
_WEIGHT: Final = 2 << 20  # of a spare, in bytes, generously


class Demand:
    """Between `least`, which are kept in any case, and `most`. With a `least` of 0 there are never any."""

    def __init__(self, least: int, most: int) -> None:
        self._least = least
        self._most = max(least, most) if least else 0
        self._lately = self._peak = 0.0
        self._seen = -math.inf

    def taken(self, now: float) -> None:
        """One was taken, or was wanted and not there."""
        self._pass(now)
        self._lately += 1
        self._peak = max(self._peak, self._lately)

    def wanted(self, now: float) -> int:
        """How many there should be."""
        self._pass(now)
        return max(self._least, min(round(self._peak), self._most))

    def _pass(self, now: float) -> None:
        elapsed = max(now - self._seen, 0.0)
        self._seen = max(now, self._seen)
        self._lately *= math.exp(-elapsed / MOMENT)
        self._peak *= 0.5 ** (elapsed / HALF_LIFE)


def most_here() -> int:
    """What this machine can well have waiting: sixteen for each core, in no more than a 64th of its memory."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1, min(_PER_CORE * (os.cpu_count() or 1), memory // _PART_OF_MEMORY // _WEIGHT))
