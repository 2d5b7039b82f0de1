"""CPU time of a process, charged to the calls that are being answered in it, from outside.

A watchdog inside could be starved by one long call in C, or faked. While several calls share the process, each is
charged its part. Time and CPU come in as functions, so that a test needs neither.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol

_SHORTEST = 0.005
"""Seconds between two looks: what a limit may be overshot by, beside the scheduler's share."""


class Timer(Protocol):
    """What a loop gives for a call to come."""

    def cancel(self) -> None:
        """Never mind."""

    def when(self) -> float:
        """The time it is set for."""


class Charge:
    """One call: what it may use and what it has used, in seconds of CPU."""

    __slots__ = ("limit", "over", "used")

    def __init__(self, limit: float, over: Callable[[], None]) -> None:
        self.limit = limit
        self.used = 0.0
        self.over = over


class CpuWatch:
    """The account of one process."""

    def __init__(
        self, cpu: Callable[[], float], now: Callable[[], float], call_at: Callable[[float, Callable[[], None]], Timer]
    ) -> None:
        self._cpu = cpu
        self._now = now
        self._call_at = call_at
        self._charges: set[Charge] = set()
        self._seen = 0.0
        self._timer: Timer | None = None
        self._cores = os.cpu_count() or 1

    def begin(self, limit_ms: int, over: Callable[[], None]) -> Charge:
        """A call begins; `over` is called, once, if it uses more than its limit."""
        self._share()
        charge = Charge(limit_ms / 1000, over)
        self._charges.add(charge)
        self._arm()
        return charge

    def restart(self, charge: Charge) -> None:
        """What the call has used so far is forgiven: a durable run has reached its next record."""
        self._share()
        charge.used = 0.0

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
        if self._charges and spent > 0:
            part = spent / len(self._charges)
            for charge in self._charges:
                charge.used += part

    def _arm(self) -> None:
        # The timer is left to run when calls end: setting one for each call would cost more than the odd idle look.
        if not self._charges:
            return
        left = min(charge.limit - charge.used for charge in self._charges)
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
