"""The host's calls into one sandbox: what each is charged, how long one that was given up has to stop in, and which of
them ended the sandbox when one did.

While one that is late may still stop, nobody can tell whether the sandbox will live, so that new ones had better wait.
What a call means is not known here.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Final

from cloister.ipc import ConnectionClosed, DeadlineExceeded, Peer
from cloister.ipc.link import Link

from .ending import GRACE, Ending
from .errors import LimitExceeded, SandboxDied, SandboxError
from .policy import Limits
from .precedence import Precedence
from .process import Share
from .visits import LATE_GRACE, WORKER
from .watch import Account, Charge

_MUCH_UNASKED: Final = 0.25
_BRIEFLY: Final = 0.02
"""Part of a core that it may use between calls all the time, and seconds beyond that: who uses more may wait with it
until nobody looks, and do a little each time."""
_LITTLE: Final = 0.1
"""Part of its moment that one which has to stop may have had to wait for a core: more than that it is given back."""
_MOST_GIVEN_BACK: Final = 30
"""Times its moment, in all."""
_OF_LATE: Final = 0.1
"""Seconds within which it is not asked again for what it has had of a core, when many are given up in time."""


class Calls:
    """Those of one sandbox. `peer` is set before the first."""

    peer: Peer

    def __init__(
        self, watch: Account, precedence: Precedence, ending: Ending, link: Link, share: Callable[[], Share]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._watch, self._precedence, self._ending, self._link = watch, precedence, ending, link
        self._share, self._now = share, self._loop.time
        self._shared, self._shared_at = Share(0.0, 0.0, False), -math.inf
        self.in_flight = 0
        self.late = 0
        """How many have overrun their time, and may still stop."""
        self._unasked, self._counted, self._counted_at = 0.0, watch.unasked, watch.seen_at
        self._blamed = False  # one has been told that it ended the sandbox

    def begin(self, limits: Limits) -> Charge:
        """One is about to be made, with these limits: what it will be charged."""
        self._precedence.begin()
        watch = self._watch
        charge = watch.begin(limits.cpu_ms, lambda: self._exceeded(limits), limits.subrequests)
        if watch.seen_at != self._counted_at:
            self.count_unasked()
        return charge

    def count_unasked(self) -> None:
        """See whether it computes between its calls, as far as it was looked at."""
        used, passed = self._watch.unasked - self._counted, self._watch.seen_at - self._counted_at
        self._counted, self._counted_at = self._watch.unasked, self._watch.seen_at
        self._unasked = max(self._unasked + used - passed * _MUCH_UNASKED, 0.0)
        if self._unasked > _BRIEFLY:
            self._precedence.stray()

    async def answered(self, method: str, payload: bytes, limits: Limits, charge: Charge) -> bytes:
        """Make it: its answer. See `Sandbox.call`."""
        self.in_flight += 1
        try:
            seconds = None if limits.wall_ms is None else limits.wall_ms / 1000
            answer = await self.peer.call(WORKER, method, payload, timeout=seconds)
            self._precedence.answered()
            return answer
        except DeadlineExceeded as error:
            raise LimitExceeded(f"the call exceeded {limits.wall_ms:,} ms of time") from error
        except LimitExceeded as error:
            if self._blamed and charge.used < charge.limit / 2:
                raise SandboxDied(f"another call in it ended the sandbox: {error}") from error
            raise
        except ConnectionClosed as error:
            raise await self.explain(error) from error
        finally:
            self.in_flight -= 1
            self._watch.end(charge)

    async def explain(self, error: ConnectionClosed) -> SandboxError:
        """It is dying of something, which is told soon."""
        if self._ending.sentence is None:
            await asyncio.wait({self._ending.died}, timeout=GRACE)
        return self._ending.sentence or SandboxDied(f"the sandbox broke off: {error}")

    def _exceeded(self, limits: Limits) -> None:
        self.overrun(f"the sandbox exceeded {limits.cpu_ms:,} ms of CPU")

    def overrun(self, words: str) -> None:
        """One has used up what it may: end all."""
        self._blamed = True
        self._ending.kill(LimitExceeded(words))

    def given_up(self, call: int, late: bool) -> None:
        """One was given up, and perhaps because its time was over: it has a moment to stop in."""
        grace = LATE_GRACE if late else GRACE
        self.late += late
        now = self._now()
        if late or now - self._shared_at > _OF_LATE:
            self._shared, self._shared_at = self._share(), now
        self._loop.call_later(grace, self._after_grace, call, grace, late, self._shared, grace * _MOST_GIVEN_BACK)

    def _after_grace(
        self, call: int, grace: float, late: bool, before: Share, left: float, heard: bool = False
    ) -> None:
        going_on = call in self.peer.connection.cancelled
        if going_on and not heard and (held := self._link.held_for()):  # it may have answered, which nobody reads
            self._loop.call_later(held + grace, self._after_grace, call, grace, late, before, left, True)
            return
        if going_on and (lacked := min(_lacked(before, now := self._share(), grace), left)) > grace * _LITTLE:
            before = before._replace(lacked=now.lacked, beside=now.beside)
            self._loop.call_later(lacked, self._after_grace, call, grace, late, before, left - lacked, heard)
            return
        self.late -= late
        if going_on:
            self.overrun(f"the sandbox did not stop within {grace * 1000:,.0f} ms of being cancelled")


def _lacked(before: Share, now: Share, moment: float) -> float:
    """Seconds of its moment in which it had no core, though it could have gone on. Of one that waits for one now it is
    known only when it gets it: as long as it computes, its moment is one of CPU time. What it lacked because its own
    threads had it is its own affair, or it could have as many of them as it takes to live on."""
    waits = moment - (now.had - before.had) if now.wants else 0.0
    return max(now.lacked - before.lacked, waits) - (now.beside - before.beside)
