"""What SQLite draws: of a state that is put where it keeps its own."""

from __future__ import annotations

import os
import sqlite3
import sys
from typing import Any

import pytest

from cloister.sandbox.guest import sqlite

DATABASE: Any = sys.modules["_sqlite3"]
KNOWS_THE_FORM = sqlite3.sqlite_version_info >= (3, 40)


def draw() -> list[bytes]:
    database = sqlite3.connect(":memory:")
    try:
        return [database.execute("SELECT randomblob(40)").fetchone()[0] for _ in range(3)]
    finally:
        database.close()


@pytest.mark.skipif(not KNOWS_THE_FORM, reason="an older SQLite keeps it in another form")
def test_all_of_the_state_is_put_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same bytes the same is drawn, with one other bit something else."""
    seed = sqlite._seed(DATABASE)
    found = []
    for secret in (bytes(48), bytes(48), bytes(44) + bytes([1, 0, 0, 0]), bytes([1]) + bytes(47)):
        monkeypatch.setattr(os, "urandom", lambda count, secret=secret: secret[:count])
        seed()
        found.append(draw())
    assert found[0] == found[1]
    assert len({repr(drawn) for drawn in found}) == 3
    monkeypatch.undo()
    seed()
    assert draw() not in found


def test_where_the_state_is_not_found_a_small_number_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """So siblings still differ."""
    monkeypatch.setattr(sqlite, "_place", lambda _: 0)
    seed = sqlite._seed(DATABASE)
    seed()
    first = draw()
    seed()
    assert draw() != first
