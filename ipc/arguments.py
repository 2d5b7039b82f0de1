"""What calls that wait for an answer hold of arguments: bounded for each guest, and for all guests of a host together.

Where all of them hold too much, it is those that hold much whose next calls are refused: whoever asks for little is
served. Nobody is ended for it, since it may be the host that takes its time. It knows no call and no guest.
"""

from __future__ import annotations

from typing import Final

from .peer import MAX_HELD
from .unread import MUCH

MOST_IN_ALL: Final = 256 << 20
"""Bytes of all guests of a host together."""


class Arguments:
    """Those of all guests of one host."""

    def __init__(self, most: int = MOST_IN_ALL) -> None:
        self._most = most
        self._bytes = 0

    def hold(self, more: int, held: int) -> bool:
        """A guest's hold so many bytes more, or less, and now so many: whether that may be. What may not be is counted
        all the same until it is told of as less."""
        self._bytes += more
        return held <= MAX_HELD and (self._bytes <= self._most or held <= MUCH)
