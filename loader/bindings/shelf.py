"""One SQLite file that several tenants' data lies in, and how much of it each tenant has.

One line writes and another reads, so that who only looks does not wait for a disk. It refuses to know what is stored.
No tenant's SQL comes here; those have files of their own.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Self, TypeVar

from .lines import Line
from .storage import Account, Storage, StorageQuotaExceeded

Result = TypeVar("Result")
_USAGE = """
CREATE TABLE IF NOT EXISTS usage (
  tenant  TEXT PRIMARY KEY,
  bytes   INTEGER NOT NULL,
  entries INTEGER NOT NULL
) WITHOUT ROWID, STRICT;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageQuota:
    """How much one tenant may store in one store: bytes of keys, values and what is said about them; and entries."""

    bytes: int = 256 * 1024 * 1024
    entries: int = 1_000_000


class Shelf:
    """An open file. An async context manager; `now` gives the time in seconds since the epoch. With a `storage`, what
    is in it counts together with what a tenant has in other stores."""

    schema = ""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        quota: StorageQuota | None = None,
        storage: Storage | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._path = os.fspath(path)
        self.quota = quota or StorageQuota()
        self.storage = storage
        self.now = now
        self._charged: list[tuple[Account, int]] = []
        """By the transaction that is under way."""
        self._writer = Line(type(self).__name__, self._make, "BEGIN IMMEDIATE", self._ended)
        self._reader = Line(type(self).__name__, self._connect, "BEGIN")
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for line in (self._writer, self._reader):
                await line.open()
                stack.push_async_callback(line.close)
            if self.storage is not None:
                self.storage.join(self)
                stack.callback(self.storage.leave, self)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def work(self, tenant: str, function: Callable[[sqlite3.Connection], Result]) -> Result:
        """Store or delete something of a tenant's in one transaction."""
        if self.storage is None:
            return await self._writer.run(tenant, function)
        async with self.storage.held(tenant):
            return await self._writer.run(tenant, function)

    async def look(self, tenant: str, function: Callable[[sqlite3.Connection], Result]) -> Result:
        """Look at something. It finds all that was acknowledged before."""
        return await self._reader.run(tenant, function)

    async def usage(self, tenant: str) -> dict[str, int]:
        """What a tenant stores: `bytes` and `entries`."""
        found = await self.look(tenant, lambda connection: stored(connection, tenant))
        return dict(zip(("bytes", "entries"), found, strict=True))

    async def measure(self, tenant: str, account: Account) -> None:
        """See `Store`. Where transactions are made none is under way."""
        await self._writer.run(tenant, lambda connection: account.learn(self, stored(connection, tenant)[0]))

    def charge(self, connection: sqlite3.Connection, tenant: str, size: int, entries: int) -> None:
        """Count what a tenant stores more, or less. `StorageQuotaExceeded`, and then nothing of the work is done."""
        had = stored(connection, tenant)
        now = had[0] + size, had[1] + entries
        if (size > 0 and now[0] > self.quota.bytes) or (entries > 0 and now[1] > self.quota.entries):
            raise StorageQuotaExceeded(
                f"{now[0]:,} bytes in {now[1]:,} entries would be stored; "
                f"at most {self.quota.bytes:,} bytes and {self.quota.entries:,} entries may be"
            )
        if self.storage is not None and (account := self.storage.known(tenant)) is not None:
            account.charge(self, size)
            self._charged.append((account, size))
        connection.execute("INSERT OR REPLACE INTO usage VALUES (?, ?, ?)", (tenant, *now))

    def _ended(self, done: bool) -> None:
        if not done:
            for account, size in self._charged:
                account.correct(self, -size)
        self._charged.clear()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA busy_timeout = 5000")
        return connection

    def _make(self) -> sqlite3.Connection:
        connection = self._connect()
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.executescript(_USAGE + self.schema)
        except BaseException:
            connection.close()
            raise
        return connection


def stored(connection: sqlite3.Connection, tenant: str) -> tuple[int, int]:
    """Bytes and entries of a tenant."""
    found = connection.execute("SELECT bytes, entries FROM usage WHERE tenant = ?", (tenant,)).fetchone()
    return (found[0], found[1]) if found is not None else (0, 0)


def owner(tenant: object) -> str:
    """A tenant's id. `ValueError` if it is none."""
    if not isinstance(tenant, str) or not tenant:
        raise ValueError(f"a tenant id is text that is not empty, not {tenant!r:.80}")
    return tenant
