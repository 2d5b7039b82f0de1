"""Times at which somebody wants to look, so many of them far off and most of them for nothing: those share a timer.

A sandbox has such times after each call: the earliest at which its limits could be crossed. A timer for each would wake
a host that has nothing to do once more for each of its sandboxes. Far ones ring with all others of their second, at its
beginning: a little early, and whoever is still concerned asks again.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Final, Protocol

FAR: Final = 5.0
"""Seconds."""


class Timer(Protocol):
    """What is given for a call to come."""

    def cancel(self) -> None:
        """Never mind."""


class _Far:
    """One that shares its second's timer."""

    __slots__ = ("_all", "ring")

    def __init__(self, ring: Callable[[], None], all_of_them: dict[_Far, None]) -> None:
        self.ring, self._all = ring, all_of_them
        all_of_them[self] = None

    def cancel(self) -> None:
        """See `Timer`."""
        self._all.pop(self, None)


class Alarms:
    """Of one loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.now = loop.time
        """The time. Whoever keeps this very method, as thousands do, takes none of its own."""
        self._far: dict[int, dict[_Far, None]] = {}

    def call_at(self, when: float, ring: Callable[[], None]) -> Timer:
        """Call it then; one that is far off, up to a second before."""
        if when - self.now() < FAR:
            return self._loop.call_at(when, ring)
        second = int(when)
        if (together := self._far.get(second)) is None:
            together = self._far[second] = {}
            self._loop.call_at(second, self._ring, second, context=contextvars.Context())  # it is part of no request
        return _Far(ring, together)

    def _ring(self, second: int) -> None:
        together = self._far.pop(second)
        while together:
            try:
                together.popitem()[0].ring()
            except Exception as error:  # noqa: BLE001 - the others ring all the same
                self._loop.call_exception_handler({"message": "an alarm could not be heard", "exception": error})
