"""What a process uses, of CPU time and of calls to the host, charged from outside to the calls answered in it.

A watchdog inside could be starved by one long call in C, or faked. While several calls share the process, each is
charged its part, and all visits together that of one call: calls of what was granted to others, who may make many.
Time and CPU come in as functions, so that a test needs neither.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection
from typing import Final

from .alarms import Timer

_SHORTEST = 0.005
"""Seconds between two looks: what a limit may be overshot by, beside the scheduler's share."""
_NEGLIGIBLE = 0.01
"""Part of a limit that is too little to look at the process for."""
_QUIET = 0.1
"""The same while nothing is used: a look costs the host some microseconds, so only a low limit has it at all."""
_FROM_OUTSIDE = 10.0
"""Seconds within which somebody calls `look` in any case."""
_A_LITTLE = 0.05
"""Part of a core that a process may use uncounted between calls."""
_FORGIVEN_AFTER = 600.0
"""Seconds after which as many calls between its answers are forgiven as it may make."""
_TIDYING = 0.001
"""Seconds that it may use so after each answer."""

_CORES: Final = os.cpu_count() or 1  # which the C library reads from a file each time


class Charge:
    """One call: what it may use and what it has used, in seconds of CPU and in calls to the host."""

    __slots__ = ("asked", "begun", "limit", "little", "may_ask", "over", "used")

    def __init__(self, limit: float, may_ask: float, over: Callable[[], None], begun: float = 0.0) -> None:
        self.begun = begun
        self.limit = limit
        self.little = _SHORTEST if limit >= _SHORTEST / _NEGLIGIBLE else limit * _NEGLIGIBLE
        """What is too little to look for, of what it may use: a look takes the host as long as a tenth of a call."""
        self.may_ask = may_ask
        self.used = self.asked = 0.0
        self.over = over


