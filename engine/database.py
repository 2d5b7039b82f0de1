"""Opening the file: whether it is ours, which version it is, and how it is brought to this one. Whose it is, is the
ownership's business.

A file is looked at before anything is changed in it. It knows no verb of the engine: those are in `store`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.resources
import os
import sqlite3
import threading
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

from sqlite_utils import Database

from .errors import DatabaseDamaged, DatabaseTooNew, EngineError, EngineLocked, NotACloisterDatabase, StorageError
from .ownership import read_only

if TYPE_CHECKING:
    from pathlib import Path

APPLICATION_ID = 0x636C7374  # "clst"
EXAMINE_SECONDS = 0.5
Synchronous = Literal["full", "normal"]


VERSION = 10
MIGRATIONS = ("schema.sql", *(f"schema_{number}.sql" for number in range(2, VERSION + 1)))
"""The n-th script brings a database from version n to n + 1. Add one and count it; never edit one that landed."""


def connect(path: Path, synchronous: Synchronous, *, examine: bool = False) -> sqlite3.Connection:
    """The one writing connection, on a database of this version.

    Transactions are begun and ended by the caller. With `examine` the file is looked through for damage first, for as
    long as that takes or a fraction of a second.
    """
    connection: sqlite3.Connection | None = None
    try:
        connection = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, cached_statements=256, timeout=1
        )
        database = Database(connection)
        version = inspect(database, path)
        if examine and version:
            _examine(connection, path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {'FULL' if synchronous == 'full' else 'NORMAL'}")
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute("BEGIN IMMEDIATE")  # so that what cannot be written is known now
        connection.execute(f"PRAGMA user_version = {version}")  # a file that is read-only takes the line above
        connection.execute("ROLLBACK")
        _migrate(database, version)
        connection.execute("PRAGMA busy_timeout = 0")  # from now on whoever writes decides whether to wait
    except BaseException as error:
        if connection is not None:
            connection.close()
        if isinstance(error, sqlite3.Error):
            raise refusal(path, error) from error
        raise
    return connection


def connect_to_read(path: Path) -> sqlite3.Connection:
    """A connection that sees what was committed, and cannot change it."""
    there = f"file:{quote(os.fsencode(path.absolute()))}?mode=rw"  # and none is made where there is none
    connection = sqlite3.connect(there, uri=True, isolation_level=None, check_same_thread=False, timeout=1)
    connection.execute("PRAGMA query_only = ON")
    return connection


def _examine(connection: sqlite3.Connection, path: Path) -> None:
    """Raise `DatabaseDamaged` if it is. A large file is looked through as far as the time allows."""
    timer = threading.Timer(EXAMINE_SECONDS, connection.interrupt)
    timer.start()
    try:
        found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
        return
    finally:
        timer.cancel()
        timer.join()
    if found != "ok":
        raise DatabaseDamaged(f"{path} is damaged ({found}); restore a backup")


def copy(path: Path, target: Path) -> int:
    """Write what is committed now to a new file, compact and whole, while others write on; its size in bytes.

    The file appears under its name when it is complete and on disk.
    """
    if target.exists():
        raise FileExistsError(f"{target} is there already; a backup replaces nothing")
    partial = target.with_name(target.name + ".partial")
    partial.unlink(missing_ok=True)
    try:
        with contextlib.closing(connect_to_read(path)) as connection:
            connection.execute("PRAGMA query_only = OFF")  # it writes, though not here
            connection.execute("VACUUM INTO ?", (str(partial),))
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.rename(target)
        folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except (sqlite3.Error, OSError) as error:
        partial.unlink(missing_ok=True)
        raise StorageError(f"cannot copy {path} to {target}: {error}") from error
    return target.stat().st_size


def refusal(path: Path, error: sqlite3.Error) -> EngineError:
    """Why a database could not be opened, in our words."""
    if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
        return EngineLocked(f"{path} is locked by another program that has it open")
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_READONLY:
        return read_only(path)
    if code == sqlite3.SQLITE_CORRUPT:
        return DatabaseDamaged(f"{path} is damaged ({error}); restore a backup")
    return StorageError(f"cannot open {path}: {error}")


def inspect(database: Database, path: Path) -> int:
    """The version of the file, 0 for an empty one; an error if it is not ours to open."""
    try:
        application = database.conn.execute("PRAGMA application_id").fetchone()[0]
        version = database.conn.execute("PRAGMA user_version").fetchone()[0]
        tables = database.table_names()
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_NOTADB:
            raise
        raise NotACloisterDatabase(f"{path} is not a database: {error}") from error
    if application != APPLICATION_ID and (application or version or tables):
        raise NotACloisterDatabase(f"{path} is the database of another application")
    if version > len(MIGRATIONS):
        raise DatabaseTooNew(f"{path} has version {version}; this cloister knows versions up to {len(MIGRATIONS)}")
    return int(version)


@functools.cache
def tables() -> frozenset[str]:
    """Those of an engine; others in the same file are the host's own."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        database = Database(connection)
        _migrate(database, 0)
        return frozenset(database.table_names())


def _migrate(database: Database, version: int) -> None:
    """Each script with its version number in one transaction, so that a crash leaves a real version."""
    scripts = importlib.resources.files(__package__)
    for number, name in enumerate(MIGRATIONS[version:], version + 1):
        try:
            database.conn.executescript(
                f"BEGIN IMMEDIATE; {scripts.joinpath(name).read_text()};"
                f" PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {number}; COMMIT;"
            )
        finally:
            if database.conn.in_transaction:
                database.conn.execute("ROLLBACK")
