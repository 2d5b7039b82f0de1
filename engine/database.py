"""Opening the file: who owns it, whether it is ours, which version it is, and how it is brought to this one.

A file is looked at before anything is changed in it. It knows no verb of the engine: those are in `store`.
"""

from __future__ import annotations

import fcntl
import importlib.resources
import os
import sqlite3
from typing import TYPE_CHECKING, Literal

from sqlite_utils import Database

from .errors import DatabaseTooNew, EngineError, EngineLocked, NotACloisterDatabase, StorageError

if TYPE_CHECKING:
    from pathlib import Path

APPLICATION_ID = 0x636C7374  # "clst"
Synchronous = Literal["full", "normal"]


VERSION = 7
MIGRATIONS = ("schema.sql", *(f"schema_{number}.sql" for number in range(2, VERSION + 1)))
"""The n-th script brings a database from version n to n + 1. Add one and count it; never edit one that landed."""


class Ownership:
    """The right to write a database: a lock on a file beside it, which the kernel takes back when the owner
    dies.
    """

    def __init__(self, path: Path) -> None:
        if path.is_file() and path.stat().st_nlink > 1:
            raise EngineLocked(f"{path} has other names (hard links) under which it could be in use; keep only one")
        lock = path.with_name(path.name + ".lock")
        try:
            self._fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageError(f"cannot open {lock}: {error.strerror}") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.pread(self._fd, 20, 0).decode("ascii", "replace").strip()
            os.close(self._fd)
            raise EngineLocked(f"{path} is in use by the engine of process {owner or 'unknown'}") from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, str(os.getpid()).encode("ascii"), 0)

    def release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def connect(path: Path, synchronous: Synchronous) -> sqlite3.Connection:
    """The one writing connection, on a database of this version.

    Transactions are begun and ended by the caller.
    """
    connection: sqlite3.Connection | None = None
    try:
        connection = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, cached_statements=256, timeout=1
        )
        database = Database(connection)
        version = _inspect(database, path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {'FULL' if synchronous == 'full' else 'NORMAL'}")
        connection.execute("PRAGMA wal_autocheckpoint = 1000")  # rewriting a short log syncs faster than growing one
        connection.execute(f"PRAGMA journal_size_limit = {64 * 1024 * 1024}")
        connection.execute("PRAGMA temp_store = MEMORY")
        _migrate(database, version)
    except BaseException as error:
        if connection is not None:
            connection.close()
        if isinstance(error, sqlite3.Error):
            raise refusal(path, error) from error
        raise
    return connection


def connect_to_read(path: Path) -> sqlite3.Connection:
    """A connection that sees what was committed, and cannot change it."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=1)
    connection.execute("PRAGMA query_only = ON")
    return connection


def refusal(path: Path, error: sqlite3.Error) -> EngineError:
    """Why a database could not be opened, in our words."""
    if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
        return EngineLocked(f"{path} is locked by another program that has it open")
    return StorageError(f"cannot open {path}: {error}")


def _inspect(database: Database, path: Path) -> int:
    """The version of the file, 0 for an empty one; an error if it is not ours to open."""
    try:
        application = database.conn.execute("PRAGMA application_id").fetchone()[0]
        version = database.conn.execute("PRAGMA user_version").fetchone()[0]
        tables = database.table_names()
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise
        raise NotACloisterDatabase(f"{path} is not a database: {error}") from error
    if application != APPLICATION_ID and (application or version or tables):
        raise NotACloisterDatabase(f"{path} is the database of another application")
    if version > len(MIGRATIONS):
        raise DatabaseTooNew(f"{path} has version {version}; this cloister knows versions up to {len(MIGRATIONS)}")
    return int(version)


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
