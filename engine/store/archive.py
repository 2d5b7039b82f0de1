"""What is done with a database as a file: look at it, make it small, copy it, take one instance out of it.

For an operator, without an engine. Looking and copying go beside a live one; what changes the file wants it alone.
"""

from __future__ import annotations

import base64
import contextlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from cloister.ipc import PayloadError, values

from ..database import VERSION, Ownership, connect, connect_to_read, copy, inspect, refusal
from ..errors import StorageError
from ..records import Address, EventRecord
from .catalogue import REDACTED, Catalogue
from .columns import unpack_config


@contextlib.contextmanager
def _reading(path: Path, oldest: int = 1) -> Iterator[Database]:
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
    with _reading(path) as database:
        pages, free, size = (
            database.conn.execute(f"SELECT * FROM pragma_{name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        version = database.conn.execute("SELECT * FROM pragma_user_version").fetchone()[0]
        log = path.with_name(path.name + "-wal")
        workflows: dict[str, dict[str, int]] = {}
        for row in database.query(
            "SELECT workflows.name, status, count(*) AS count FROM instances"
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
    with _reading(path, VERSION):
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
    with _reading(path):
        pass
    return copy(path, target)


def export(path: Path, address: Address) -> dict[str, Any]:
    """One instance with all that is recorded of it, as what JSON can say. Bytes are `{"$base64": ...}`; results that
    were called sensitive, and streams, are named and not shown.
    """
    with _reading(path, VERSION) as database:
        catalogue = Catalogue(database.conn, _Unread())
        number = catalogue.find(address)
        instance = _row(database, "instances", "number", number)
        steps = list(database.query("SELECT * FROM steps WHERE instance = ? ORDER BY position", [number]))
        for step in steps:
            _readable(step)
        events = [
            _event(row["event"])
            for row in database.query("SELECT event FROM events WHERE instance = ? ORDER BY number", [number])
        ]
        history, _ = catalogue.history(number, -1, 2**31)
        return {
            "workflow": address.workflow,
            **instance,
            "labels": {row["name"]: row["value"] for row in database["labels"].rows_where("instance = ?", [number])},
            "steps": steps,
            "events": events,
            "history": [event.plain(address.id) for event in history],
        }


class _Unread:
    """Stands in for the host's codec: an error that only that could read is shown as it is stored."""

    def encode(self, data: bytes) -> bytes:
        raise AssertionError("nothing is written here")

    def decode(self, data: bytes) -> bytes:
        try:
            json.loads(data)
        except ValueError:
            return json.dumps(["$sealed", base64.b64encode(data).decode()]).encode()
        return data


def _row(database: Database, table: str, key: str, number: int) -> dict[str, Any]:
    row = next(database[table].rows_where(f"{key} = ?", [number]))
    for name in ("workflow", "number", "code"):
        row.pop(name, None)
    for name in ("params", "output"):
        row[name] = None if row[name] is None else _decoded(row[name])
    row["error"], row["undoing"] = _error(row["error"]), _error(row["undoing"])
    if isinstance(row["undone"], bytes):
        row["undone"] = _sealed(row["undone"])
    return row


def _readable(step: dict[str, Any]) -> None:
    """In place: what is packed in the row of a step, as JSON."""
    step.pop("instance")
    config = unpack_config(step.pop("config"))
    value = step.pop("value")
    if step["size"] is not None:
        step["value"] = {"$stream": step["size"]}
    elif value is not None and config.sensitive:
        step["value"] = REDACTED
    elif value is not None:
        step["value"] = _event(value)["payload"] if step["kind"] == "wait" else _decoded(value)
    step["error"] = _error(step["error"])


def _error(text: str | bytes | None) -> dict[str, str] | None:
    if isinstance(text, bytes):
        text = _Unread().decode(text).decode()
    return None if text is None else dict(zip(("name", "message", "trace"), json.loads(text), strict=False))


def _decoded(data: bytes) -> Any:
    """A payload; one that only a codec of the host's could read is shown as it is stored."""
    try:
        return _plain(values.loads(data))
    except PayloadError:
        return _sealed(data)


def _sealed(data: bytes) -> dict[str, str]:
    return {"$sealed": base64.b64encode(data).decode()}


def _event(data: bytes) -> dict[str, Any]:
    try:
        event = EventRecord.decode(data)
    except (PayloadError, AssertionError):
        return {"type": None, "payload": _decoded(data), "timestamp": None}
    return {"type": event.type, "payload": _decoded(event.payload), "timestamp": event.timestamp_ms}


def _plain(value: Any) -> Any:
    """What JSON has no form for, in one that it has."""
    match value:
        case dict():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_plain(item) for item in value]
        case bytes() | bytearray():
            return {"$base64": base64.b64encode(value).decode()}
        case None | bool() | int() | str():
            return value
        case float():
            return value if value == value and abs(value) != float("inf") else {"$float": str(value)}
        case _:
            return {"$text": str(value)}
