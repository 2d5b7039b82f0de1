"""Control groups for the processor: who is said to compute has what nobody else wants. This is the host's half.

Whoever is in a group that is idle, as the kernel calls it, is put aside the moment that anybody beside it wakes up. A
nice value cannot do that: it says how much everybody gets, and who has the core keeps it until the next tick, which is
four milliseconds with most kernels. So each slot has a group of its own; to move a process between two groups would
keep the whole machine from forking for some ten milliseconds. The groups lie beside the host's own, which they are
compared with, and not in one that holds them all.
"""

from __future__ import annotations

import asyncio
import enum
import errno
import os
from typing import Final

from . import kernel


class Rank(enum.Enum):
    """Who goes first where there is more to do than cores."""

    FIRST = "as everybody else"
    BEHIND = "what nobody else wants"
    LITTLE = "a tenth of what others have"


_WEIGHT: Final = {1: "cpu.shares", 2: "cpu.weight"}
_WEIGHTS: Final = {1: {Rank.FIRST: b"1024", Rank.LITTLE: b"102"}, 2: {Rank.FIRST: b"100", Rank.LITTLE: b"10"}}
_SCARCE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""What the host may have none left of for the moment."""
_AGAIN: Final = 1.0
"""Seconds after which it is tried again."""


class Standing:
    """The `rank` of all processes of a group, nothing where it is not known."""

    __slots__ = ("_again", "_folder", "_version", "_wanted", "rank")

    def __init__(self, folder: str, version: int) -> None:
        self._folder, self._version = folder, version
        self.rank: Rank | None = Rank.FIRST
        self._wanted = Rank.FIRST
        self._again: asyncio.TimerHandle | None = None

    def change(self, rank: Rank) -> None:
        """Costs some microseconds, and nothing where it is that. If the host has no descriptor left, it is done as soon
        as there is one, within a loop: who was put behind is not to stay there for that."""
        self._wanted = rank
        if self._again is None:
            self._give()

    def _give(self) -> None:
        self._again = None
        if self._wanted is self.rank:
            return
        try:
            behind = self._wanted is Rank.BEHIND
            kernel.write(f"{self._folder}/cpu.idle", b"1" if behind else b"0")
            if not behind:  # an idle group's weight is what the kernel says
                kernel.write(f"{self._folder}/{_WEIGHT[self._version]}", _WEIGHTS[self._version][self._wanted])
            self.rank = self._wanted
        except OSError as error:
            self.rank = None  # it may be half done
            if error.errno in _SCARCE:  # else somebody else has removed the group
                self._again = asyncio.get_running_loop().call_later(_AGAIN, self._give)


def known(folder: str) -> bool:
    """Whether the kernel can put a group behind: from Linux 5.15 on, where the controller is there."""
    return os.access(f"{folder}/cpu.idle", os.F_OK)
