"""The order in which a run learns of outcomes: that in which they were recorded, whoever asked first."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from .records import Key


class Turns:
    """A queue of those who are about to return to the run. Most runs never have one, and it is small then."""

    __slots__ = ("_passed", "waiting")

    def __init__(self) -> None:
        self.waiting: list[Key] = []
        self._passed: asyncio.Event | None = None

    def join(self, key: Key) -> None:
        """An outcome was recorded."""
        self.waiting.append(key)

    async def come(self, key: Key, check: Callable[[], None]) -> None:
        """Wait until nobody is before it any longer. `check` is asked after each that passes, and may raise."""
        while True:
            if key not in self.waiting:
                self.waiting.append(key)
            if self.waiting[0] == key:
                return
            self._passed = self._passed or asyncio.Event()
            self._passed.clear()
            await self._passed.wait()
            check()

    def leave(self, key: Key) -> None:
        """It has returned, or will not."""
        if key in self.waiting:
            self.waiting.remove(key)
            self.end()

    def end(self) -> None:
        """Whoever waits is to look again."""
        if self._passed is not None:
            self._passed.set()
