"""A run that asks for its steps otherwise than it did the first time: how that is noticed, and what is said of it.

Not imported by the guest itself: it is kept with the standard library, for those who ask.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import Final

from . import scope
from .outcomes import NOBODY, STUCK_AFTER, Key, NonDeterminismError, Outcomes

_STUCK_FOR_SURE: Final = 30.0  # seconds, if other calls are going on, for one of which the run may be waiting


def look(outcomes: Outcomes, expected: Key, waited: float = 0.0) -> None:
    """Outcomes are waited for behind one that nobody asks for: that is not how it was the first time."""
    outcomes._watch = None
    if not outcomes._order or outcomes._order[0] != expected or expected in outcomes._gates:
        outcomes._stir()
        return
    run, loop = outcomes._run, asyncio.get_running_loop()
    waited = waited + STUCK_AFTER
    alone = scope.calls.count <= 1 or waited >= _STUCK_FOR_SURE
    if run.asking or not alone or not run.only_waits(loop):
        outcomes._watch = loop.call_later(STUCK_AFTER, look, outcomes, expected, waited, context=NOBODY)
        return
    left = list(itertools.islice(outcomes._order, 5))
    for key, gate in outcomes._gates.items():
        if not gate.done():
            before = left[: left.index(key)] if key in left else left
            words = f"{_words(key)} was recorded after what is not asked for: {', '.join(map(_words, before))}"
            gate.set_exception(NonDeterminismError(words))
    for gate in outcomes._new:
        if not gate.done():
            words = f"the run goes on without what is recorded for it: {', '.join(map(_words, left))}"
            gate.set_exception(NonDeterminismError(words))


def _words(key: Key) -> str:
    return "{} {!r} ({})".format(*key)
