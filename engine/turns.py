"""The order in which a run learns of outcomes: that in which they were recorded, whoever asked first."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING

from .clock import resolve

if TYPE_CHECKING:
    from collections.abc import Callable

    from .records import Key


class Turns:
    """A queue of those who are about to return to the run. Most runs never have one, and it is small then."""

    __slots__ = ("waiting",)

    def __init__(self) -> None:
        self.waiting: OrderedDict[Key, asyncio.Future[None] | None] | None = None
        """Who is in it, in order, and what wakes each that has come."""

    def join(self, key: Key) -> None:
        """An outcome was recorded."""
        if self.waiting is None:
            self.waiting = OrderedDict()
        self.waiting.setdefault(key)

    async def come(self, key: Key, check: Callable[[], None]) -> None:
        """Wait until nobody is before it any longer. `check` is asked then, and may raise."""
        self.join(key)
        while self.waiting and next(iter(self.waiting)) != key:
            turn = self.waiting[key] = asyncio.get_running_loop().create_future()
            await turn
            check()
            self.join(key)

    def leave(self, key: Key) -> None:
        """It has returned, or will not."""
        if self.waiting and key in self.waiting:
            del self.waiting[key]
            if (first := next(iter(self.waiting.values()), None)) is not None:
                resolve(first)

    def end(self) -> None:
        """Whoever waits is to look again."""
        for turn in (self.waiting or {}).values():
            if turn is not None:
                resolve(turn)
