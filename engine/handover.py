"""The way between an event loop and one thread that works for it: work goes there, and what came of it comes back.

Both are woken without a fight for Python's lock. The thread is woken when the loop has done all it had to do at once,
and wakes the loop without letting go of the lock, so that it is asleep again by the time the loop runs. It knows
nothing of what the work is.
"""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import os
from collections import deque
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

UNHURRIED_SECONDS: Final = 0.01
"""How long work that nobody waits for is left to wait for company."""

Work = TypeVar("Work")

_write = ctypes.PyDLL(None).eventfd_write  # unlike `os.eventfd_write` it keeps Python's lock
_write.argtypes = (ctypes.c_int, ctypes.c_uint64)


class Handover(Generic[Work]):
    """Made on the loop, whose most methods are. `wait`, `take` and `tell` are the thread's.

    `here` is asked before a sleeping thread is woken. It may take what waits and do it itself, in the loop: whether it
    has. The thread sleeps meanwhile, and all that it has told was heard.
    """

    def __init__(self, here: Callable[[], bool] = lambda: False) -> None:
        self._loop = asyncio.get_running_loop()
        self._here = here
        self._work: deque[Work | None] = deque()
        self._unhurried: list[Work] = []
        self._timer: asyncio.TimerHandle | None = None
        self._ringing = False
        self._asleep: list[None] = []  # one while the thread sleeps; whoever takes it says what comes next
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._told: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK | os.EFD_SEMAPHORE)
        contextvars.Context().run(self._loop.add_reader, self._event, self._hear)  # in nobody's context

    def __len__(self) -> int:
        """How much work waits to be taken."""
        return len(self._work)

    def __iter__(self) -> Iterator[Work]:
        """What waits to be taken, for whoever is asked whether to do it `here`."""
        return (work for work in self._work if work is not None)

    def put(self, work: Work) -> None:
        """Something to do."""
        self._include_unhurried()
        self._work.append(work)
        if not self._ringing:
            self._ringing = True
            self._loop.call_soon(self._ring)

    def put_unhurried(self, work: Work) -> None:
        """The same if nobody waits for it: it goes with what comes next, or by itself before long."""
        self._unhurried.append(work)
        if self._timer is None:
            self._timer = self._loop.call_later(UNHURRIED_SECONDS, self._time)

    def hurry(self) -> None:
        """What nobody waited for is wanted after all."""
        self._include_unhurried()
        self._ring()

    def close(self) -> None:
        """No more will come."""
        self._include_unhurried()
        self._work.append(None)
        self._ring()

    def closed(self) -> None:
        """The thread has ended."""
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._event)
        os.close(self._event)

    def _include_unhurried(self) -> None:
        if self._unhurried:
            self._work.extend(self._unhurried)
            self._unhurried.clear()

    def _time(self) -> None:
        self._timer = None
        self.hurry()

    def _ring(self) -> None:
        self._ringing = False
        if not (self._work and self._asleep and self._rouse()):
            return
        wake = False
        try:
            wake = self._work[0] is None or bool(self._told) or not self._here()
        finally:
            if wake:
                self._bell.put(None)
            else:
                self._asleep.append(None)

    def _rouse(self) -> bool:
        """Whether the thread slept, for one only of those who ask: the loop, and the thread that falls asleep."""
        try:
            self._asleep.pop()
        except IndexError:
            return False
        return True

    def _hear(self) -> None:
        os.eventfd_read(self._event)
        callback, args = self._told.popleft()
        callback(*args)

    # In the thread

    def wait(self, most: float | None = None) -> bool:
        """Whether there is work, for which nobody has to wait longer than so many seconds."""
        while not self._work:
            self._asleep.append(None)
            if self._work and self._rouse():  # it came between the two, and nobody rings
                break
            if not self._sleep(most):
                return False
        return True

    def _sleep(self, most: float | None) -> bool:
        """Whether the bell was rung within so many seconds. While something is done in the loop nobody wakes up."""
        while True:
            try:
                self._bell.get(timeout=most)
            except Empty:
                if self._rouse():
                    return False
            else:
                return True

    def take(self, most: int) -> list[Work]:
        """What waits, up to so much. Nothing when no more will come."""
        work = self._work
        taken = [work.popleft() for _ in range(min(len(work), most))]
        if taken and taken[-1] is None:  # which is the last of all
            taken.pop()
            if taken:
                work.append(None)
        return cast("list[Work]", taken)

    def tell(self, callback: Callable[..., object], *args: Any) -> None:
        """Have this called in the loop. If that has gone, nobody is left to hear it."""
        self._told.append((callback, args))
        _write(self._event, 1)
