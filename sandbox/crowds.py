"""Whether there are many more threads on the machine than a moment ago: one number for all sandboxes, so that while
there are not nobody's are counted.

Where no control group and no user id bounds the threads of each sandbox, one that nobody looks at, since it answers
nothing, could make so many within a second that no process on the machine can fork. Who makes fewer than `MANY` is
found when it is looked at anyway. The number comes in as a function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from .lockdown import kernel

EVERY: Final = 0.05
"""Seconds between two looks, each of which costs some microseconds."""
_SPARING: Final = 4
"""For how many times as long as a look has taken nobody looks again: who lets threads come and go, none of them too
many, could have the host do nothing else than count."""
MANY: Final = 256
"""So many more than there were at least since everybody's were counted."""


class Crowds:
    """`threads` gives how many there are, or raises `OSError` or `ValueError`."""

    def __init__(self, threads: Callable[[], int]) -> None:
        self._threads = threads
        self._least: int | None = None

    def grown(self) -> bool:
        """Whether everybody's are to be counted now. Never where nobody knows the number."""
        try:
            now = self._threads()
        except (OSError, ValueError, IndexError):
            return False
        grown = self._least is not None and now >= self._least + MANY
        if self._least is None or grown or now < self._least:
            self._least = now
        return grown


def pause(took: float) -> float:
    """Seconds until the next look, when the last one, with all that was counted, has taken so many."""
    return max(EVERY, _SPARING * took)


def on_this_machine() -> int:
    """How many there are, of whatever process."""
    return int(kernel.read("/proc/loadavg").split()[3].partition(b"/")[2])
