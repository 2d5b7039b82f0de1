"""One instance with all that is recorded of it, as what JSON can say: for an operator, without an engine and without
the host's codec.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from cloister.ipc import PayloadError, values

from ..database import VERSION
from ..history import Narrator
from ..records import Address, EventRecord
from .archive import reading
from .catalogue import REDACTED, Catalogue
from .columns import unpack_config


def export(path: Path, address: Address) -> dict[str, Any]:
    """One instance with all that is recorded of it, as what JSON can say. Bytes are `{"$base64": ...}`; results that
    were called sensitive, and streams, are named and not shown.
    """
    with reading(path, VERSION) as database:
        catalogue = Catalogue(database.conn, _Unread())
        with catalogue.snapshot():
            number = catalogue.find(address)
            instance = _row(database, "instances", "number", number)
            steps = list(database.query("SELECT * FROM steps WHERE instance = ? ORDER BY position", [number]))
            for step in steps:
                _readable(step)
            events = [
                _event(row["event"])
                for row in database.query("SELECT event FROM events WHERE instance = ? ORDER BY number", [number])
            ]
            history, _ = catalogue.history(number, 0, 2**31)
            narrator = Narrator()
            return {
                "workflow": address.workflow,
                **instance,
                "labels": {
                    row["name"]: row["value"] for row in database["labels"].rows_where("instance = ?", [number])
                },
                "steps": steps,
                "events": events,
                "history": [event.plain(address.id) for line in history for event in narrator.tell(line)],
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
    if row["status"] == "running" and row["wake_at"] is not None:  # it is shown as it stands
        row["status"] = "waiting"
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
