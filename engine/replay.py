"""The order in which a workflow in the host's own code learns how its steps ended: one outcome after the other, the
same in every replay.

A program that waits for several things at once goes on with whichever comes first. So that it is the same one again, an
outcome is handed over only when the program has done all it can do with the one before; those that are recorded come in
the order of their records, and whatever is new comes after them. The guest does the same for a tenant's program.

It knows nothing of what was recorded but the keys, and of the program but who waits, and whether it has anything left
to do at once.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from .clock import resolve

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Sequence

    from .records import Key, StepRecord

_FEW: Final = 32
"""What the loop may have to do for it to be looked through for a single outcome. Where it has more to do, all who wait
are looked for at once."""
_BLIND: Final = 8
"""Turns of a loop that does not show what it has to do, within which a program has gone on."""
_PATIENCE: Final = 64
"""Turns in which a program rests, after which it is not looked at any longer: it waits for something else than steps,
or is another one."""
STUCK_AFTER: Final = 1.0
"""Seconds after that, within which it may go on. Then it is said that the others wait for what nobody asks for."""
STUCK_FOR_SURE: Final = 10.0
"""Seconds after which nobody is taken to ask for it: so much longer than a replay may be what else it waits for."""
_MOST_TURNS: Final = 1000
"""Turns that a program may take to come to rest. One that never does is not waited for any longer."""
_NOBODY: Final = contextvars.Context()
_log = logging.getLogger("cloister.engine")

_current: contextvars.ContextVar[Replay | None] = contextvars.ContextVar("replay", default=None)
"""Whose program it is that goes on."""
_lines: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Line] = weakref.WeakKeyDictionary()


class Replay:
    """One run's. A step comes to `recorded` if its outcome is in the history, and to `arrived` if it is new."""

    def __init__(self, history: Sequence[StepRecord], whose: tuple[str, str], *, patient: bool) -> None:
        self._order: dict[Key, None] = _ended(history) if history else {}
        self._history, self._whose, self._patient = history, whose, patient
        self._inside: dict[tuple[str, int], list[tuple[int, Key]]] | None = None
        self.skipped: set[Key] = set()
        """Steps that were in such bodies as are not run again."""
        self.unvisited = set(self._order)
        self._gates: dict[Key, asyncio.Future[None]] = {}
        self._new: deque[asyncio.Future[None]] = deque()
        self._turns = self._still = 0
        self._watched: Key | None = None
        self._missing: Key | None = None
        """What is next in the order, and was waited for in vain."""

    async def conduct(self, program: Awaitable[Any]) -> Any:
        """Await what is to be looked at: this, and all that it begins."""
        mark = _current.set(self)
        try:
            return await program
        finally:
            _current.reset(mark)

    def clear(self) -> None:
        """The program runs elsewhere, and its order is kept there."""
        for key in list(self._order):
            self._let_go(key)
        self.unvisited.clear()
        self._history = ()

    def skip(self, name: str, count: int, *, before: float = math.inf) -> None:
        """The body of a step is not run again, or not its attempts before one: nobody will ask for what was recorded
        in them.
        """
        if self._inside is None:
            self._inside = _inside(self._history)
        if (inside := self._inside.pop((name, count), None)) is None:
            return
        self._inside[name, count] = [inner for inner in inside if inner[0] >= before]
        for attempt, key in inside:
            if attempt < before:
                self.skipped.add(key)
                if key in self.unvisited:  # else what goes on of a body that was given up has asked for it
                    self.unvisited.discard(key)
                    self._order.pop(key, None)
                if key[0] == "do":
                    self.skip(key[1], key[2])

    async def recorded(self, key: Key) -> None:
        """Wait until it is this outcome's turn."""
        if key not in self._order:
            return
        gate = self._gates[key] = asyncio.get_running_loop().create_future()
        self._stir()
        try:
            await gate
        finally:  # also if whoever waited has given up: the others must not wait for it
            self._let_go(key)

    async def arrived(self) -> None:
        """The same for an outcome that has just come. Mostly it is the only one, and is handed over at once."""
        loop = asyncio.get_running_loop()
        if not self._order and not self._new and self._rests(loop):
            return
        gate = loop.create_future()
        self._new.append(gate)
        self._stir()
        await gate

    def _rests(self, loop: Any) -> bool:
        ready = getattr(loop, "_ready", None)
        if ready is None or len(ready) > _FEW:
            return False
        return not any(handle._context.get(_current) is self for handle in ready)

    def _stir(self) -> None:
        loop = asyncio.get_running_loop()
        line = _lines.get(loop)
        if line is None:
            line = _lines[loop] = _Line()
        line.join(self, loop)

    def turn(self, rests: bool | None) -> bool:
        """Hand over the next outcome if the program rests, None where that cannot be seen; whether more are waited
        for.
        """
        while self._new and self._new[0].done():  # whoever waited has given up
            self._new.popleft()
        if not self._gates and not self._new:
            self._turns = self._still = 0
            return False
        self._turns += 1
        if rests is None:
            rests = self._turns >= _BLIND
        return not (rests or self._turns >= _MOST_TURNS) or self._hand_over()

    def _hand_over(self) -> bool:
        """Whether the program is to be looked at again."""
        first = next(iter(self._order), None)
        if first is not None and first not in self._gates:
            self._still += 1
            if self._still < _PATIENCE:
                return True
            if first != self._missing:
                self._watch(first)
                return False
            first = next((key for key in self._order if key in self._gates), None)
        self._turns = self._still = 0
        if first is None:
            resolve(self._new.popleft())
        else:
            self._let_go(first)
        return True

    def _watch(self, first: Key) -> None:
        if self._watched != first:
            self._watched = first
            asyncio.get_running_loop().call_later(STUCK_AFTER, self._warn, first, context=_NOBODY)

    def _warn(self, first: Key) -> None:
        if not self._stuck(first):
            return
        if not self._patient:
            self._give_up(first)
            return
        _log.warning(
            "%s %r is replayed and does not ask for %s %r number %d, which was recorded next: what comes after that"
            " waits for %g s at most, and is told in another order than it was then. What a run awaits beside its"
            " steps, such as an answer from elsewhere, belongs into a step",
            *self._whose, *first, STUCK_FOR_SURE,
        )  # fmt: skip
        left = max(STUCK_FOR_SURE - STUCK_AFTER, 0.0)
        asyncio.get_running_loop().call_later(left, self._give_up, first, context=_NOBODY)

    def _give_up(self, first: Key) -> None:
        if self._stuck(first):
            self._watched, self._missing = None, first
            _log.warning("%s %r goes on in another order than it did, or is another program", *self._whose)
            self._stir()

    def _stuck(self, first: Key) -> bool:
        """Whether what was missing still is."""
        still = first == next(iter(self._order), None) and first not in self._gates and bool(self._gates or self._new)
        if not still and self._watched == first:
            self._watched = None
        return still

    def _let_go(self, key: Key) -> None:
        """Nobody waits behind this outcome any longer, nor before it: who waits in a gate is always in the order."""
        self._order.pop(key, None)
        if (gate := self._gates.pop(key, None)) is not None:
            resolve(gate)


