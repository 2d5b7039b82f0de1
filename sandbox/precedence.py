"""Who goes first when there is more to do than cores: a process that computes gives way to those that only answer.

Whoever keeps a core busy for a while loses nothing by waiting a moment longer, and its neighbours' answers would. What
counts is CPU time as seen from outside. Whoever gives way and gets next to nothing is let on now and then: there may be
more to do than cores for hours. Who gives way goes first again when it has been seen to rest, and before that for one
call: calls can come without end, and each begins with work that was not seen yet. Who has a core because it answers so
much does not compute.

Who gives way stays on the core where it is, as long as it has most of what it wants there. Each time the kernel moved
it to another one, it would owe it a turn there, though a small one; and a turn lasts until the next tick, which whoever
wakes up meanwhile has to wait for. Time, CPU and the ways to give way and to stay come in as functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from .lockdown.shares import Rank

WINDOW: Final = 0.05
"""Seconds that are looked at together: who has used more than half of them gives way."""
SOON: Final = 0.01
"""The same, for the first look after a call has begun."""
GLANCE: Final = 0.003
"""The same, for what is seen before that at next to no cost: who has had a core for so long computes, and most calls
have been answered, so that it need not be looked at."""
BRIEF: Final = 0.001
"""Seconds that it may want of a core for each call that it has answered, however many those are."""
_STARVED: Final = 0.1
"""Part of a window that who gives way is to have of a core at least, or it is let on in the next one."""
_CROWDED: Final = 0.75
"""Part of what it wants that who stays on its core is to have there, or it may go where there is more."""
_SEVERAL: Final = 1.2
"""Cores that only several threads can have used: those are not to share one."""
_TRIED: Final = 10
"""Windows after which several that do share one, where each wants it in turn, are let go for one, to see what they use:
those that run Python have to wait for each other anywhere."""


class CallAt(Protocol):
    """How a loop is asked for a call to come."""

    def __call__(self, when: float, what: Callable[[], None], /) -> object:
        """At that time, call that."""


class Precedence:
    """That of one process. `busy` says whether a call is going on in it; `rank` is told each change, and `stay` each
    time whether it is to stay on its core. `on_look` sees to what else is to be looked at while it is at work. `cpu`
    counts the time for which it wanted a core, and `spent` only that for which it had one; `waits` says whether it
    wants one now, in a wait that is counted when it is over. `soon` is how long it is looked at first; as long as a
    window, where it is to be sure."""

    def __init__(
        self,
        cpu: Callable[[], float],
        now: Callable[[], float],
        call_at: CallAt,
        *,
        busy: Callable[[], bool],
        rank: Callable[[Rank], None],
        on_look: Callable[[], None] = lambda: None,
        spent: Callable[[], float] | None = None,
        waits: Callable[[], bool] = lambda: False,
        stay: Callable[[bool], None] = lambda _: None,
        soon: float = SOON,
    ) -> None:
        self._cpu, self._now, self._call_at, self._busy, self._tell = cpu, now, call_at, busy, rank
        self._on_look = on_look
        self._spent, self._waits, self._soon = spent or cpu, waits, soon
        self._tell_to_stay, self._stays = stay, False
        self._shared = 0  # windows for which several threads have wanted the core that they stay on
        self._since = self._used = self._had = 0.0
        self._rank = Rank.FIRST
        self._computes = False
        self._looking = self._over = False
        self._asked = False  # at some time since the last look
        self._unasked = 0.0  # what it has had of a core since it was last asked, in windows in which it computed
        self._answers = 0
        self._let_on = False  # by a call, and not seen to rest since
        self._strays = False  # it was seen to compute unasked, and may do so whenever nobody looks

    @property
    def computes(self) -> bool:
        """Whether it was last seen to keep a core busy, and had it: where all have to wait, everybody wants one."""
        return self._computes

    def begin(self) -> None:
        """A call begins: it goes first until it is seen to compute."""
        if self._rank is not Rank.FIRST and not self._let_on:
            self._let_on = True
            self._decide(Rank.FIRST)
        self._asked = True
        if not self._looking:
            self._looking = True
            self._call_at(self._now(), self._look_from_now)  # once the call has been sent: it takes as long as that

    def answered(self) -> None:
        """A call has been answered."""
        self._answers += 1

    def stray(self) -> None:
        """It has computed unasked, and goes first only while it is asked from now on."""
        self._strays = True

    def look(self) -> None:
        """It has used a core of late: see whether it does so unasked."""
        if not self._looking and not self._over:
            self._look_later(self._soon)

    def stop(self) -> None:
        """It is to end, or has ended: at its own pace, since a process that gives way takes its time to die as well."""
        self._over = True
        self._decide(Rank.FIRST)

    def _look_from_now(self) -> None:
        if self._over:
            return
        if self._soon < WINDOW:
            self._since, self._had, self._answers = self._now(), self._spent(), 0
            self._call_at(self._since + GLANCE, self._glance)
        else:
            self._look_later(self._soon)

    def _glance(self) -> None:
        if not self._over:
            self._on_look()
        if self._over:
            return
        passed, had, busy = self._now() - self._since, self._spent() - self._had, self._busy()
        if had > passed / 2 and had > self._answers * BRIEF:
            self._decide(Rank.BEHIND)
            self._stay(had < passed * _SEVERAL)
            self._look_later(WINDOW)
        elif busy or self._let_on or self._rank is not Rank.FIRST or self._waits():
            self._look_later(self._soon)
        else:
            self._rest()

    def _look_later(self, seconds: float) -> None:
        self._looking = True
        self._go_on(seconds, self._now(), self._cpu(), self._spent())

    def _go_on(self, seconds: float, now: float, cpu: float, spent: float) -> None:
        self._since, self._used, self._had, self._answers = now, cpu, spent, 0
        self._asked = self._busy()
        self._call_at(now + seconds, self._look)

    def _look(self) -> None:
        if not self._over:
            self._on_look()
        if self._over:  # perhaps for what was seen
            return
        now, cpu, spent = self._now(), self._cpu(), self._spent()
        passed, had, wanted = now - self._since, spent - self._had, cpu - self._used
        if self._rank is not Rank.FIRST and self._waits():
            wanted = max(wanted, passed)
        computes, busy = wanted > passed / 2, self._busy()
        behind = computes and wanted > self._answers * BRIEF
        self._unasked = self._unasked + had if behind and not busy and not self._asked else 0.0
        self._strays |= self._unasked > WINDOW / 2  # who only waits for a core to tidy up after an answer has little
        self._let_on &= behind
        starved = self._rank is Rank.BEHIND and had < passed * _STARVED
        self._decide((Rank.LITTLE if starved else Rank.BEHIND) if behind else Rank.FIRST)
        self._shared = self._shared + 1 if self._stays and wanted >= passed * _SEVERAL else 0
        enough = wanted * _CROWDED <= had < passed * _SEVERAL and self._shared < _TRIED
        self._stay(self._rank is Rank.BEHIND and enough)
        if passed > WINDOW / 2:  # sooner, it may only have begun, and another process would do no more than the same
            self._computes = computes and had > passed / 2
        if computes or busy:
            self._go_on(WINDOW, now, cpu, spent)
        else:
            self._rest()

    def _rest(self) -> None:
        """Nobody looks until it is asked again."""
        self._looking = False
        if self._strays:
            self._decide(Rank.BEHIND)

    def _decide(self, rank: Rank) -> None:
        if rank is not self._rank:
            self._rank = rank
            self._tell(rank)
            if rank is not Rank.BEHIND:
                self._stay(False)

    def _stay(self, stays: bool) -> None:
        if stays is not self._stays:
            self._stays = stays
            self._tell_to_stay(stays)
