"""Brings what is told to one tail, in order, and loses what that does not take in time.

A tail cannot fail what it is told of and holds it up by nothing: what is told waits in a bounded queue, and what is
beyond is counted. What a tail raises is logged.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Literal, Protocol

from cloister.ipc.quotes import quote

from .errors import LoaderClosed

_log = logging.getLogger("cloister.tail")
_log.addFilter(quote)
MOST_WAITING: Final = 1024
"""Events, and as many lines, of one sandbox that wait for slow tails."""
PATIENCE: Final = 30.0
"""Seconds that a tail may take for what it is given at once."""
MOST_CHARACTERS: Final = 16 * 1024 * 1024
"""Those of all that waits, about: how many events there are says little of what they take."""
AT_ONCE: Final = 64
"""Events that an entrypoint is given at once."""
_ENOUGH: Final = 1024 * 1024
"""Characters after which it is given no further one: what does not fit into one call would be lost."""


class TailWorker(Protocol):
    """An entrypoint that defines `tail(events)`."""

    async def handle(self, event: Literal["queue", "tail"], subject: Any) -> Any:
        """Hand it events."""


_under_way: set[asyncio.Task[None]] = set()


class Courier:
    """To one tail. `as_it_happens`: a function is told at once, where nothing waits before. `size` says of an event how
    many characters it has, about."""

    def __init__(
        self,
        tail: Any,
        plain: Callable[[Any], dict[str, Any]],
        size: Callable[[Any], int],
        *,
        as_it_happens: bool = False,
    ) -> None:
        self._tail, self._plain, self._size, self._as_it_happens = tail, plain, size, as_it_happens
        self.direct = not hasattr(type(tail), "handle")
        """It is a function."""
        self._waiting: deque[tuple[Any, int]] = deque()
        self._characters = 0
        self._task: asyncio.Task[None] | None = None
        self._lost = 0

    def take(self, told: Any) -> None:
        """One more thing to tell."""
        size = self._size(told)
        if self.direct and self._as_it_happens and self._task is None:
            told = self._call(told)
            if not inspect.isawaitable(told):
                return
        if len(self._waiting) >= MOST_WAITING or self._characters + size > MOST_CHARACTERS:
            self._lost += 1
            return
        self._waiting.append((told, size))
        self._characters += size
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._bring())
            _under_way.add(self._task)
            self._task.add_done_callback(_under_way.discard)

    def _call(self, told: Any) -> object:
        try:
            return self._tail(told)
        except Exception:  # noqa: BLE001 - a tail must not cost the tenant its answer
            _log.exception("a tail raised")
            return None

    async def _bring(self) -> None:
        try:
            while self._waiting:
                if self._lost:
                    lost, self._lost = self._lost, 0
                    _log.warning("%d events came faster than a tail took them, and were dropped", lost)
                try:
                    async with asyncio.timeout(PATIENCE):
                        await self._give()
                except LoaderClosed:
                    _log.warning("%r was told no more of its tails: its loader is closing", self._tail)
                    self._waiting.clear()
                    self._characters = 0
                except TimeoutError:
                    _log.warning("%r took longer than %g s for what it was told", self._tail, PATIENCE)
                except Exception:  # noqa: BLE001 - the same
                    _log.exception("a tail raised")
        finally:
            self._task = None

    async def _give(self) -> None:
        if self.direct:
            told, _ = self._next()
            result = told if inspect.isawaitable(told) else self._tail(told)
            if inspect.isawaitable(result):
                await result
            return
        events: list[dict[str, Any]] = []
        taken = 0
        while self._waiting and len(events) < AT_ONCE and taken < _ENOUGH:
            told, size = self._next()
            events.append(self._plain(told))
            taken += size
        await self._tail.handle("tail", events)

    def _next(self) -> tuple[Any, int]:
        told, size = self._waiting.popleft()
        self._characters -= size
        return told, size


async def delivered(seconds: float) -> None:
    """Until all that waits in this loop was told, for so many seconds at most."""
    loop = asyncio.get_running_loop()
    if left := {task for task in _under_way if task.get_loop() is loop}:
        await asyncio.wait(left, timeout=seconds)
