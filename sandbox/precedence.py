"""Who goes first when there is more to do than cores: a process that computes gives way to those that only answer.

Whoever keeps a core busy for a while loses nothing by waiting a moment longer, and its neighbours' answers would. What
counts is CPU time as seen from outside. Time, CPU and the way to give way come in as functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

WINDOW: Final = 0.05
"""Seconds that are looked at together: who has used more than half of them gives way."""


class CallAt(Protocol):
    """How a loop is asked for a call to come."""

    def __call__(self, when: float, what: Callable[[], None], /) -> object:
        """At that time, call that."""


class Precedence:
    """That of one process. `busy` says whether a call is going on in it; `give_way` is told each change. `on_look` sees
    to what else is to be looked at while it is at work. `cpu` counts the time for which it wanted a core, and `spent`
    only that for which it had one."""

    def __init__(
        self,
        cpu: Callable[[], float],
        now: Callable[[], float],
        call_at: CallAt,
        *,
        busy: Callable[[], bool],
        give_way: Callable[[bool], None],
        on_look: Callable[[], None] = lambda: None,
        spent: Callable[[], float] | None = None,
    ) -> None:
        self._cpu, self._now, self._call_at, self._busy, self._give_way = cpu, now, call_at, busy, give_way
        self._on_look = on_look
        self._spent = spent or cpu
        self._since = self._used = self._had = 0.0
        self._computes = False
        self._looking = self._gives_way = self._over = False

    @property
    def computes(self) -> bool:
        """Whether it was last seen to keep a core busy, and had it: where all have to wait, everybody wants one."""
        return self._computes

    def begin(self) -> None:
        """A call begins: whatever was before, it goes first until it is seen to compute."""
        if self._gives_way:
            self._decide(False)
        if not self._looking:
            self._look_later(self._now(), self._cpu())

    def stop(self) -> None:
        """It is to end, or has ended: at its own pace, since a process that gives way takes its time to die as well."""
        self._over = True
        self._decide(False)

    def _look_later(self, now: float, cpu: float) -> None:
        self._looking = True
        self._since, self._used, self._had = now, cpu, self._spent()
        self._call_at(self._since + WINDOW, self._look)

    def _look(self) -> None:
        if not self._over:
            self._on_look()
        if self._over:  # perhaps for what was seen
            return
        now, cpu = self._now(), self._cpu()
        half = (now - self._since) / 2
        computes = cpu - self._used > half
        self._decide(computes)
        self._computes = computes and self._spent() - self._had > half
        if computes or self._busy():
            self._look_later(now, cpu)
        else:
            self._looking = False

    def _decide(self, gives_way: bool) -> None:
        if gives_way is not self._gives_way:
            self._gives_way = gives_way
            self._give_way(gives_way)
