"""Tables of a durable object: statements, and the rows that they give. How they are asked is the business of `storage`.

Kept with the standard library, for those who ask.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .values import JsDict

if TYPE_CHECKING:
    from .storage import Storage


class Sql:
    """`self.ctx.storage.sql`."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def exec(self, query: str, *params: Any) -> Cursor:
        """A statement; several in one text if there are no parameters for them, and then the result of the last."""
        if not params and ";" in query.rstrip().rstrip(";"):
            return Cursor(self._storage._ask(*((one, []) for one in self._split(query))))
        return Cursor(self._storage._ask((query, [int(one) if isinstance(one, bool) else one for one in params])))

    @property
    def databaseSize(self) -> int:  # noqa: N802
        """Bytes on disk."""
        return int(self._storage._waited(self._storage._stub.size()))

    database_size = databaseSize

    @staticmethod
    def _split(script: str) -> Iterator[str]:
        import sqlite3

        kept = ""
        for part in script.split(";"):
            kept += f"{part};"
            if sqlite3.complete_statement(kept):
                if kept.strip(" \t\r\n;"):
                    yield kept
                kept = ""
        if kept.strip(" \t\r\n;"):
            yield kept.removesuffix(";")


class Cursor:
    """The rows of a statement, as maps."""

    __module__ = "workers"

    def __init__(self, answer: Any) -> None:
        self._rows = [JsDict(row) for row in answer["results"]]
        self._next = 0
        self.columnNames: list[str] = list(self._rows[0] if self._rows else ())
        self.rowsRead = answer["meta"]["rows_read"]
        self.rowsWritten = answer["meta"]["rows_written"]

    def __iter__(self) -> Cursor:
        return self

    def __next__(self) -> JsDict:
        if self._next >= len(self._rows):
            raise StopIteration
        self._next += 1
        return self._rows[self._next - 1]

    def next(self) -> JsDict:
        """`{done, value}`."""
        row = next(self, None)
        return JsDict(done=row is None, value=row)

    def toArray(self) -> list[JsDict]:  # noqa: N802 - the names of the SDK
        """The rows that are left."""
        from .conversions import JsArray

        return JsArray(self)

    to_array = to_py = toArray

    def one(self) -> JsDict:
        """The only row. `ValueError` if there is another number of them."""
        rows = list(self)
        if len(rows) != 1:
            raise ValueError(f"Expected exactly one result from SQL query, but got {len(rows) or 'no results'}.")
        return rows[0]

    def raw(self) -> Iterator[list[Any]]:
        """The rows as lists."""
        return (list(row.values()) for row in self)