class Account:
    """That of one process."""

    def __init__(
        self, cpu: Callable[[], float], now: Callable[[], float], call_at: Callable[[float, Callable[[], None]], Timer]
    ) -> None:
        self._cpu = cpu
        self._now = now
        self._call_at = call_at
        self._charges: set[Charge] = set()
        self._visits: dict[Charge, None] = {}  # which takes less than a set while there are none
        self.seen = 0.0
        """Seconds of CPU that the process had used when it was last looked at."""
        self.seen_at = now()
        """When that was."""
        self.unasked = 0.0
        """Seconds of CPU that it was seen to use in its life while no call was going on, its tidying up aside."""
        self._stray = self._tidying = 0.0
        self._may_stray = self._may_ask_astray = math.inf
        self._asked_astray, self._asked_at = 0.0, now()
        self._strayed: Callable[[], None] = lambda: None
        self._timer: Timer | None = None
        self._due = math.inf
        self._cores = _CORES

    def begin(
        self, limit_ms: int | None, over: Callable[[], None], may_ask: int | None = None, *, visit: bool = False
    ) -> Charge:
        """A call begins; `over` is called, once, if it uses more than its limit of CPU."""
        now = self._now()
        charge = Charge(
            math.inf if limit_ms is None else limit_ms / 1000, math.inf if may_ask is None else may_ask, over, now
        )
        if self._charges or self._visits or (now - self.seen_at) * self._cores > charge.little:
            self._share(now)
        if visit:
            self._visits[charge] = None
        else:
            self._charges.add(charge)
        self._look_within(charge.limit, _SHORTEST, now)
        return charge

    @property
    def visited(self) -> bool:
        """Whether a visit is going on."""
        return bool(self._visits)

    def ask(self) -> bool:
        """The process calls the host: charged like CPU time. False if all that could have done it had their share."""
        charges: Collection[Charge] = self._charges or self._visits
        if not charges:
            return self._ask_astray()
        part = 1 / len(charges)
        for charge in charges:
            charge.asked += part
        return any(charge.asked <= charge.may_ask for charge in charges)

    def _ask_astray(self) -> bool:
        if self._may_ask_astray == math.inf:
            return True
        now = self._now()
        forgiven = (now - self._asked_at) * self._may_ask_astray / _FORGIVEN_AFTER
        self._asked_astray, self._asked_at = max(self._asked_astray - forgiven, 0.0), now
        if self._asked_astray + 1 > self._may_ask_astray:
            return False  # which is nothing that was had
        self._asked_astray += 1
        return True

    def bound(self, limit_ms: int | None, over: Callable[[], None], may_ask: int | None = None) -> None:
        """`over` is called, once, if more than that is used while no call is going on, a little all the time aside. As
        with CPU time, so with calls to the host: what is too much of those is refused."""
        self._may_ask_astray = math.inf if may_ask is None else may_ask
        self._may_stray = math.inf if limit_ms is None else limit_ms / 1000
        self._strayed = over
        self._arm(self._now())

    def look(self) -> None:
        """See what has been used. It is looked at by itself whenever a limit could have been crossed since the last
        look, if that can be before the next one that is called for from outside."""
        now = self._now()
        self._share(now)
        for charge in [charge for charge in (*self._charges, *self._visits) if charge.used >= charge.limit]:
            self._charges.discard(charge)
            self._visits.pop(charge, None)
            charge.over()
        if self._stray > self._may_stray:
            self._may_stray = math.inf
            self._strayed()
        self._arm(now)

    def restart(self, charge: Charge) -> None:
        """What the call has used so far is forgiven: a durable run has reached its next record.

        What it has used since the last look a moment ago may count for what comes next: it is too little to matter.
        """
        now = self._now()
        if now - self.seen_at > charge.little:
            self._share(now)
        charge.used = charge.asked = 0.0

    def end(self, charge: Charge) -> None:
        """The call is over. What the only one can have used since the last look is not looked at if it is too little to
        matter: the next one is charged for it, or it is forgiven. What can have been used before the call is not."""
        now = self._now()
        unseen = (now - self.seen_at) * self._cores  # what it can have used since
        if len(self._charges) + len(self._visits) > 1 or unseen > charge.little:
            self._share(now)
            self._tidying = unseen = 0.0
        self._charges.discard(charge)
        self._visits.pop(charge, None)
        self._tidying = _TIDYING + min(self._tidying + (now - charge.begun) * self._cores, unseen)

    def stop(self) -> None:
        """The process is gone."""
        self._charges.clear()
        self._visits.clear()
        self._may_stray = math.inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._due = math.inf

    def _share(self, now: float) -> None:
        """Charge what was used since this was last done to whom it belongs."""
        cpu, spent = self._cpu(), 0.0
        if cpu > self.seen:  # not once it has ended
            spent, self.seen = cpu - self.seen, cpu
        if self._stray:
            self._stray = max(self._stray - (now - self.seen_at) * _A_LITTLE, 0.0)
        self.seen_at = now
        if self._visits:
            spent = self._share_with_visits(spent)
        if not self._charges:
            unasked = max(spent - self._tidying, 0.0)
            self._stray += unasked
            self.unasked += unasked
            self._tidying = max(self._tidying - spent, 0.0)
        elif spent:
            part = spent / len(self._charges)
            for charge in self._charges:
                charge.used += part

    def _share_with_visits(self, spent: float) -> float:
        """What is left for the calls."""
        theirs = spent / (len(self._charges) + 1)
        for visit in self._visits:
            visit.used += theirs / len(self._visits)
        return spent - theirs if self._charges else 0.0

    def _arm(self, now: float) -> None:
        if self._charges or self._visits:
            left = min(charge.limit - charge.used for charge in (*self._charges, *self._visits))
            self._look_within(left, _SHORTEST, now)
        elif self._stray:
            self._look_within(self._may_stray - self._stray, _SHORTEST, now)
        elif self._may_stray < _FROM_OUTSIDE * self._cores:
            self._look_within(self._may_stray, _QUIET, now)

    def _look_within(self, left: float, shortest: float, now: float) -> None:
        """See to it that somebody looks before so much CPU time can have been used on all cores."""
        # The timer is left to run when calls end: setting one for each call would cost more than the odd idle look.
        when = now + max(left / self._cores, shortest)
        if when < self._due:
            if self._timer is not None:
                self._timer.cancel()
            self._timer, self._due = self._call_at(when, self._timed), when

    def _timed(self) -> None:
        self._timer, self._due = None, math.inf
        if self._charges or self._visits or self._stray or self._may_stray < _FROM_OUTSIDE * self._cores:
            self.look()  # else its calls are over, and whatever it does then is seen from outside soon enough
