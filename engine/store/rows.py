"""Rows on their way into a table, many to a statement.

Each statement costs the thread that writes Python's lock, for which it has to wait while the event loop is busy. So
rows that nobody has asked about yet are kept until somebody does, or the transaction ends. It knows no table.
"""

from __future__ import annotations

import functools
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

MOST: Final = 64
"""Rows in a statement. There is one for each power of two up to here, prepared once."""

Row = tuple[Any, ...]


class Rows:
    """Those for one table, in order. Made from the statement that inserts one of them."""

    def __init__(self, statement: str) -> None:
        self._statements = _of_many(statement)
        self.waiting: list[Row] = []
        self.add = self.waiting.append

    def __len__(self) -> int:
        return len(self.waiting)

    def insert(self, execute: Callable[[str, Row], sqlite3.Cursor]) -> int:
        """Insert what waits; how many rows came of it."""
        waiting, done, made = tuple(self.waiting), 0, 0
        self.waiting.clear()
        if len(waiting) == 1:
            return execute(self._statements[1], waiting[0]).rowcount
        while left := len(waiting) - done:
            count = min(1 << left.bit_length() - 1, MOST)
            rows = waiting[done : done + count]
            made += execute(self._statements[count], tuple(chain.from_iterable(rows))).rowcount
            done += count
        return made


@functools.cache
def _of_many(statement: str) -> dict[int, str]:
    """Those of a table, which are few, by how many rows each inserts."""
    head, values, rest = statement.partition("VALUES ")
    row, parenthesis, tail = rest.partition(")")
    assert values
    counts = [1 << power for power in range(MOST.bit_length())]
    return {n: f"{head}VALUES {', '.join([row + parenthesis] * n)}{tail}" for n in counts}
