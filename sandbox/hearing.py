"""What the host hears of a sandbox: every frame on its way from the wire to its peer, weighed before anything of it is
read, and what is said to the sandbox's own owner, that reaches nobody else.

Who says too much, or what may not be said, is ended for it. What calls and answers mean is not known here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cloister.ipc import Peer, RemoteProtocolError, codec, values
from cloister.ipc.link import Link
from cloister.ipc.messages import Note

from .ending import Ending
from .errors import LimitExceeded, ProtocolViolation
from .intake import ANSWERS, Intake
from .policy import Limits
from .tail import LEVELS, Tail
from .watch import Account

_NOTE_ELEMENTS: Final = 5  # of the longest note there is, list included
_NOTE: Final = codec.MARKS[Note]
_LINE: Final = codec.encode(Note("log", b""))  # how the guest's own code begins a line of its log


class Hearing:
    """Of one sandbox, from the first byte on. `peer` is set before it."""

    __slots__ = ("_ending", "_link", "_watch", "background", "intake", "on_background", "peer", "tail")

    peer: Peer

    def __init__(self, link: Link, ending: Ending, watch: Account, limits: Limits, now: Callable[[], float]) -> None:
        self._link, self._ending, self._watch = link, ending, watch
        self.intake = Intake(limits.bytes_per_second, now, hold=link.hold, end=self._flooded)
        self.tail = Tail(limits.output_bytes_per_second, now)
        self.background = 0
        """How many pieces of work go on in it after its answers, by its own account."""
        self.on_background: Callable[[], None] = lambda: None
        """Called when it has said so anew."""
        link.on_bytes = self.intake.arrived
        link.on_commands = self.intake.commands
        link.on_begun = self._begun
        link.on_frame = self._deliver
        link.on_lost = self._lose

    def bound(self, limits: Limits) -> None:
        """Take so much from now on. Whatever comes next is a tenant's."""
        self.intake.bound(limits.bytes_per_second)
        self.tail.bound(limits.output_bytes_per_second)
        self._link.on_bytes = self._first_word

    def asked(self, capability: object, calls: int) -> None:
        """It calls what was granted to it, with so many calls in one. `LimitExceeded` if it has made enough."""
        self.intake.chain(calls)
        if not getattr(capability, "uncounted", False) and not all(self._watch.ask() for _ in range(calls)):
            raise LimitExceeded("the invocation made more calls to the host than its limit of subrequests")

    def note(self, topic: str, payload: bytes) -> None:
        """It says something that needs no answer: a line of its log, or what goes on in it."""
        values.scan(payload, max_depth=1, max_elements=_NOTE_ELEMENTS)
        match topic, values.loads(payload, trusted=True):
            case "log", [str(level), str(text), int(invocation), int(time_ms)] if level in LEVELS:
                self.tail.hear(level, text, invocation, time_ms)
            case "background", int(count):
                self.background = max(count, 0)
                self.on_background()
            case _:
                raise RemoteProtocolError(f"a note of an unknown form on {topic[:40]!r}")

    def _first_word(self, size: int) -> None:
        """From now on something of its tenant's may have come of it."""
        self._ending.used()
        self._link.on_bytes = self.intake.arrived
        self.intake.arrived(size)

    def _begun(self, mark: int, size: int) -> None:
        if (words := self.intake.refusal(mark, size)) is not None:
            self._ending.kill(ProtocolViolation(f"the sandbox broke the protocol: {words}"))

    def _deliver(self, frame: bytes) -> None:
        mark = frame[0] if frame else -1
        if mark not in ANSWERS:
            self._begun(mark, len(frame))
            line = mark == _NOTE and frame.startswith(_LINE)
            self.intake.message(mark, len(frame), line=line)
            if line and not self.tail.admit():
                return  # unread: a line that is dropped anyway must cost less than it cost to say it
        self.peer.deliver(frame)

    def _flooded(self, words: str) -> None:
        self._ending.kill(LimitExceeded(f"the sandbox {words}"))

    def _lose(self, error: RemoteProtocolError | None) -> None:
        """Its end of the connection is gone, or has said what it may not."""
        if error is None:
            self._ending.disconnected()
        else:
            self._ending.broken()
            self.peer.close(error)
