"""A private SQLite database for each tenant, after Cloudflare's D1: opened by the host, and never by a sandbox.

A tenant's statements run in threads that nothing else uses, one at a time for each database. What they may do is the
business of `statements`; here it is who has which file, how large that may become, and how much of a result is taken.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import sqlite3
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from cloister.ipc import RpcTarget

from ..errors import LoaderError
from .shelf import StorageQuotaExceeded, StoreClosed, owner
from .statements import Guard

_PAGE: Final = 4096
_MOST_STATEMENTS: Final = 1000
_FILES: Final = ("", "-journal", "-wal", "-shm")


class SqlError(LoaderError):
    """SQLite refused a statement, or it took too long. The message is SQLite's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseLimits:
    """Of one database, and of one call: a statement or a batch."""

    bytes: int = 256 * 1024 * 1024
    """On disk."""
    seconds: float = 5.0
    rows: int = 50_000
    result_bytes: int = 8 * 1024 * 1024
    written_bytes: int = 1024 * 1024 * 1024
    """To files of any kind: the database, its journal, and what sorting takes."""


class Databases:
    """A folder of tenants' databases: `async with Databases("databases/") as databases`.

    `threads` work at the same time, each for one database. Up to `most_open` files are kept open.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        limits: DatabaseLimits | None = None,
        threads: int = 4,
        most_open: int = 64,
    ) -> None:
        self._folder = Path(folder)
        self.limits = limits or DatabaseLimits()
        self._threads = threads
        self._most_open = most_open
        self._pool: ThreadPoolExecutor | None = None
        self._open: OrderedDict[str, _Database] = OrderedDict()

    async def __aenter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="Databases")
        return self

    async def __aexit__(self, *_: object) -> None:
        for database in list(self._open.values()):
            async with database.turn:
                await self._in_thread(database.close)
        self._open.clear()
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown()

    async def size(self, tenant: str) -> int:
        """How many bytes a tenant's databases take on disk."""
        return sum(file.stat().st_size for file in self._files(tenant))

    async def drop(self, tenant: str) -> None:
        """Delete a tenant's databases."""
        folder = self._place(tenant)
        for path in [path for path in self._open if Path(path).parent == folder]:
            database = self._open[path]
            async with database.turn:
                await self._in_thread(database.close)
                self._open.pop(path, None)
        for file in list(self._files(tenant)):
            file.unlink(missing_ok=True)

    @contextlib.asynccontextmanager
    async def use(self, tenant: str, name: str) -> AsyncIterator[_Database]:
        """A database, for whoever's turn it is."""
        path = str(self._place(tenant) / f"{_safe(name)}.db")
        database = self._open.get(path)
        if database is None:
            database = self._open[path] = _Database(path, self.limits)
        self._open.move_to_end(path)
        database.users += 1
        try:
            async with database.turn:
                yield database
        finally:
            database.users -= 1
        await self._make_room()

    async def run(self, database: _Database, work: Any, *arguments: Any) -> Any:
        """Work on a database in a thread. What is no longer wanted is interrupted, and waited for."""
        running = asyncio.ensure_future(self._in_thread(work, *arguments))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            database.stop()
            await asyncio.wait({running})
            if not running.cancelled():
                running.exception()
            raise

    async def _in_thread(self, work: Any, *arguments: Any) -> Any:
        if self._pool is None:
            raise StoreClosed("use the Databases inside `async with`")
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)

    async def _make_room(self) -> None:
        while len(self._open) > self._most_open:
            idle = next((path for path, database in self._open.items() if not database.users), None)
            if idle is None:
                return
            await self._in_thread(self._open.pop(idle).close)

    def _place(self, tenant: str) -> Path:
        return self._folder / _safe(owner(tenant))

    def _files(self, tenant: str) -> Iterator[Path]:
        folder = self._place(tenant)
        return (file for file in folder.iterdir() if file.is_file()) if folder.is_dir() else iter(())


class Database(RpcTarget):
    """`env={"DB": Database(databases, tenant_id)}`. From inside: `await env.DB.prepare(query).bind(*params).all()`,
    `.first()`, `.run()`, `.raw()`; `env.DB.batch([statements])`, which is one transaction; `env.DB.exec(script)`;
    `env.DB.sql(query, *params)`, which gives rows. The host has `batch`, `exec` and `sql`.
    """

    def __init__(self, databases: Databases, tenant: str, *, name: str = "main") -> None:
        self._databases, self._tenant, self._name = databases, owner(tenant), name

    def rpc_attributes(self) -> dict[str, Any]:
        """From inside it is an object that makes statements without asking."""
        return {"workers.class": "Database"}

    async def batch(self, statements: object) -> list[dict[str, Any]]:
        """Statements with their parameters, `[[query, [params]], ...]`, as one transaction: the result of each."""
        async with self._databases.use(self._tenant, self._name) as database:
            found: list[dict[str, Any]] = await self._databases.run(database, database.batch, _statements(statements))
        return found

    async def sql(self, query: object, *params: object) -> list[dict[str, Any]]:
        """The rows of one statement."""
        (result,) = await self.batch([[query, list(params)]])
        rows: list[dict[str, Any]] = result["results"]
        return rows

    async def exec(self, script: object) -> dict[str, Any]:
        """Several statements in one text, without parameters, as one transaction: `{count, duration}`."""
        results = await self.batch([[query, []] for query in _split(script)])
        return {"count": len(results), "duration": sum(result["meta"]["duration"] for result in results)}


