"""Large frames on their way from guests, of which the host keeps what there is: how much, in all.

Each is bounded, but there may be thousands of guests, and whoever begins a frame may leave it at that. So all frames
together have so much room, as much as they say that they will take; and who finds none is not listened to until there
is some, in the order in which they came. Meanwhile who has room and sends nothing, or not enough to come to an end,
has to leave: the one that has been silent for the longest first. It knows no socket.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

LARGE: Final = 64 * 1024
"""Bytes from which on a frame needs room."""
MOST_IN_ALL: Final = 256 << 20
"""Bytes of all guests of a host together."""
A_WHILE: Final = 1.0
"""Seconds in which a guest that means to send the rest has sent something of it."""
LONG: Final = 3.0
"""Seconds in which it has sent all of it, unless it is the host that does not listen."""


class Sender(Protocol):
    """A guest that has begun a large frame."""

    def unfinished_for(self) -> float:
        """Seconds since it began, without those for which it was not listened to."""

    def held_for(self) -> float:
        """Seconds for which it will not be listened to, for other reasons."""

    def let_in(self) -> None:
        """There is room for its frame now."""

    def cut_short(self) -> None:
        """It is to be ended for it."""


class Arriving:
    """Those of all guests of one host. `call_later` is how it is asked to look again."""

    def __init__(
        self,
        now: Callable[[], float],
        call_later: Callable[[float, Callable[[], None]], object],
        most: int = MOST_IN_ALL,
    ) -> None:
        self._now, self._call_later, self._most = now, call_later, most
        self._bytes = 0
        self._inside: dict[Sender, int] = {}
        self._heard: dict[Sender, float] = {}
        """When each of those inside was last heard."""
        self._waiting: dict[Sender, int] = {}
        self._looking = False

    def begin(self, sender: Sender, size: int) -> bool:
        """A frame of so many bytes begins. False if it has to wait: `let_in` says for how long."""
        if self._waiting or self._bytes + size > self._most:
            self._waiting[sender] = size
            self._look_later()
            return False
        self._admit(sender, size)
        return True

    def go_on(self, sender: Sender) -> None:
        """More of it has come, or could not come for a while that is over."""
        if sender in self._heard:
            self._heard[sender] = self._now()

    def end(self, sender: Sender) -> None:
        """It has come, or will not. Harmless when repeated."""
        self._bytes -= self._inside.pop(sender, 0)
        self._heard.pop(sender, None)
        self._waiting.pop(sender, None)
        while self._waiting:
            first, size = next(iter(self._waiting.items()))
            if self._bytes + size > self._most:
                break
            del self._waiting[first]
            self._admit(first, size)
            first.let_in()

    def _admit(self, sender: Sender, size: int) -> None:
        self._bytes += size
        self._inside[sender] = size
        self._heard[sender] = self._now()

    def _look_later(self) -> None:
        if not self._looking:
            self._looking = True
            self._call_later(A_WHILE / 2, self._look)

    def _look(self) -> None:
        """End those that keep others out, until one that waited has been let in."""
        self._looking = False
        if not self._waiting:
            return
        self._look_later()
        first, now = next(iter(self._waiting)), self._now()
        able = [sender for sender in self._inside if not sender.held_for()]
        idle = [sender for sender in able if self._heard[sender] < now - A_WHILE]
        slow = [sender for sender in able if sender.unfinished_for() > LONG and sender not in idle]
        idle.sort(key=self._heard.__getitem__)
        slow.sort(key=lambda sender: -sender.unfinished_for())
        for sender in (*idle, *slow):
            if first in self._waiting:
                sender.cut_short()
