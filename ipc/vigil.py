"""Staying awake for an answer that will be here in a moment.

A core that goes to sleep takes longer to be woken than a warm guest takes to answer. So while an answer is due the loop
looks for it turn by turn, for no longer than such answers have taken of late; where they take longer, or the guest is
not given a core, it sleeps at once. It knows no link and no guest, and needs nothing of the loop but its turns.
"""

from __future__ import annotations

import asyncio
from typing import Final

MOMENT: Final = 0.00015
"""Seconds that an answer may be away for it to be worth it."""
_GAIN, _LOSS, _MOST, _LEAST = 1, 2, 16, -64


class Vigil:
    """One for all links of a loop. Told when something is `sent`, and when something is `heard`."""

    __slots__ = ("_loop", "_since", "_trust", "awake")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.awake = False
        """Whether the loop has nothing better to do than to look: one of the things that it has to do is this."""
        self._since = 0.0
        self._trust = _MOST

    def sent(self) -> None:
        """Something that will be answered, perhaps soon."""
        now = self._loop.time()
        if self._since != 0.0:
            if now - self._since <= MOMENT:
                return
            self._learn(soon=False)  # nor does anybody wait for it any longer
        self._since = now
        if self._trust > 0 and not self.awake:
            self.awake = True
            self._loop.call_soon(self._look)

    def heard(self) -> None:
        """It may be the answer: whether or not the loop was awake, how long it took is learned from."""
        if self._since != 0.0:
            self._learn(soon=self._loop.time() - self._since <= MOMENT)
            self._since = 0.0

    def _learn(self, *, soon: bool) -> None:
        self._trust = min(self._trust + _GAIN, _MOST) if soon else max(self._trust - _LOSS, _LEAST)

    def _look(self) -> None:
        if self._since != 0.0 and self._loop.time() - self._since <= MOMENT:
            self._loop.call_soon(self._look)
        else:
            self.awake = False
