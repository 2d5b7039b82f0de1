"""What guests leave unread, of which the host keeps what the kernel does not take: how much, for how long, in all.

A guest that has much unread is not listened to until it has read it, so that it cannot go on asking. That leaves it no
more than what it had asked for by then; and where all of them together keep too much, who has read nothing for the
longest has to leave, and then who has had much unread for long, however little it reads now and then. It knows no
socket.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, Protocol

MUCH: Final = 1 << 20
"""Bytes from which on a guest is not listened to."""
MOST_IN_ALL: Final = 256 << 20
"""Bytes of all guests of a host together."""
A_WHILE: Final = 1.0
"""Seconds in which a guest that reads at all has read something."""


LONG: Final = 10.0
"""Seconds in which a guest that means to read all of it has come down to little."""


class Reader(Protocol):
    """A guest that has something unread."""

    taken: float
    """When it last read something."""
    behind: float
    """Since when it has had much unread."""

    def unread(self) -> int:
        """How many bytes it has unread."""

    def give_up(self) -> None:
        """It is to be ended for it."""


class Unread:
    """That of all guests of one host."""

    def __init__(self, now: Callable[[], float], most: int = MOST_IN_ALL) -> None:
        self._now, self._most = now, most
        self._bytes = 0
        self._readers: set[Reader] = set()

    def more(self, reader: Reader, size: int) -> None:
        """A guest has so many bytes more unread."""
        self._readers.add(reader)
        self._bytes += size
        if self._bytes > self._most:
            self._relieve()

    def less(self, reader: Reader, size: int) -> None:
        """It has read so many of them, or will not read them any more."""
        self._bytes -= size
        if not reader.unread():
            self._readers.discard(reader)

    def refuses(self, reader: Reader, size: int) -> bool:
        """Whether there is no room for so many bytes more of a guest that has much unread already."""
        return self._bytes + size > self._most and reader.unread() > MUCH

    def _relieve(self) -> None:
        """Have those leave that have much unread and read nothing, or too little, until there is room or none is
        left."""
        now = self._now()
        much = [reader for reader in self._readers if reader.unread() > MUCH]
        idle = [reader for reader in much if reader.taken < now - A_WHILE]
        slow = [reader for reader in much if reader.behind < now - LONG and reader.taken >= now - A_WHILE]
        leaving = *sorted(idle, key=lambda each: each.taken), *sorted(slow, key=lambda each: each.behind)
        for reader in leaving:
            if self._bytes > self._most:
                reader.give_up()


NOTHING: Final = math.inf
"""`taken` of a guest that has nothing unread, and `behind` of one that has little."""
