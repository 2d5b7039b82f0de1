"""Staying awake for an answer that will be here in a moment, wherever that is the faster way to it.

On a machine with a core to spare, one that goes to sleep takes longer to be woken than a warm guest takes to answer. On
one without, whoever stays awake keeps the guest from the core. Nobody says which it is; so both ways are tried all the
time, one of them rarely, and the one by which answers have come sooner is taken. It knows no link and no guest, and
needs nothing of the loop but its turns.
"""

from __future__ import annotations

import asyncio
from typing import Final

MOMENT: Final = 0.00015
"""Seconds for which the loop stays awake. What takes longer is the same either way."""
RARELY: Final = 16
"""One time of so many the other way is tried."""
_LATE: Final = 3 * MOMENT
_WEIGHT: Final = 1 / 16
_WORTH: Final = 0.9
"""It costs a core's time, so it has to bring something."""


class Vigil:
    """One for all links of a loop. Told when something is `sent`, and when something is `heard`."""

    __slots__ = ("_asleep_s", "_awake_s", "_count", "_loop", "_since", "_stays", "awake")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.awake = False
        """Whether the loop has nothing better to do than to look: one of the things that it has to do is this."""
        self._since = 0.0
        self._stays = False
        self._count = 0
        self._awake_s, self._asleep_s = 0.0, MOMENT
        """How long answers have taken of late, either way."""

    def sent(self) -> None:
        """Something that will be answered, perhaps soon."""
        now = self._loop.time()
        if self._since != 0.0:
            if now - self._since <= _LATE:
                return
            self._learn(_LATE)  # nor does anybody wait for it any longer
        self._since = now
        self._count += 1
        self._stays = (self._awake_s < _WORTH * self._asleep_s) is (self._count % RARELY != 0)
        if self._stays and not self.awake:
            self.awake = True
            self._loop.call_soon(self._look)

    def heard(self) -> None:
        """It may be the answer; how long it took is learned from."""
        if self._since != 0.0:
            self._learn(min(self._loop.time() - self._since, _LATE))
            self._since = 0.0

    def _learn(self, took: float) -> None:
        if self._stays:
            self._awake_s += (took - self._awake_s) * _WEIGHT
        else:
            self._asleep_s += (took - self._asleep_s) * _WEIGHT

    def _look(self) -> None:
        if self._stays and self._since != 0.0 and self._loop.time() - self._since <= MOMENT:
            self._loop.call_soon(self._look)
        else:
            self.awake = False
