"""What a tenant prints and logs, carried to the host line by line, with the invocation it belongs to.

Long lines are cut, and lines that the host cannot take as fast as they are printed are dropped and counted. How much
is taken after that is decided at the other end, which is the one that can be trusted with it.
"""

from __future__ import annotations

import contextvars
import io
import logging
import sys
import threading
import time
from collections.abc import Callable

from cloister.ipc import values

MAX_LINE = 8192
MAX_BACKLOG = 4 << 20
MAX_LINES = 1000  # in a second, or at once after a rest: what the host takes, which ends who sends many times more
LONG = 1024  # a line counts as another one for each so many bytes
MOST_UNTAKEN = 2 * MAX_LINES  # while some wait: a host that was busy for long would take all of them for a flood
FEW = MAX_LINES // 20  # so many go together once there was no room: all of a second's would hold the host up
invocation: contextvars.ContextVar[int] = contextvars.ContextVar("invocation", default=0)
"""The number of the call that is being answered, 0 outside of any."""

Say = Callable[[str, bytes], object]
_LEVELS = {logging.DEBUG: "debug", logging.INFO: "info", logging.WARNING: "warning", logging.ERROR: "error"}


class Lines(io.TextIOBase):
    """A text stream that says each line as it is completed. Each thread completes its own."""

    def __init__(self, say: Callable[[str, str], None], level: str) -> None:
        self._say = say
        self._level = level
        self._rests: dict[int, str] = {}
        self._begun: set[int] = set()  # threads of whose line a part was said already

    def write(self, text: str) -> int:
        """Take some text."""
        thread = threading.get_ident()
        *lines, rest = (self._rests.pop(thread, "") + str(text)).split("\n")
        for line in lines:
            if line or thread not in self._begun:
                self._say(self._level, line)
            self._begun.discard(thread)
        if rest:
            self._rests[thread] = rest
        if len(rest) > MAX_LINE:
            self.flush()
        return len(text)

    def flush(self) -> None:
        """Say what is there of unfinished lines."""
        for thread in list(self._rests) if self._rests else ():
            if rest := self._rests.pop(thread, ""):
                self._begun.add(thread)
                self._say(self._level, rest)

    def writable(self) -> bool:
        """Of course."""
        return True


class Records(logging.Handler):
    """Log records as lines of their level."""

    def __init__(self, say: Callable[[str, str], None]) -> None:
        super().__init__()
        self._say = say
        self.setFormatter(logging.Formatter("%(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """The logging system's hook."""
        try:
            text = self.format(record)
        except Exception as error:
            text = f"{record.msg!r} cannot be formatted: {error}"
        self._say(_LEVELS.get(record.levelno, "error" if record.levelno > logging.ERROR else "info"), text)


class Output:
    """Standard output, standard error and logging of one sandbox."""

    def __init__(self) -> None:
        self.note: Say = lambda _topic, _payload: None
        self.backlog: Callable[[], int] = lambda: 0
        self._dropped = self._untaken = 0
        self._room = self._since = 0.0
        self._streams = Lines(self.say, "stdout"), Lines(self.say, "stderr")

    def install(self) -> None:
        """Take over from the standard streams, which lead nowhere."""
        sys.stdout, sys.stderr = self._streams
        logging.basicConfig(handlers=[Records(self.say)], level=logging.INFO, force=True)
        logging.getLogger("cloister").setLevel(logging.WARNING)  # what a tenant raises is told, and not logged as well
        logging.captureWarnings(True)

    def flush(self) -> None:
        """Say what is there of unfinished lines."""
        for stream in self._streams:
            if stream._rests:
                stream.flush()

    def say(self, level: str, text: str) -> None:
        """Say one line."""
        now = time.monotonic()
        self._room = min(self._room + (now - self._since) * MAX_LINES, MAX_LINES)
        self._since = now
        if not (behind := self.backlog()):
            self._untaken = 0
        full = behind > MAX_BACKLOG or self._untaken >= MOST_UNTAKEN
        if full or self._room < (FEW if self._dropped else 1):
            self._dropped += 1
            return
        self._untaken += behind > 0
        self._room -= 1 + min(len(text), MAX_LINE) // LONG
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self.say("warning", f"{dropped:,} lines were printed faster than they could be taken, and are lost")
        line = text if len(text) <= MAX_LINE else f"{text[:MAX_LINE]} … ({len(text):,} characters)"
        safe = line.encode("utf-8", "replace").decode()
        self.note("log", values.dumps([level, safe, invocation.get(), int(time.time() * 1000)]))
