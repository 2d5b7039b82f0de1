"""What a tenant prints and logs, as it arrives at the host: so many lines and bytes a second, the rest is counted.

The guest cuts and drops too, but it is the tenant's: what is decided here holds whatever it says.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from .meter import Meter

LINES_PER_SECOND: Final = 1000
_FEW: Final = LINES_PER_SECOND // 20
"""So many are taken together once some were dropped: each time it is told how many, which costs as much as a line."""
LINE_LENGTH: Final = 9000
"""Characters of a line that are taken. The guest cuts earlier, and says how much was cut."""
LEVELS: Final = frozenset({"stdout", "stderr", "debug", "info", "warning", "error"})
_CONTROLS = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u2028-\\u202e\\u2066-\\u2069]")
"""What would move a terminal's cursor, or show a line other than it is. Tabs and newlines may stay."""


class LogLine(NamedTuple):
    """One line that a tenant printed or logged. `level` is one of `LEVELS`; `time_ms`, milliseconds since 1970, is no
    later than it arrived, and no earlier than the sandbox was made."""

    level: str
    text: str
    invocation: int
    time_ms: int


class Tail:
    """The lines of one sandbox on their way to whoever listens."""

    def __init__(self, bytes_per_second: int, now: Callable[[], float]) -> None:
        self.listener: Callable[[LogLine], None] = lambda _: None
        self.dropped = 0
        """Lines that were not handed on."""
        self._bytes = Meter(bytes_per_second, now)
        self._lines = Meter(LINES_PER_SECOND, now)
        self._untold = 0
        self._admitted = False
        self._since_ms = _now_ms()

    def bound(self, bytes_per_second: int) -> None:
        """Take so many bytes a second from now on."""
        self._bytes.reset(bytes_per_second)

    def admit(self) -> bool:
        """Whether one more line is taken now. To be asked before it is read, which costs more than this."""
        none = self._untold and self._lines.refill() < _FEW
        self._admitted = (not none and self._lines.take(1)) or self._drop()
        return self._admitted

    def hear(self, level: str, text: str, invocation: int, time_ms: int) -> None:
        """One more line, admitted or not."""
        if not self._admitted and not self.admit():
            return
        self._admitted = False
        text = text[:LINE_LENGTH]
        if not self._bytes.take(len(text.encode(errors="replace"))):
            self._drop()
            return
        if self._untold:
            lost, self._untold = self._untold, 0
            words = f"{lost:,} lines came faster than they are taken, and were dropped"
            self.listener(LogLine("warning", words, 0, _now_ms()))
        shown = _CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
        self.listener(LogLine(level, shown, invocation, min(max(time_ms, self._since_ms), _now_ms())))

    def _drop(self) -> bool:
        self.dropped += 1
        self._untold += 1
        return False


def _now_ms() -> int:
    return int(time.time() * 1000)
