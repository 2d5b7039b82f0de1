"""What is held for guests, such as arguments of calls that wait: bounded for each, and for all of a host together.

Where all of them hold too much, it is those that hold much whose next calls are refused: whoever asks for little is
served, or for no more than its part of what is kept for that. A few that fill it up, and wait, are not to keep all
others from more than a little. Nobody is ended for it, since it may be the host that takes its time. It knows no call
and no guest.
"""

from __future__ import annotations

from typing import Final

from .answering import MAX_HELD
from .unread import MUCH

MOST_IN_ALL: Final = 256 << 20
"""Bytes of all guests of a host together."""
_KEPT: Final = 4
"""What part of that, one by this number, is shared by all that hold something when it is used up."""


class Arguments:
    """Those of all guests of one host."""

    def __init__(self, most: int = MOST_IN_ALL) -> None:
        self._most = most
        self._bytes = self._guests = 0

    def hold(self, more: int, held: int) -> bool:
        """A guest's hold so many bytes more, or less, and now so many: whether that may be. What may not be is counted
        all the same until it is told of as less."""
        self._bytes += more
        self._guests += (0 < more == held) - (more < 0 == held)
        if self._bytes <= self._most:
            return held <= MAX_HELD
        return held <= min(MAX_HELD, max(MUCH, self._most // _KEPT // max(self._guests, 1)))
