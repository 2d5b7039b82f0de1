"""What SQLite draws: what the kernel gives, in the forms that SQLite has for it."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from cloister.sandbox.guest import sqlite


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Iterator[sqlite3.Connection]:
    """As a sandbox connects to one."""
    module: Any = sys.modules["_sqlite3"]
    monkeypatch.setattr(module, "connect", module.connect)
    sqlite.keep_apart()
    database = module.connect(":memory:")
    yield database
    database.close()


def test_numbers_are_of_all_sizes_and_both_signs(database: sqlite3.Connection) -> None:
    """And each row has its own, in an expression, an order or a default."""
    database.execute("CREATE TABLE t (number DEFAULT (random()), bytes DEFAULT (randomblob(16)))")
    database.executemany("INSERT INTO t (rowid) VALUES (?)", [(number,) for number in range(200)])
    rows = database.execute("SELECT number, bytes, random() FROM t ORDER BY random()").fetchall()
    numbers = [each for row in rows for each in (row[0], row[2])]
    assert len({*numbers}) == 400
    assert min(numbers) < -(2**60) and max(numbers) > 2**60  # noqa: PT018
    assert {len(row[1]) for row in rows} == {16}
    assert len({row[1] for row in rows}) == 200


@pytest.mark.parametrize(
    ("asked", "length"), [("7", 7), ("'5'", 5), ("2.9", 2), ("0", 1), ("-3", 1), ("NULL", 1), ("'x'", 1)]
)
def test_a_blob_is_as_long_as_sqlite_would_make_it(database: sqlite3.Connection, asked: str, length: int) -> None:
    """Whatever is asked for."""
    question = f"SELECT length(randomblob({asked}))"
    plain = sqlite3.Connection(":memory:")
    assert database.execute(question).fetchone() == plain.execute(question).fetchone() == (length,)
    plain.close()
