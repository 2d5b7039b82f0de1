"""What can be read without writing: instances by query. On a connection of its own, so that a long look holds up
nobody's commit.

Each verb reads a bounded number of rows and says where it stopped.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from cloister.ipc import values

from ..codecs import PayloadCodec, Plain, Tried
from ..errors import InstanceNotFound, StepNotFound
from ..history import Known, Line
from ..listing import Query, Summary
from ..records import FINAL, Address, ErrorRecord, Key, Status
from .columns import STANDS, read_error, unpack_config, unpack_error, unseal_text

REDACTED = "[REDACTED]"
SCAN_CHUNK = 2_000
"""Rows that one look passes over, whether they fit or not."""


class Whole(NamedTuple):
    """All of a stream."""

    data: bytes


class Catalogue:
    """The reading half of the store."""

    def __init__(self, connection: sqlite3.Connection, codec: PayloadCodec | None = None) -> None:
        self._connection = connection
        self._unseal = (Plain() if codec is None else Tried(codec)).decode
        self._execute = connection.execute

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """What is read within is all of one moment."""
        self._execute("BEGIN")
        try:
            yield
        finally:
            if self._connection.in_transaction:  # what went wrong may have ended it
                self._execute("ROLLBACK")

    def find(self, address: Address) -> int:
        """The number of an instance; `InstanceNotFound` in the same words for every one that is not there."""
        row = self._execute(
            "SELECT number FROM instances WHERE workflow = (SELECT number FROM workflows WHERE name = ?)"
            " AND scope = ? AND id = ?",
            address,
        ).fetchone()
        if row is None:
            raise InstanceNotFound(f"workflow {address.workflow!r} has no instance {address.id!r}")
        return int(row[0])

    def ending(self, address: Address) -> tuple[Status, bytes | None, ErrorRecord | None]:
        """Where it stands, and how it ended if it has."""
        row = self._execute(
            "SELECT status, output, error FROM instances WHERE workflow = (SELECT number FROM workflows WHERE name = ?)"
            " AND scope = ? AND id = ?",
            address,
        ).fetchone()
        if row is None:
            raise InstanceNotFound(f"workflow {address.workflow!r} has no instance {address.id!r}")
        return Status(row[0]), row[1] and self._unseal(row[1]), self._error(row[2])

    def look(self, address: Address) -> tuple[tuple[Any, ...], list[tuple[Any, ...]]]:
        """For a status: (status, output, error, run, created, started, ended, wake_at, paused_at, expires, undoing,
        undone, labels), and the steps in order.
        """
        with self.snapshot():
            number = self.find(address)
            instance = self._execute(
                f"SELECT {STANDS}, output, error, run, created, started, ended, wake_at, paused_at, expires, undoing,"
                " undone FROM instances WHERE number = ?",
                (number,),
            ).fetchone()
            labels = self._labels(number)
            steps = self._execute(
                "SELECT kind, name, count, state, attempts, started, ended, error FROM steps"
                " WHERE instance = ? ORDER BY position",
                (number,),
            ).fetchall()
        status, output, error, *more, undone = instance
        return (
            (status, output and self._unseal(output), self._error(error), *more, undone and self._text(undone), labels),
            [(*row[:7], self._error(row[7])) for row in steps],
        )

    def _error(self, stored: str | bytes | None) -> ErrorRecord | None:
        return unpack_error(stored, self._unseal)

    def _text(self, stored: str | bytes) -> str:
        return unseal_text(stored, self._unseal)

    def outcome(self, address: Address, key: Key) -> bytes | Whole | ErrorRecord:
        """What a step came to: the encoded result, the bytes of a stream, or the error. `StepNotFound` if it has come
        to nothing yet.
        """
        with self.snapshot():
            number = self.find(address)
            row = self._execute(
                "SELECT state, value, size, error, config FROM steps WHERE instance = ? AND kind = ? AND name = ?"
                " AND count = ?",
                (number, *key),
            ).fetchone()
            if row is None or row[0] not in {"done", "failed"}:
                raise StepNotFound(
                    f"{key[0]} {key[1]!r} number {key[2]} has no outcome yet; see the steps in `status()`"
                )
            _, value, size, error, config = row
            if error is not None:
                return read_error(error, self._unseal)
            if unpack_config(config).sensitive:
                return values.dumps(REDACTED)
            if size is not None:
                return Whole(self._stream(number, key))
            return values.dumps(None) if value is None else self._unseal(value)

    def _stream(self, number: int, key: Key) -> bytes:
        query = "SELECT data FROM chunks WHERE instance = ? AND name = ? AND count = ? ORDER BY number"
        rows = self._execute(query, (number, *key[1:])).fetchall()
        return b"".join(self._unseal(data) for (data,) in rows)

    def search(self, workflow: str, query: Query, limit: int) -> tuple[list[tuple[int, Summary]], int | None]:
        """Up to `limit` of those that fit, newest first, with their numbers; and the number below which to go on, None
        when all were looked at.
        """
        source, parameters = _candidates(workflow, query)
        tests, more = _tests(workflow, query)
        chunk = SCAN_CHUNK if tests else limit + 1
        with self.snapshot():
            numbers = self._execute(
                f"SELECT number FROM instances WHERE number IN ({source} LIMIT {chunk}){tests}"
                " ORDER BY number DESC LIMIT ?",
                (*parameters, *more, limit + 1),
            ).fetchall()
            if len(numbers) > limit:
                rest = numbers[:limit][-1]
            else:
                rest = self._execute(f"{source} LIMIT 1 OFFSET {SCAN_CHUNK - 1}", parameters).fetchone()
            found = [(number, self._summary(number)) for (number,) in numbers[:limit]]
        return found, None if rest is None else rest[0]

    def history(self, number: int, first: int, limit: int) -> tuple[list[Line], bool]:
        """What is on record of an instance from this number on, and whether it has ended: `InstanceNotFound` if it is
        gone.
        """
        row = self._execute("SELECT created, status FROM instances WHERE number = ?", (number,)).fetchone()
        if row is None:
            raise InstanceNotFound("the instance was deleted")
        lines = [Line(0, row[0], "queued", "", None, None, None, None, None, None)] if first <= 0 else []
        rows = self._execute(
            "SELECT changes.number, at, changes.type, '', changes.name, changes.count, attempt, changes.due,"
            " changes.error, steps.started FROM changes LEFT JOIN steps ON changes.type IN ('attempt', 'undo')"
            " AND steps.instance = changes.instance AND steps.name = changes.name AND steps.count = changes.count"
            " AND steps.kind = CASE changes.type WHEN 'undo' THEN 'undo' ELSE 'do' END"
            " WHERE changes.instance = ? AND changes.number >= ?"
            " UNION ALL SELECT finished, ended, kind, state, name, count, nullif(attempts, 0), NULL, error, started"
            " FROM steps WHERE instance = ? AND finished >= ? ORDER BY 1 LIMIT ?",
            (number, first, number, first, limit - len(lines)),
        ).fetchall()
        lines += [
            Line(at[0], at[1], what, state, name, count, attempt, due, told(self._error(error)), started)
            for *at, what, state, name, count, attempt, due, error, started in rows
        ]
        return lines, Status(row[1]) in FINAL

    def begun(self, number: int, before: int) -> list[Known]:
        """Of which steps it is on record before this number that their first attempt of this run has begun, and which
        was the last one to fail.
        """
        return self._execute(
            "SELECT type, name, count, max(attempt) FROM changes WHERE instance = ? AND number < ?"
            " AND (type IN ('attempt', 'undo') OR (type IN ('began', 'undo began') AND attempt = 1))"
            " AND number > coalesce((SELECT max(number) FROM changes WHERE instance = ? AND number < ?"
            " AND type = 'queued'), 0) GROUP BY 1, 2, 3",
            (number, before, number, before),
        ).fetchall()

    def _summary(self, number: int) -> Summary:
        row = self._execute(
            f"SELECT id, scope, {STANDS}, run, created, started, ended FROM instances WHERE number = ?", (number,)
        ).fetchone()
        name, scope, status, run, created, started, ended = row
        return Summary(name, scope, Status(status), run, created, started, ended, self._labels(number))

    def _labels(self, number: int) -> dict[str, str]:
        return dict(self._execute("SELECT name, value FROM labels WHERE instance = ?", (number,)).fetchall())


def _candidates(workflow: str, query: Query) -> tuple[str, tuple[Any, ...]]:
    """The numbers to look at, newest first, by the narrowest index there is for the query."""
    key = "(SELECT number FROM workflows WHERE name = ?)"
    before = query.before if query.before is not None else 2**63 - 1
    if query.labels:
        among, scope = ("", ()) if query.scope is None else (" AND scope = ?", (query.scope,))
        source = f"SELECT instance FROM labels WHERE workflow = {key}{among} AND name = ? AND value = ?"
        return f"{source} AND instance < ? ORDER BY instance DESC", (workflow, *scope, *query.labels[0], before)
    if query.scope is None:
        return "SELECT number FROM instances WHERE number < ? ORDER BY number DESC", (before,)
    source = f"SELECT number FROM instances INDEXED BY instances_of_scope WHERE workflow = {key} AND scope = ?"
    return f"{source} AND number < ? ORDER BY number DESC", (workflow, query.scope, before)


def _tests(workflow: str, query: Query) -> tuple[str, list[Any]]:
    """What is asked of each candidate."""
    tests = ""
    parameters: list[Any] = []
    if query.scope is None:
        tests += " AND +workflow = (SELECT number FROM workflows WHERE name = ?)"
        parameters.append(workflow)
    if query.statuses:
        tests += f" AND {STANDS} IN ({', '.join('?' * len(query.statuses))})"
        parameters += [status.value for status in sorted(query.statuses)]
    for test, moment in ((" AND created >= ?", query.created_from), (" AND created < ?", query.created_before)):
        if moment is not None:
            tests += test
            parameters.append(moment)
    for label in query.labels:
        tests += " AND EXISTS (SELECT 1 FROM labels WHERE instance = instances.number AND name = ? AND value = ?)"
        parameters += label
    return tests, parameters


def told(error: ErrorRecord | None) -> dict[str, str] | None:
    """An error as whoever asks is told of it."""
    return None if error is None else {"name": error.name, "message": error.message}
