"""What goes on for a workflow whether or not anybody waits for it, and what must be written, however long the storage
fails.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from .clock import Clock, resolve
from .errors import EngineClosed, RunOver, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    from .store.store import Store
    from .writer import Writer

STORAGE_NAP_SECONDS = 1.0

P = ParamSpec("P")
T = TypeVar("T")


class Background:
    """The tasks of one workflow, until it is closed."""

    def __init__(self, writer: Writer, clock: Clock) -> None:
        self._writer, self._clock = writer, clock
        self._tasks: set[asyncio.Task[None]] = set()
        self._naps: set[asyncio.Future[None]] = set()
        self.closed = False

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def insist(self, verb: Callable[Concatenate[Store, P], T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Write what must be written, however long the storage fails.

        None if the instance ended first, or we close.
        """
        while True:
            try:
                return await self._writer.submit(verb, *args, **kwargs)
            except (RunOver, EngineClosed):
                return None
            except StorageError:
                if self.closed:
                    return None
                await self.nap()

    async def nap(self) -> None:
        """Give the storage time to recover."""
        nap: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        timer = self._clock.call_later(STORAGE_NAP_SECONDS, lambda: resolve(nap))
        self._naps.add(nap)
        try:
            await nap
        finally:
            timer.cancel()
            self._naps.discard(nap)

    def close(self) -> None:
        """From now on nothing is tried again."""
        self.closed = True
        for nap in self._naps:
            nap.set_result(None)

    async def ended(self, others: Iterable[asyncio.Future[Any]] = ()) -> None:
        """Wait for every task, and for these."""
        ending = [*others]
        while self._tasks or ending:
            await asyncio.wait({*self._tasks, *ending})
            ending = []
