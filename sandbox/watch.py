"""What a process uses, of CPU time and of calls to the host, charged from outside to the calls answered in it.

A watchdog inside could be starved by one long call in C, or faked. While several calls share the process, each is
charged its part. Time and CPU come in as functions, so that a test needs neither.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Protocol

_SHORTEST = 0.005
"""Seconds between two looks: what a limit may be overshot by, beside the scheduler's share."""
_QUIET = 0.1
"""The same while nothing is used: a look costs the host some microseconds, so only a low limit has it at all."""
_FROM_OUTSIDE = 10.0
"""Seconds within which somebody calls `look` in any case."""
_A_LITTLE = 0.05
"""Part of a core that a process may use uncounted between calls."""
_TIDYING = 0.001
"""Seconds that it may use so after each answer."""


class Timer(Protocol):
    """What a loop gives for a call to come."""

    def cancel(self) -> None:
        """Never mind."""

    def when(self) -> float:
        """The time it is set for."""


class Charge:
    """One call: what it may use and what it has used, in seconds of CPU and in calls to the host."""

    __slots__ = ("asked", "limit", "may_ask", "over", "used")

    def __init__(self, limit: float, may_ask: float, over: Callable[[], None]) -> None:
        self.limit = limit
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
        self._seen = 0.0
        self._shared = now()
        self._stray = self._tidying = 0.0
        self._may_stray = math.inf
        self._strayed: Callable[[], None] = lambda: None
        self._timer: Timer | None = None
        self._cores = os.cpu_count() or 1

    def begin(self, limit_ms: int | None, over: Callable[[], None], may_ask: int | None = None) -> Charge:
        """A call begins; `over` is called, once, if it uses more than its limit of CPU."""
        self._share()
        charge = Charge(
            math.inf if limit_ms is None else limit_ms / 1000, math.inf if may_ask is None else may_ask, over
        )
        self._charges.add(charge)
        self._arm()
        return charge

    def ask(self) -> bool:
        """The process calls the host: charged like CPU time. False if all that could have done it had their share."""
        if not self._charges:
            return True
        part = 1 / len(self._charges)
        for charge in self._charges:
            charge.asked += part
        return any(charge.asked <= charge.may_ask for charge in self._charges)

    def bound(self, limit_ms: int | None, over: Callable[[], None]) -> None:
        """`over` is called, once, if more than that is used while no call is going on, a little all the time aside."""
        self._may_stray = math.inf if limit_ms is None else limit_ms / 1000
        self._strayed = over
        self._arm()

    def look(self) -> None:
        """See what has been used. It is looked at by itself whenever a limit could have been crossed since the last
        look, if that can be before the next one that is called for from outside."""
        self._share()
        for charge in [charge for charge in self._charges if charge.used >= charge.limit]:
            self._charges.discard(charge)
            charge.over()
        if self._stray > self._may_stray:
            self._may_stray = math.inf
            self._strayed()
        self._arm()

    def restart(self, charge: Charge) -> None:
        """What the call has used so far is forgiven: a durable run has reached its next record."""
        self._share()
        charge.used = charge.asked = 0.0

    def end(self, charge: Charge) -> None:
        """The call is over."""
        self._share()
        self._charges.discard(charge)
        self._tidying = _TIDYING

    def stop(self) -> None:
        """The process is gone."""
        self._charges.clear()
        self._may_stray = math.inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _share(self) -> None:
        cpu, now = self._cpu(), self._now()
        spent, self._seen = max(cpu - self._seen, 0.0), max(cpu, self._seen)
        elapsed, self._shared = now - self._shared, now
        self._stray = max(self._stray - elapsed * _A_LITTLE, 0.0)
        if not self._charges:
            self._stray += max(spent - self._tidying, 0.0)
            self._tidying = max(self._tidying - spent, 0.0)
        elif spent:
            part = spent / len(self._charges)
            for charge in self._charges:
                charge.used += part

    def _arm(self) -> None:
        # The timer is left to run when calls end: setting one for each call would cost more than the odd idle look.
        shortest = _SHORTEST
        if self._charges:
            left = min(charge.limit - charge.used for charge in self._charges)
        else:
            left = self._may_stray - self._stray
            if not self._stray:
                left, shortest = left if left < _FROM_OUTSIDE * self._cores else math.inf, _QUIET
        if left == math.inf:
            return
        when = self._now() + max(left / self._cores, shortest)
        if self._timer is None or self._timer.when() > when:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._call_at(when, self._timed)

    def _timed(self) -> None:
        self._timer = None
        self.look()
