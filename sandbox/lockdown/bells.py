"""Descriptors that the kernel rings, those of many groups behind a single one that the loop waits on.

Each by itself would take half a kilobyte of the host's memory, for as long as its sandbox is warm.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
from collections.abc import Callable


class Bells:
    """Of one host. To be hung within the event loop that is to hear them."""

    def __init__(self) -> None:
        self._rung: dict[int, Callable[[], None]] = {}
        self._all: select.epoll | None = None

    def hang(self, rung: Callable[[], None]) -> int:
        """One more: its descriptor, an eventfd. `rung` is called while there is something to read in it. `OSError`."""
        bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        try:
            if self._all is None:
                self._all = self._heard()
            self._all.register(bell, select.EPOLLIN)
        except OSError:
            os.close(bell)
            raise
        self._rung[bell] = rung
        return bell

    def _heard(self) -> select.epoll:
        fresh = select.epoll()
        try:
            asyncio.get_running_loop().add_reader(fresh.fileno(), self._hear)
        except OSError:  # else those that are hung next would ring, and nobody hear it
            fresh.close()
            raise
        return fresh

    def take_down(self, bell: int) -> None:
        """One less."""
        assert self._all is not None
        self._all.unregister(bell)
        os.close(bell)
        del self._rung[bell]
        if not self._rung:
            with contextlib.suppress(RuntimeError):  # there is no loop any more
                asyncio.get_running_loop().remove_reader(self._all.fileno())
            self._all.close()
            self._all = None

    def _hear(self) -> None:
        for bell, _ in self._all.poll(0) if self._all is not None else ():
            if (rung := self._rung.get(bell)) is not None:  # else it was taken down by what another one led to
                rung()