class _Line:
    """All on one loop who wait for their programs to rest. Each turn looks through what the loop has to do once,
    however many they are.
    """

    def __init__(self) -> None:
        self._waiting: dict[Replay, None] = {}

    def join(self, replay: Replay, loop: asyncio.AbstractEventLoop) -> None:
        if not self._waiting:
            loop.call_soon(self._turn, loop, context=_NOBODY)
        self._waiting[replay] = None

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        ready = getattr(loop, "_ready", None)
        busy = None if ready is None else _busy(ready)
        self._waiting = {each: None for each in self._waiting if each.turn(None if busy is None else each not in busy)}
        if self._waiting:
            loop.call_soon(self._turn, loop, context=_NOBODY)


def _busy(ready: Iterable[Any]) -> set[Replay | None]:
    """Whose programs go on in the loop's next turn."""
    return {handle._context.get(_current) for handle in ready}


def _ended(history: Iterable[StepRecord]) -> dict[Key, None]:
    """What has an outcome, in that order."""
    ended = (each for each in history if each.state in {"done", "failed"} and each.kind != "undo")
    return dict.fromkeys((each.kind, each.name, each.count) for each in ended)


def _inside(history: Iterable[StepRecord]) -> dict[tuple[str, int], list[tuple[int, Key]]]:
    """By the name and count of a step, what is recorded of which of its attempts' bodies. See `bodies.enclosing`."""
    found: dict[tuple[str, int], list[tuple[int, Key]]] = {}
    for record in history:
        if record.within is not None:
            attempt, count, name = record.within.split(" ", 2)
            found.setdefault((name, int(count)), []).append((int(attempt), (record.kind, record.name, record.count)))
    return found
