"""One thread with a connection that only reads, beside the one that writes.

What it is asked sees everything that was acknowledged before, and holds up no commit. It knows verbs as functions.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from .errors import EngineClosed, StorageError

if TYPE_CHECKING:
    from .store.catalogue import Catalogue

P = ParamSpec("P")
T = TypeVar("T")


class Reader:
    """Runs verbs of the catalogue, one at a time. Made and used on one event loop."""

    def __init__(self, open_catalogue: Callable[[], Catalogue]) -> None:
        self._open_catalogue = open_catalogue
        self._catalogue: Catalogue | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="cloister-reader")
        self._pending: set[asyncio.Future[object]] = set()
        self._asked = self._closing = False

    async def ask(self, verb: Callable[Concatenate[Catalogue, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What the verb returns; `StorageError` if it could not be read."""
        if self._closing:
            raise EngineClosed
        self._asked = True
        work: asyncio.Future[object] = asyncio.get_running_loop().run_in_executor(
            self._thread, lambda: self._look(verb, *args, **kwargs)
        )
        self._pending.add(work)
        work.add_done_callback(self._pending.discard)
        return await work  # type: ignore[return-value]

    async def idle(self) -> bool:
        """Return when nothing is being read, and whether that had to be waited for."""
        waited = bool(self._pending)
        while self._pending:
            await asyncio.wait(self._pending)
        return waited

    async def close(self) -> None:
        self._closing = True
        await self.idle()
        if self._asked:  # else there is no thread, and at the end of a process none can be begun
            await asyncio.get_running_loop().run_in_executor(self._thread, self._forget)
        self._thread.shutdown()

    # In the thread

    def _look(self, verb: Callable[Concatenate[Catalogue, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        fresh = self._catalogue is None
        try:
            if self._catalogue is None:
                self._catalogue = self._open_catalogue()
            return verb(self._catalogue, *args, **kwargs)
        except sqlite3.Error as error:
            self._forget()
            if not fresh:  # what it has open may be gone, and something else be there
                return self._look(verb, *args, **kwargs)
            raise StorageError(f"could not be read: {error}") from error

    def _forget(self) -> None:
        catalogue, self._catalogue = self._catalogue, None
        if catalogue is not None:
            with contextlib.suppress(sqlite3.Error):
                catalogue.close()
