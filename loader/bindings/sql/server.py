"""The process that runs the SQL of tenants: it is handed a path and a batch, and knows nothing else of anybody.

It runs the batch as one transaction, so that a process which is ended in the middle leaves nothing but what SQLite
undoes by itself, and keeps the file open until it is handed another one. It ends with its host. What it says to that,
each with its length in front: `settling` when what takes time now is not the tenant's business (undoing, or storing),
and `begun` when it is again; `commit` with the size that the file would have, which the host answers, where that
changes; and then `done` or `failed`.
"""

from __future__ import annotations

import contextlib
import os
import queue
import resource
import socket
import sqlite3
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

import msgpack

from .guard import Guard
from .scripts import split

PAGE: Final = 4096
_OWN_BYTES: Final = 64 * 1024 * 1024
"""What Python may take beside SQLite."""
_SPARE: Final = 256
"""Pages that nothing lies in are given back from so many on,"""
_GIVEN_BACK: Final = 8192
"""and so many at a time."""
_FULL: Final = 1 << 20
"""Bytes that are free on a disk which is as good as full."""


class Refused(Exception):
    """What the host is told: which kind of failure, and its words."""

    def __init__(self, kind: str, words: str) -> None:
        super().__init__(kind, words)


class Server:
    """One host at the other end of the socket."""

    def __init__(self, host: socket.socket) -> None:
        self._out, self._in = host, host.makefile("rb")
        self._heard: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._file = _File()
        threading.Thread(target=self._listen, daemon=True).start()

    def serve(self) -> None:
        """Until the host has gone."""
        while True:
            batch = self._heard.get()
            try:
                self._tell("done", self._run(**batch))
            except Refused as refusal:
                self._tell("failed", *refusal.args)

    def _listen(self) -> None:
        """A thread of its own, so that it hears that nobody waits any longer, or that there is no host."""
        try:
            while head := self._in.read(4):
                (size,) = struct.unpack("=I", head)
                message = msgpack.unpackb(self._in.read(size), strict_map_key=False, unicode_errors="surrogatepass")
                if message == "stop":
                    self._stopped.set()
                    continue
                if isinstance(message, dict):
                    self._stopped.clear()
                self._heard.put(message)
        finally:  # a host that was killed has perhaps left an answer unread, or half of what it was saying unsaid
            os._exit(0)

    def _tell(self, *message: Any) -> None:
        data = msgpack.packb(message, unicode_errors="surrogatepass")
        self._out.sendall(struct.pack("=I", len(data)) + data)

    def _run(self, path: str, statements: list[Any] | str, limits: dict[str, Any], keep: bool) -> bytes:
        try:
            unfinished = _unfinished(path)
            if unfinished:
                self._tell("settling")
            connection = self._file.open(path, limits["bytes"])
            if unfinished:
                self._tell("begun")
            guard = Guard(connection, self._stopped, seconds=limits["seconds"], written=limits["written_bytes"])
            connection.execute("BEGIN")
            try:
                return self._transact(connection, guard, statements, limits, keep)
            except sqlite3.Error as error:
                raise Refused(_kind(error, guard, path), str(error)) from error
            finally:
                guard.host = True
                if connection.in_transaction:
                    self._tell("settling")
                    connection.execute("ROLLBACK")
        except MemoryError as error:
            raise Refused("memory", "") from error
        except sqlite3.Error as error:
            raise Refused("sql", str(error)) from error
        except (OverflowError, ValueError, UnicodeError) as error:
            raise Refused("value", str(error)) from error

    def _transact(
        self,
        connection: sqlite3.Connection,
        guard: Guard,
        statements: list[Any] | str,
        limits: dict[str, Any],
        keep: bool,
    ) -> bytes:
        """The results, encoded: to the host they are bytes, which it passes on. Those of a script are without rows."""
        budget = _Budget(limits["rows"], limits["result_bytes"])
        before, changes = _pages(connection), connection.total_changes
        guard.host = False
        batch = ((query, []) for query in split(statements)) if isinstance(statements, str) else statements
        results = [_one(connection, query, params, budget) for query, params in batch]
        if isinstance(statements, str):
            results = [{**result, "results": []} for result in results]
        guard.host = True
        if keep and (connection.total_changes != changes or _pages(connection) != before):
            self._tell("settling")
            self._settle(connection, before)
        size = _pages(connection) * PAGE
        for result in results:
            result["meta"]["size_after"] = size
        told: bytes = msgpack.packb(results)  # before anything is for good: there may be no memory for it
        if keep:
            connection.execute("COMMIT")
        return told

    def _settle(self, connection: sqlite3.Connection, before: int) -> None:
        """Give back what is free, and ask whether the file may be so large."""
        (spare,) = connection.execute("PRAGMA freelist_count").fetchone()
        if spare > max(_SPARE, before // 4):
            for _ in range(min(spare, _GIVEN_BACK)):  # Python before 3.12 takes one step of what gives no rows
                connection.execute("PRAGMA incremental_vacuum(1)")
        pages = _pages(connection)
        if pages != before:
            self._tell("commit", pages * PAGE)
            if not self._heard.get():
                raise Refused("full", "")


class _File:
    """The one that is open: what is asked for next is most often the same."""

    def __init__(self) -> None:
        self._path, self._about = "", (0, 0)
        self._connection: sqlite3.Connection | None = None

    def open(self, path: str, most: int) -> sqlite3.Connection:
        """A connection to a file of at most so many bytes. One that was deleted is not what is under its path now."""
        if self._connection is None or self._path != path or self._about != _identity(path):
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            self._connection = _opened(path)
            self._path, self._about = path, _identity(path)
        self._connection.set_authorizer(None)
        self._connection.execute(f"PRAGMA max_page_count = {max(most // PAGE, 1)}")
        return self._connection


def _unfinished(path: str) -> bool:
    """Whether a process was ended in the middle of something, which SQLite undoes when the file is opened."""
    try:
        return Path(f"{path}-journal").stat().st_size > 0
    except FileNotFoundError:
        return False


def _identity(path: str) -> tuple[int, int]:
    try:
        found = Path(path).stat()
    except FileNotFoundError:
        return (0, 0)
    return found.st_dev, found.st_ino


def _opened(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    new = () if Path(path).stat().st_size else (f"page_size = {PAGE}", "auto_vacuum = INCREMENTAL")
    for setting in (
        *new, "journal_mode = TRUNCATE", "synchronous = FULL", "foreign_keys = ON", "trusted_schema = OFF",
        "cell_size_check = ON", "cache_size = -2048",
    ):  # fmt: skip
        connection.execute(f"PRAGMA {setting}")
    return connection


def _one(connection: sqlite3.Connection, query: str, params: list[Any], budget: _Budget) -> dict[str, Any]:
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


def _pages(connection: sqlite3.Connection) -> int:
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    return int(pages)


def _kind(error: sqlite3.Error, guard: Guard, path: str) -> str:
    if guard.overran:
        return "overran"
    if guard.overwrote:
        return "overwrote"
    if getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_FULL:
        return "sql"
    disk = os.statvfs(path)
    return "disk" if disk.f_bavail * disk.f_frsize < _FULL else "full"


class _Budget:
    """How much of the results is taken."""

    def __init__(self, rows: int, size: int) -> None:
        self._most_rows, self._most_bytes = rows, size
        self._rows = self._bytes = 0

    def take(self, row: tuple[Any, ...], named: int) -> tuple[Any, ...]:
        """One more row, with the names of its columns, which are sent with each."""
        self._rows += 1
        self._bytes += named + sum(len(value) + 8 if isinstance(value, str | bytes) else 8 for value in row)
        if self._rows > self._most_rows or self._bytes > self._most_bytes:
            raise sqlite3.DataError(
                f"more than {self._most_rows:,} rows or {self._most_bytes:,} bytes of results; use LIMIT"
            )
        return row


def main() -> None:
    """Arguments: the folder of this, that of msgpack, the descriptor of a socket, and bytes that SQLite may take."""
    descriptor, memory = map(int, sys.argv[3:5])
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(f"PRAGMA hard_heap_limit = {memory}")
    most = memory + _OWN_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    Server(socket.socket(fileno=descriptor)).serve()
