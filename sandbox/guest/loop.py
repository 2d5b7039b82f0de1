"""The event loop of a guest: made before the fork, it gets descriptors of its own after it.

Making one from scratch would cost each sandbox half a megabyte of pages that are written to on the way.
"""

from __future__ import annotations

import _thread
import asyncio
import collections
import select
import selectors
import socket
import threading
from collections.abc import Callable
from typing import Any

from . import scope

_LONGEST = 3600.0  # seconds that are waited for a timer at once
_CANCELLED = 100  # timers, beyond which a turn of the loop forgets them


class Loop(asyncio.SelectorEventLoop):
    """Waits for the host, as a rule for nothing else, and for timers."""

    _csock: socket.socket | None
    _ready: collections.deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]
    _timer_cancelled_count: int
    _stopping: bool
    _debug: bool
    _selector: Any

    def __init__(self) -> None:
        super().__init__(selectors.EpollSelector())
        self._close_self_pipe()
        self._making_pipe = threading.Lock()
        self._selector._selector.close()

    def nothing_but(self, descriptor: int) -> bool:
        """Wait as in a turn for what is to be done next. Whether that is to read from this descriptor, and nothing
        else; if not, the next turn finds everything as it is."""
        if self._ready or self._stopping or self._debug or self._timer_cancelled_count > _CANCELLED:
            return False
        wait: float | None = None
        if self._scheduled and (wait := min(self._scheduled[0].when() - self.time(), _LONGEST)) <= 0:
            return False
        found: list[tuple[int, int]] = self._selector._selector.poll(wait, 2)
        return found == [(descriptor, select.EPOLLIN)]

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """Work in a thread is something that a run does beside waiting."""
        run = scope.still_wanted()
        run.busy += 1
        work: asyncio.Future[Any] = super().run_in_executor(executor, func, *args)
        work.add_done_callback(lambda _: run.done())
        return work

    def reopen(self) -> None:
        """Take a descriptor that no sibling shares. The pipe by which threads wake it is made when one does."""
        self._selector._selector = select.epoll()

    def add_signal_handler(self, sig: int, callback: Callable[..., object], *args: Any) -> None:  # type: ignore[override]
        """What a handler wakes the loop with has to be there."""
        self._write_to_self(always=True)
        super().add_signal_handler(sig, callback, *args)

    def _close_self_pipe(self) -> None:
        if self._csock is not None:
            super()._close_self_pipe()  # type: ignore[misc]

    def _write_to_self(self, always: bool = False) -> None:
        alone = not _thread._count()  # without another thread nothing can come while the loop waits, no signal either
        if alone and not always:
            return
        with self._making_pipe:
            if self._csock is None:
                self._make_self_pipe()  # type: ignore[attr-defined]
        super()._write_to_self()  # type: ignore[misc]
