"""Control groups for the processor: who is said to compute has what nobody else wants. This is the host's half.

Whoever is in a group that is idle, as the kernel calls it, is put aside the moment that anybody beside it wakes up. A
nice value cannot do that: it says how much everybody gets, and who has the core keeps it until the next tick, which is
four milliseconds with most kernels. So each slot has a group of its own; to move a process between two groups would
keep the whole machine from forking for some ten milliseconds. The groups lie beside the host's own, which they are
compared with, and not in one that holds them all.
"""

from __future__ import annotations

import contextlib
import enum
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


def give(folder: str, version: int, rank: Rank) -> None:
    """Have all processes of a group be of this rank. Costs some microseconds."""
    with contextlib.suppress(OSError):  # somebody else has removed the group
        kernel.write(f"{folder}/cpu.idle", b"1" if rank is Rank.BEHIND else b"0")
        if rank is not Rank.BEHIND:  # an idle group's weight is what the kernel says
            kernel.write(f"{folder}/{_WEIGHT[version]}", _WEIGHTS[version][rank])


def known(folder: str) -> bool:
    """Whether the kernel can put a group behind: from Linux 5.15 on, where the controller is there."""
    return os.access(f"{folder}/cpu.idle", os.F_OK)