class _Database:
    """One file. All but `stop` is called in a thread, by whoever has the turn."""

    def __init__(self, path: str, limits: DatabaseLimits) -> None:
        self.turn = asyncio.Lock()
        self.users = 0
        """Who has the turn, or waits for it."""
        self._path, self._limits = Path(path), limits
        self._connection: sqlite3.Connection | None = None
        self._guard: Guard | None = None

    def close(self) -> None:
        """Let go of the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = self._guard = None

    def stop(self) -> None:
        """Nobody waits any longer."""
        if self._guard is not None:
            self._guard.stop()

    def batch(self, statements: list[tuple[str, list[Any]]]) -> list[dict[str, Any]]:
        """Run them; either all is done or nothing."""
        connection, guard = self._opened()
        guard.begin(self._limits.seconds, self._limits.written_bytes)
        budget = _Budget(self._limits)
        self._command(connection, guard, "BEGIN")
        try:
            results = [self._run(connection, query, params, budget) for query, params in statements]
            self._command(connection, guard, "COMMIT")
        except sqlite3.Error as error:
            raise self._told(error, guard) from error
        except (OverflowError, ValueError, UnicodeError) as error:
            raise SqlError(f"a parameter that SQLite cannot store: {error}") from error
        finally:
            if connection.in_transaction:
                self._command(connection, guard, "ROLLBACK")
        return results

    def _run(self, connection: sqlite3.Connection, query: str, params: list[Any], budget: _Budget) -> dict[str, Any]:
        began, before = time.perf_counter(), connection.total_changes
        with contextlib.closing(connection.execute(query, params)) as cursor:
            names = [column[0] for column in cursor.description or ()]
            named = sum(len(name) for name in names)
            rows = [dict(zip(names, budget.take(row, named), strict=True)) for row in cursor]
            last = cursor.lastrowid
        changes = connection.total_changes - before
        meta = {"changes": changes, "changed_db": changes > 0, "last_row_id": last or 0, "rows_read": len(rows),
                "rows_written": changes, "duration": round((time.perf_counter() - began) * 1000, 3)}  # fmt: skip
        return {"success": True, "results": rows, "meta": meta}

    def _opened(self) -> tuple[sqlite3.Connection, Guard]:
        if self._connection is None or self._guard is None:
            self._path.parent.mkdir(exist_ok=True)
            connection = sqlite3.connect(
                self._path, isolation_level=None, check_same_thread=False, cached_statements=32
            )
            connection.execute(f"PRAGMA page_size = {_PAGE}")
            for setting in (
                "journal_mode = TRUNCATE", "synchronous = FULL", "foreign_keys = ON", "trusted_schema = OFF",
                "cell_size_check = ON", "cache_size = -2048", f"max_page_count = {max(self._limits.bytes // _PAGE, 1)}",
            ):  # fmt: skip
                connection.execute(f"PRAGMA {setting}")
            self._connection, self._guard = connection, Guard(connection)
        return self._connection, self._guard

    @staticmethod
    def _command(connection: sqlite3.Connection, guard: Guard, command: str) -> None:
        guard.host = True
        try:
            connection.execute(command)
        finally:
            guard.host = False

    def _told(self, error: sqlite3.Error, guard: Guard) -> LoaderError:
        if guard.overran:
            return SqlError(f"the statements took longer than {self._limits.seconds:g} s, and were interrupted")
        if guard.overwrote:
            return SqlError(
                f"the statements wrote more than {self._limits.written_bytes:,} bytes, and were interrupted"
            )
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            return StorageQuotaExceeded(f"the database would be larger than {self._limits.bytes:,} bytes")
        return SqlError(str(error))


class _Budget:
    """How much of the results is taken."""

    def __init__(self, limits: DatabaseLimits) -> None:
        self._limits = limits
        self._rows = self._bytes = 0

    def take(self, row: tuple[Any, ...], named: int) -> tuple[Any, ...]:
        """One more row, with the names of its columns, which are sent with each."""
        self._rows += 1
        self._bytes += named + sum(len(value) + 8 if isinstance(value, str | bytes) else 8 for value in row)
        if self._rows > self._limits.rows or self._bytes > self._limits.result_bytes:
            raise sqlite3.DataError(
                f"more than {self._limits.rows:,} rows or {self._limits.result_bytes:,} bytes of results; use LIMIT"
            )
        return row


def _statements(given: object) -> list[tuple[str, list[Any]]]:
    if not isinstance(given, list) or len(given) > _MOST_STATEMENTS:
        raise TypeError(f"a batch is a list of at most {_MOST_STATEMENTS:,} statements")
    found = []
    for statement in given:
        match statement:
            case [str(query), list(params)] if all(isinstance(one, None | int | float | str | bytes) for one in params):
                found.append((query, params))
            case [str(), list()]:
                raise TypeError("a parameter is None, a number, text or bytes")
            case _:
                raise TypeError("a statement is a query and a list of parameters")
    return found


def _split(script: object) -> Iterator[str]:
    if not isinstance(script, str) or len(script) > 100_000:
        raise TypeError("a script is text of at most 100,000 characters")
    kept = ""
    for part in script.split(";"):
        kept += f"{part};"
        if sqlite3.complete_statement(kept):
            if kept.strip(" \t\r\n;"):
                yield kept
            kept = ""
    if kept.strip(" \t\r\n;"):
        yield kept.removesuffix(";")


def _safe(name: str) -> str:
    """A file name that is one tenant's and nobody else's, whatever is in the name."""
    plain = "".join(sign for sign in name.lower() if sign.isascii() and (sign.isalnum() or sign in "-_"))[:40]
    return f"{plain}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"
