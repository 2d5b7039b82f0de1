"""Whether anybody at all has computed of late: one number for all sandboxes, so that while all rest none is looked at.

The kernel counts the CPU time of the host's control group, sandboxes and zygotes included. What the host itself has not
used of it, all of them together have used at most. A number that does not grow as the host computes counts something
else, and is not believed; where there is none, everybody may have computed. Both numbers come in as functions.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

LITTLE: Final = 0.1
"""Seconds of CPU of all together that no sandbox is looked at for."""
_MEANWHILE: Final = 0.001
"""Seconds by which the two may differ, since they are read one after the other."""


class Stir:
    """`everybody` gives the seconds of CPU of all, or raises `OSError`, and `own` those of this process among them."""

    def __init__(self, everybody: Callable[[], float], own: Callable[[], float] = time.process_time) -> None:
        self._everybody, self._own = everybody, own
        self._before: tuple[float, float] | None = None

    def any(self) -> bool:
        """Whether more than a little may have been computed since this was last true."""
        try:
            own, everybody = self._own(), self._everybody()
        except (OSError, ValueError):
            return True
        if self._before is not None:
            mine = own - self._before[0]
            others = everybody - self._before[1] - mine
            if -_MEANWHILE < others < LITTLE:
                return False
        self._before = own, everybody
        return True
