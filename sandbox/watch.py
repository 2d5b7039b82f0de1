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


_A_LITTLE = 0.05
"""Part of a core that a process may use while it answers nothing: it tidies up after an answer, and at times more."""


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
        self._stray = 0.0
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

    def stray(self, window: float) -> float:
        """Seconds of CPU that were used while no call was going on, beyond the little that each window may have. To be
        called at the end of each window."""
        self._share()
        self._stray = max(self._stray - window * _A_LITTLE, 0.0)
        return self._stray

    def restart(self, charge: Charge) -> None:
        """What the call has used so far is forgiven: a durable run has reached its next record."""
        self._share()
        charge.used = charge.asked = 0.0

    def end(self, charge: Charge) -> None:
        """The call is over."""
        self._share()
        self._charges.discard(charge)

    def stop(self) -> None:
        """The process is gone."""
        self._charges.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _share(self) -> None:
        cpu = self._cpu()
        spent, self._seen = cpu - self._seen, max(cpu, self._seen)
        if spent <= 0:
            return
        if not self._charges:
            self._stray += spent
        else:
            part = spent / len(self._charges)
            for charge in self._charges:
                charge.used += part

    def _arm(self) -> None:
        # The timer is left to run when calls end: setting one for each call would cost more than the odd idle look.
        if not self._charges:
            return
        left = min(charge.limit - charge.used for charge in self._charges)
        if left == math.inf:
            return
        when = self._now() + max(left / self._cores, _SHORTEST)
        if self._timer is None or self._timer.when() > when:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._call_at(when, self._look)

    def _look(self) -> None:
        self._timer = None
        self._share()
        for charge in [charge for charge in self._charges if charge.used >= charge.limit]:
            self._charges.discard(charge)
            charge.over()
        self._arm()
