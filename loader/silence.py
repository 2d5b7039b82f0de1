"""Runs that neither ask nor answer for longer than any of their steps may take: somebody looks at all of them, now and
then.

One timer is for all of them. Setting one for each run, and taking it away, would cost as much as a record of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

SILENCE: Final = 60.0
"""Seconds that a run may be silent for beyond the longest timeout of its steps, unless it waits for the engine."""


Later = Callable[[float, Callable[[], None]], object]
"""How something is asked for that is to be done after so many seconds."""


class Silent(Protocol):
    """What may have fallen silent."""

    def look(self) -> None:
        """See to it."""


class Silence:
    """Looks at each as often as a run may be silent."""

    def __init__(self, later: Later | None = None) -> None:
        self._later = later or _later
        self._watched: set[Silent] = set()
        self._looking = False

    def watch(self, silent: Silent) -> None:
        """Look at it from now on."""
        self._watched.add(silent)
        if not self._looking:
            self._looking = True
            self._later(SILENCE, self._look)

    def forget(self, silent: Silent) -> None:
        """And no longer."""
        self._watched.discard(silent)

    def _look(self) -> None:
        for silent in tuple(self._watched):
            silent.look()
        self._looking = bool(self._watched)
        if self._looking:
            self._later(SILENCE, self._look)


def _later(seconds: float, what: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_later(seconds, what)
