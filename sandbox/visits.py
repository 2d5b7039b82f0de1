"""Calls of what a tenant's code has granted: functions and objects of its own, which others call when they like.

What it uses while it answers such a visit is the visit's, with the limits of an invocation, and never what it does
while nobody asks anything of it: else whoever was given a function could use up what its tenant may. One that was given
up counts until it has stopped. Who visits, and on whose behalf, is not known here.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from cloister.ipc import ConnectionClosed, Peer, RemoteProtocolError, TooManyCalls
from cloister.ipc.messages import Failure, Result
from cloister.ipc.sockets import MAX_UNSENT

from .alarms import Alarms, Timer
from .errors import LimitExceeded, ProtocolViolation, SandboxDied, SandboxError
from .intake import MESSAGE, Intake
from .policy import Limits
from .watch import Account, Charge

WORKER: Final = 0
"""The capability that every guest has, whose calls are no visits."""
LATE_GRACE: Final = 0.06
"""Seconds that a call whose time is over has to stop in before its process is ended."""
_LOOK_EVERY: Final = 0.1
"""Seconds between two looks at which of those that were given up have stopped."""
_FULL: Final = MAX_UNSENT // 2
"""Bytes that are kept for it from which on nothing large is made for it."""
_GLANCE: Final = 16
_PULL: Final = 2
"""Messages that it counts to be asked for what a stream has: who reads it takes the host as long again."""


class VisitedPeer(Peer):
    """A guest that may be visited. `limits` gives those of its tenant; `overrun` ends it, of something in words; and
    `explain` waits for what it is dying of, when its connection is gone. `intake` hears of each visit, of each long
    answer to a call of its own, and of those that came to nobody; `on_visit` hears of each visit too, before it is
    sent; `unread` says how many bytes are kept for it. Whoever waits for an answer is told of its end by a
    `SandboxError`, whatever it was.
    """

    # Beside what it has of `Peer`: with more than thirty attributes in its dictionary, each would have names of its own
    __slots__ = ("_account", "_alarms", "_explain", "_intake", "_left", "_limits", "_on_visit", "_overrun", "_unread")

    def __init__(
        self,
        *arguments: Any,
        account: Account,
        limits: Callable[[], Limits],
        overrun: Callable[[str], None],
        explain: Callable[[ConnectionClosed], Awaitable[SandboxError]],
        intake: Intake,
        unread: Callable[[], int],
        alarms: Alarms,
        on_visit: Callable[[], None] = lambda: None,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self._account, self._limits, self._overrun, self._explain = account, limits, overrun, explain
        self._intake, self._unread, self._on_visit = intake, unread, on_visit
        self._alarms = alarms
        self._left: dict[int, Charge] = {}

    def _expire_at(self, deadline: float) -> Timer:
        return self._alarms.call_at(deadline, self._expire)

    def call(
        self, target: int, method: str, payload: bytes, *, timeout: float | None = None
    ) -> Coroutine[Any, Any, bytes]:
        """See `Peer.call`. A visit that uses more CPU than it may is given up: `LimitExceeded`."""
        call = super().call(target, method, payload, timeout=timeout)
        if target == WORKER:
            return call
        self._intake.visited(_PULL if method == "pull" else 1)
        self._on_visit()
        return self._visit(call)

    async def _visit(self, call: Coroutine[Any, Any, bytes]) -> bytes:
        limits, number, bound = self._limits(), self.connection.next_call, asyncio.timeout(None)
        charge = self._account.begin(
            limits.cpu_ms, lambda: bound.reschedule(self._loop.time()), limits.subrequests, visit=True
        )
        try:
            async with bound:
                return await call
        except TimeoutError:
            if not bound.expired():
                raise
            self._loop.call_later(LATE_GRACE, self._end_if_going_on, number)
            raise LimitExceeded(f"the call exceeded {limits.cpu_ms:,} ms of CPU") from None
        except ConnectionClosed as error:
            raise await self._explain(error) from error
        finally:
            if self._going_on(number):
                self._leave(number, charge)
            else:
                self._account.end(charge)

    def encode(self, value: object, *, exact: bool = False) -> bytes:
        """See `Peer.encode`. `TooManyCalls` for what is large while much is kept for it already: there may be a
        thousand of them, and each would take time, only to find no room."""
        if self._unread() > _FULL and _at_least(value) > MESSAGE:
            raise TooManyCalls("the sandbox does not read: its queue is full")
        return super().encode(value, exact=exact)

    def _send_answer(self, answer: Result | Failure, frame: bytes) -> bool:
        sent = super()._send_answer(answer, frame)
        if sent and len(frame) > MESSAGE:
            self._intake.answered(len(frame))
        return sent

    def close(self, error: Exception, *, held_for: float = 0.0) -> None:
        """See `Peer.close`."""
        if isinstance(error, RemoteProtocolError):
            error = ProtocolViolation(f"the sandbox broke the protocol: {error}")
        elif not isinstance(error, SandboxError):
            error = SandboxDied(f"the sandbox broke off: {error}")
        super().close(error, held_for=held_for)

    def forward(self, target: int, method: str, payload: bytes) -> Awaitable[bytes]:
        """See `Peer.forward`."""
        try:
            return super().forward(target, method, payload)
        except Exception:
            self._intake.refused(len(payload))
            raise

    def _going_on(self, number: int) -> bool:
        return self._closed is None and self.connection.owes(number)

    def _leave(self, number: int, charge: Charge) -> None:
        """Nobody waits for it any longer."""
        charge.over = lambda: self._end_if_going_on(number)
        if not self._left:
            self._loop.call_later(_LOOK_EVERY, self._look)
        self._left[number] = charge

    def _look(self) -> None:
        for number, charge in list(self._left.items()):
            if not self._going_on(number):
                del self._left[number]
                self._account.end(charge)
        if self._left:
            self._loop.call_later(_LOOK_EVERY, self._look)

    def _end_if_going_on(self, number: int) -> None:
        if self._going_on(number):
            most = f"{self._limits().cpu_ms:,} ms of CPU"
            self._overrun(f"the sandbox exceeded {most} in a call that did not stop when it was given up")


def _at_least(value: object) -> int:
    """How many bytes it takes, as far as that can be told at a glance."""
    if isinstance(value, dict):
        value = list(itertools.islice(value.values(), _GLANCE))
    if isinstance(value, list | tuple):
        return sum(len(part) for part in value[:_GLANCE] if isinstance(part, str | bytes))
    return len(value) if isinstance(value, str | bytes) else 0
