"""One thread with one connection to a SQLite file, at which tenants take turns: nobody's long queue is in front of all.

Work is a function of the connection, done in one transaction: all of it or nothing, and told when it is on disk.
"""

from __future__ import annotations

import asyncio
import functools
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Generic, TypeVar

from ..errors import LoaderError
from ..fair import FairQueue

Result = TypeVar("Result")
_AHEAD: Final = 2
"""What the thread has: what it does, and what it does next without waiting for the loop."""


class StoreClosed(LoaderError):
    """The store is closed, or was never opened: use it as `async with ...`."""


class _Job(Generic[Result]):
    """Something to do, and who waits for it."""

    def __init__(self, function: Callable[[sqlite3.Connection], Result]) -> None:
        self.function = function
        self.done: asyncio.Future[Result] = asyncio.get_running_loop().create_future()


class Line:
    """`begin` is the statement that begins a transaction of its kind. `ended` hears, in the thread, of the end of each:
    whether it was done."""

    def __init__(
        self,
        name: str,
        open_file: Callable[[], sqlite3.Connection],
        begin: str,
        ended: Callable[[bool], None] = lambda done: None,
    ) -> None:
        self._name, self._open_file, self._begin, self._ended = name, open_file, begin, ended
        self._thread: ThreadPoolExecutor | None = None
        self._connection: sqlite3.Connection
        self._queue: FairQueue[str, _Job[Any]] = FairQueue()
        self._inside = 0
        self._empty = asyncio.Event()

    async def open(self) -> None:
        """Start the thread, and open the file in it."""
        thread = ThreadPoolExecutor(1, thread_name_prefix=self._name)
        try:
            self._connection = await asyncio.get_running_loop().run_in_executor(thread, self._open_file)
        except BaseException:
            thread.shutdown()
            raise
        self._thread = thread

    async def close(self) -> None:
        """What waits is refused, what runs is waited for."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        for job in self._queue:
            if not job.done.done():
                job.done.set_exception(self._closed())
        while self._inside:
            self._empty.clear()
            await self._empty.wait()
        await asyncio.get_running_loop().run_in_executor(thread, self._connection.close)
        thread.shutdown()

    async def run(self, tenant: str, function: Callable[[sqlite3.Connection], Result]) -> Result:
        """Do something in one transaction. What has begun is done to its end, even if nobody wants it any longer."""
        if self._thread is None:
            raise self._closed()
        job = _Job(function)
        self._queue.push(tenant, job)
        self._feed()
        return await job.done

    def _feed(self) -> None:
        while self._thread is not None and self._inside < _AHEAD and (found := self._queue.pop()) is not None:
            _, job = found
            if job.done.done():  # nobody waits for it
                continue
            self._inside += 1
            running = asyncio.get_running_loop().run_in_executor(self._thread, self._transact, job.function)
            running.add_done_callback(functools.partial(self._ran, job))

    def _ran(self, job: _Job[Any], ran: asyncio.Future[Any]) -> None:
        self._inside -= 1
        error = ran.exception()
        if not job.done.done():
            if error is None:
                job.done.set_result(ran.result())
            else:
                job.done.set_exception(error)
        self._empty.set()
        self._feed()

    def _transact(self, function: Callable[[sqlite3.Connection], Any]) -> Any:
        connection = self._connection
        connection.execute(self._begin)
        try:
            result = function(connection)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            self._ended(False)
            raise
        self._ended(True)
        return result

    def _closed(self) -> StoreClosed:
        return StoreClosed(f"use the {self._name} inside `async with`")
