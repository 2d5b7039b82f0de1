"""What can be read without writing: instances by query. On a connection of its own, so that a long look holds up
nobody's commit.

Each verb reads a bounded number of rows and says where it stopped.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from .listing import Query, Summary
from .records import Status

SCAN_CHUNK = 2_000
"""Rows that one look passes over, whether they fit or not."""


class Catalogue:
    """The reading half of the store."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._execute = connection.execute

    def close(self) -> None:
        self._connection.close()

    def search(self, workflow: str, query: Query, limit: int) -> tuple[list[tuple[int, Summary]], int | None]:
        """Up to `limit` of those that fit, newest first, with their numbers; and the number below which to go on, None
        when all were looked at.
        """
        source, parameters = _candidates(workflow, query)
        tests, more = _tests(query)
        self._execute("BEGIN")
        try:
            numbers = self._execute(
                f"SELECT number FROM instances WHERE number IN ({source} LIMIT {SCAN_CHUNK}){tests}"
                " ORDER BY number DESC LIMIT ?",
                (*parameters, *more, limit + 1),
            ).fetchall()
            if len(numbers) > limit:
                rest = numbers[:limit][-1]
            else:
                rest = self._execute(f"{source} LIMIT 1 OFFSET {SCAN_CHUNK - 1}", parameters).fetchone()
            found = [(number, self._summary(number)) for (number,) in numbers[:limit]]
        finally:
            self._execute("ROLLBACK")
        return found, None if rest is None else rest[0]

    def _summary(self, number: int) -> Summary:
        row = self._execute(
            "SELECT id, scope, status, run, created, started, ended FROM instances WHERE number = ?", (number,)
        ).fetchone()
        name, scope, status, run, created, started, ended = row
        labels = dict(self._execute("SELECT name, value FROM labels WHERE instance = ?", (number,)).fetchall())
        return Summary(name, scope, Status(status), run, created, started, ended, labels)


def _candidates(workflow: str, query: Query) -> tuple[str, tuple[Any, ...]]:
    """The numbers to look at, newest first, by the narrowest index there is for the query."""
    key = "(SELECT number FROM workflows WHERE name = ?)"
    before = query.before if query.before is not None else 2**63 - 1
    if query.scope is None:
        source = f"SELECT number FROM instances WHERE +workflow = {key} AND number < ? ORDER BY number DESC"
        return source, (workflow, before)
    if query.labels:
        source = f"SELECT instance FROM labels WHERE workflow = {key} AND scope = ? AND name = ? AND value = ?"
        source += " AND instance < ? ORDER BY instance DESC"
        return source, (workflow, query.scope, *query.labels[0], before)
    source = f"SELECT number FROM instances INDEXED BY instances_of_scope WHERE workflow = {key} AND scope = ?"
    return f"{source} AND number < ? ORDER BY number DESC", (workflow, query.scope, before)


def _tests(query: Query) -> tuple[str, list[Any]]:
    """What is asked of each candidate."""
    tests = ""
    parameters: list[Any] = []
    if query.statuses:
        tests += f" AND status IN ({', '.join('?' * len(query.statuses))})"
        parameters += [status.value for status in sorted(query.statuses)]
    for test, moment in ((" AND created >= ?", query.created_from), (" AND created < ?", query.created_before)):
        if moment is not None:
            tests += test
            parameters.append(moment)
    for label in query.labels:
        tests += " AND EXISTS (SELECT 1 FROM labels WHERE instance = instances.number AND name = ? AND value = ?)"
        parameters += label
    return tests, parameters
