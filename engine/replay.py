"""The order in which a replay hands out what is recorded, to a workflow in the host's own code: that of the records.

A program that waits for several things at once goes on with whichever comes first. So that it is the same one again, an
outcome is handed over only when the program has gone on with the one before. It knows nothing of what was recorded but
the keys, and of the program but who waits.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .records import Key

_ALONE: Final = 3
_REST: Final = 8
"""Turns of the loop within which a program has gone on, if one outcome is waited for, and if several are."""
_PATIENCE: Final = 64
"""Turns after which nobody is taken to ask for the next one: the program is another, or waits for something else."""


class Replay:
    """One run's recorded outcomes, the first one first."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self._order = dict.fromkeys(keys)
        self._gates: dict[Key, asyncio.Future[None]] = {}
        self._turns = 0
        self._turning = False

    async def come(self, key: Key) -> None:
        """Wait until it is this outcome's turn."""
        if key not in self._order:
            return await asyncio.sleep(0)
        gate = self._gates[key] = asyncio.get_running_loop().create_future()
        self._stir()
        try:
            await gate
        finally:  # also if whoever waited has given up: the others must not wait for it
            self._gates.pop(key, None)
            self._order.pop(key, None)
        return None

    def _stir(self) -> None:
        if not self._turning:
            self._turning = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._turning = False
        if not self._gates:
            self._turns = 0
            return
        self._turns += 1
        key = next(iter(self._order), None)
        if key not in self._gates and self._turns >= _PATIENCE:
            key = next(each for each in self._order if each in self._gates)
        if key in self._gates and self._turns >= (_ALONE if len(self._gates) == 1 else _REST):
            self._turns = 0
            del self._order[key]
            gate = self._gates.pop(key)
            if not gate.done():
                gate.set_result(None)
        self._stir()
