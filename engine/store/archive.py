"""What is done with a database as a file: look at it, make it small, copy it.

For an operator, without an engine. Looking and copying go beside a live one; what changes the file wants it alone.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from ..database import VERSION, connect, connect_to_read, copy, inspect, refusal
from ..errors import InstanceNotFound, StorageError
from ..listing import Page, Query, Summary, cursor_after
from ..ownership import Ownership
from .catalogue import Catalogue
from .columns import STANDS


@contextlib.contextmanager
def reading(path: Path, oldest: int = 1) -> Iterator[Database]:
    """The file, if it is one of ours, and neither too new nor too old; `EngineError` if not."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no database {path}")
    connection: sqlite3.Connection | None = None
    try:
        connection = connect_to_read(path)
        database = Database(connection)
        version = inspect(database, path)
        if not version:
            raise StorageError(f"{path} is empty: no engine has written to it yet")
        if version < oldest:
            raise StorageError(f"{path} has version {version}; an engine that opens it brings it to {VERSION}")
        yield database
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}:
            raise StorageError(
                f"{path} cannot be read here: the file has to be readable, and its folder writable, since SQLite keeps"
                " an index beside it while it reads; copy it to where that is so"
            ) from error
        raise refusal(path, error) from error
    finally:
        if connection is not None:
            connection.close()


def information(path: Path) -> dict[str, Any]:
    """Version and size of the file, how much of that is free, and how many instances stand where."""
    with reading(path) as database:
        pages, free, size = (
            database.conn.execute(f"SELECT * FROM pragma_{name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        version = database.conn.execute("SELECT * FROM pragma_user_version").fetchone()[0]
        log = path.with_name(path.name + "-wal")
        workflows: dict[str, dict[str, int]] = {}
        for row in database.query(
            f"SELECT workflows.name, {STANDS} AS status, count(*) AS count FROM instances"
            " JOIN workflows ON workflows.number = instances.workflow GROUP BY 1, 2 ORDER BY 1, 2"
        ):
            workflows.setdefault(row["name"], {})[row["status"]] = row["count"]
        return {
            "path": str(path),
            "version": version,
            "newest_version": VERSION,
            "bytes": pages * size,
            "free_bytes": free * size,
            "log_bytes": log.stat().st_size if log.is_file() else 0,
            "workflows": workflows,
            "rows": {name: database[name].count for name in database.table_names() if not name.startswith("sqlite_")},
        }


def vacuum(path: Path) -> tuple[int, int]:
    """Give back what deleted rows have left; the size in bytes before and after. `EngineLocked` while it is in use.

    It takes as much room again, for as long as it takes. A file of an older version is left as it is.
    """
    with reading(path, VERSION):
        pass
    ownership = Ownership(path)
    try:
        before = path.stat().st_size
        connection = connect(path, "full")
        try:
            Database(connection).vacuum()
        finally:
            connection.close()
        return before, path.stat().st_size
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}:
            raise StorageError(f"{path} is as it was: to make it small takes as much room again ({error})") from error
        raise refusal(path, error) from error
    finally:
        ownership.release()


def backup(path: Path, target: Path) -> int:
    """A copy of one moment, beside a live engine or not; its size in bytes. `FileExistsError`, `EngineError`."""
    with reading(path):
        pass
    return copy(path, target)


def search(path: Path, workflow: str, query: Query, size: int) -> Page:
    """Instances of a workflow, newest first, beside a live engine or not; `InstanceNotFound` if it is not there."""
    with reading(path, VERSION) as database:
        known = [row["name"] for row in database.query("SELECT name FROM workflows ORDER BY name")]
        if workflow not in known:
            raise InstanceNotFound(f"there is no workflow {workflow!r}; there are {', '.join(known) or 'none yet'}")
        catalogue = Catalogue(database.conn)
        found: list[tuple[int, Summary]] = []
        rest: int | None = None
        while len(found) < size:
            more, rest = catalogue.search(workflow, query, size - len(found))
            found += more
            if rest is None:
                break
            query = query.beyond(rest)
        return Page(tuple(summary for _, summary in found), None if rest is None else cursor_after(rest))
