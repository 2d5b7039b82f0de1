"""One SQLite file that several tenants' data lies in, one thread that owns it, and how much of it each tenant has.

Work on it is a function of the connection, done in one transaction: all of it or nothing, and told when it is on disk.
It refuses to know what is stored. No tenant's SQL comes here; those have files of their own.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from ..errors import LoaderError

Result = TypeVar("Result")
_USAGE = """
CREATE TABLE IF NOT EXISTS usage (
  tenant  TEXT PRIMARY KEY,
  bytes   INTEGER NOT NULL,
  entries INTEGER NOT NULL
) WITHOUT ROWID, STRICT;
"""


class StorageQuotaExceeded(LoaderError):
    """The tenant stores more than it may. Something has to be deleted first."""


class StoreClosed(LoaderError):
    """The store is closed, or was never opened: use it as `async with ...`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageQuota:
    """How much one tenant may store in one store: bytes of keys, values and what is said about them; and entries."""

    bytes: int = 256 * 1024 * 1024
    entries: int = 1_000_000


class Shelf:
    """An open file. An async context manager; `now` gives the time in seconds since the epoch."""

    schema = ""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        quota: StorageQuota | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._path = os.fspath(path)
        self.quota = quota or StorageQuota()
        self.now = now
        self._thread: ThreadPoolExecutor | None = None
        self._connection: sqlite3.Connection

    async def __aenter__(self) -> Self:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=type(self).__name__)
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._open)
        except BaseException:
            self._thread.shutdown()
            self._thread = None
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.get_running_loop().run_in_executor(thread, self._connection.close)
            thread.shutdown()

    async def work(self, function: Callable[[sqlite3.Connection], Result]) -> Result:
        """Do something in one transaction. It is done to its end, even if whoever asked no longer wants it."""
        if self._thread is None:
            raise StoreClosed(f"use the {type(self).__name__} inside `async with`")
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._transact, function)

    async def usage(self, tenant: str) -> dict[str, int]:
        """What a tenant stores: `bytes` and `entries`."""
        return await self.work(
            lambda connection: dict(zip(("bytes", "entries"), stored(connection, tenant), strict=True))
        )

    def charge(self, connection: sqlite3.Connection, tenant: str, size: int, entries: int) -> None:
        """Count what a tenant stores more, or less. `StorageQuotaExceeded`, and then nothing of the work is done."""
        had = stored(connection, tenant)
        now = had[0] + size, had[1] + entries
        if (size > 0 and now[0] > self.quota.bytes) or (entries > 0 and now[1] > self.quota.entries):
            raise StorageQuotaExceeded(
                f"{now[0]:,} bytes in {now[1]:,} entries would be stored; "
                f"at most {self.quota.bytes:,} bytes and {self.quota.entries:,} entries may be"
            )
        connection.execute("INSERT OR REPLACE INTO usage VALUES (?, ?, ?)", (tenant, *now))

    def _open(self) -> None:
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA busy_timeout = 5000")
            connection.executescript(_USAGE + self.schema)
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    def _transact(self, function: Callable[[sqlite3.Connection], Any]) -> Any:
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            result = function(connection)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return result


def stored(connection: sqlite3.Connection, tenant: str) -> tuple[int, int]:
    """Bytes and entries of a tenant."""
    found = connection.execute("SELECT bytes, entries FROM usage WHERE tenant = ?", (tenant,)).fetchone()
    return (found[0], found[1]) if found is not None else (0, 0)


def owner(tenant: object) -> str:
    """A tenant's id. `ValueError` if it is none."""
    if not isinstance(tenant, str) or not tenant:
        raise ValueError(f"a tenant id is text that is not empty, not {tenant!r:.80}")
    return tenant
