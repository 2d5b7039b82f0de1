"""How much of what a sandbox sends is taken, and when it has gone on for too long. It reads nothing of it.

Whoever sends more than its share in a second is slowed down: it is not read until there is room again, and has to wait
like everybody who writes faster than is read. That does no honest program any harm, and none can cost its neighbours
more than the share. What comes to nothing (calls taken back or refused, word of what goes on in the background) has a
smaller share. Lines of a log and heartbeats, which nobody waits for, have a bound of that size instead: an honest guest
keeps far below it whatever its tenant does, so who reaches it, held back as it is, means to, and is ended. A burst
of lines, or of calls taken back, is read at a pace that leaves the host time for the others. Time comes in, and so do
the ways to hold back and to end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cloister.ipc.codec import MARKS
from cloister.ipc.messages import Call, Cancel, Failure, Goodbye, Hello, Note, Release, Result

from .meter import Meter

MESSAGE: Final = 6144
"""What an unasked message counts in bytes, beside those that it has."""
_BURST: Final = 1024
"""So many of them may come at once: as many as there may be calls in flight."""
UNAWAITED: Final = 4096
"""What one that nobody waits for, or that comes to nothing, counts beside its bytes, in its own bound or share."""
SHARE_UNAWAITED: Final = 4
"""Of the whole it is a part of so many. A guest says no more than 2,000 lines in a second, or fewer long ones."""
SECONDS_UNAWAITED: Final = 1.25
"""How much of it may come at once."""
_PACE, _TOGETHER = 16_000, 32
"""So many of them a second are taken while a burst lasts, which is a fifth of the host's time, and so many at once."""
_PIECE: Final = 2048
"""What any piece on the wire counts at least."""
_LINK: Final = 512
"""What a call counts that comes along with another one, which takes a tenth of the time."""
_ELEMENT: Final = 256
"""What each element of a value counts besides: it takes the host as long to check as it does to read it."""
_FREE_ELEMENTS: Final = 16
"""Of each value, which its message has paid for."""
LONGEST: Final = 65_536
"""Bytes of a message of a kind that carries nothing of the tenant's size."""
ANSWERS: Final = frozenset({MARKS[Result], MARKS[Failure]})
"""What the host has asked for, so that it counts no more than its bytes."""
_VAIN: Final = frozenset({MARKS[Note], MARKS[Cancel]})
_SHORT: Final = {MARKS[kind]: kind.__name__ for kind in (Hello, Cancel, Release, Note, Goodbye)} | {-1: "command"}


class Intake:
    """Of one sandbox. `hold` has it wait for so many seconds, and says whether it does; `end` is told why it is to be
    ended."""

    def __init__(
        self, rate: int, now: Callable[[], float], *, hold: Callable[[float], bool], end: Callable[[str], None]
    ) -> None:
        self._hold, self._end = hold, end
        self._holds = True  # as far as is known
        self._bytes = Meter(rate, now)
        self._messages = Meter(rate / MESSAGE, now, most=_BURST)
        self._unawaited = Meter(rate / SHARE_UNAWAITED, now, most=rate / SHARE_UNAWAITED * SECONDS_UNAWAITED)
        self._vain = Meter(rate / SHARE_UNAWAITED, now)
        self._pace = Meter(_PACE, now, most=_TOGETHER)
        self.bound(rate)

    def bound(self, rate: int) -> None:
        """Take so many bytes in a second from now on."""
        self._rate = rate
        self._bytes.reset(rate)
        self._messages.reset(rate / MESSAGE, most=_BURST)
        self._unawaited.reset(rate / SHARE_UNAWAITED, most=rate / SHARE_UNAWAITED * SECONDS_UNAWAITED)
        self._vain.reset(rate / SHARE_UNAWAITED)

    def arrived(self, size: int) -> None:
        """A piece has come, whatever is in it."""
        self._draw(self._bytes, max(_PIECE, size))

    def commands(self, count: int) -> None:
        """So many words of the wire's own have come in one piece, of which one may be a heartbeat."""
        if count > 1:
            self._count_unawaited(count * UNAWAITED)

    def message(self, mark: int, size: int, *, line: bool = False) -> None:
        """A message of this kind, that is no answer. `line`: it is one of a log."""
        self._draw(self._messages, 1)
        if mark in _VAIN and (wait := self._pace.draw(1)):
            self._hold(wait)  # where that cannot be done nothing is lost: it counts elsewhere too
        if line:
            self._count_unawaited(size + UNAWAITED)
        elif mark in _VAIN:
            self._draw(self._vain, size + UNAWAITED)

    def refused(self, size: int) -> None:
        """A call with so many bytes of arguments came to nobody."""
        self._draw(self._vain, size + UNAWAITED)

    def read(self, elements: int) -> None:
        """A value of so many elements was looked at."""
        if elements > _FREE_ELEMENTS:
            self._draw(self._bytes, (elements - _FREE_ELEMENTS) * _ELEMENT)

    def chain(self, calls: int) -> None:
        """A call is one of so many in one message."""
        if calls > 1:
            self._draw(self._bytes, (calls - 1) * _LINK)

    def visited(self, messages: int) -> None:
        """What it has granted was called, whose answer counts so many messages: whoever calls could do so without end,
        in its stead."""
        self._slow(self._messages, messages)

    def answered(self, size: int) -> None:
        """The host has answered it with so many bytes. A message has paid for as many as it counts."""
        if size > MESSAGE:
            self._slow(self._bytes, size - MESSAGE)

    @staticmethod
    def refusal(mark: int, size: int) -> str | None:
        """Why a message of this kind and size is not to be taken, as soon as that much is known of it."""
        if size <= LONGEST or mark in ANSWERS or mark == MARKS[Call]:
            return None
        return f"a {_SHORT.get(mark, 'frame of an unknown kind')} of {size:,} bytes"

    def _count_unawaited(self, amount: float) -> None:
        if not self._unawaited.take(amount):
            most = f"{self._rate // SHARE_UNAWAITED:,} bytes in a second"
            self._end(f"sent more than {most} that nobody waits for, where a message counts {UNAWAITED:,} besides")

    def _slow(self, meter: Meter, amount: float) -> None:
        """It is no more than slowed down for this, and where that cannot be done it does not count."""
        if self._holds and (wait := meter.draw(amount)) and not self._hold(wait):
            self._holds = False
            self.bound(self._rate)

    def _draw(self, meter: Meter, amount: float) -> None:
        if (wait := meter.draw(amount)) and not self._hold(wait):
            self._end(f"sent more than {self._rate:,} bytes in a second, where a message counts {MESSAGE:,} besides")
