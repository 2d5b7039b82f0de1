"""SQLite inside a sandbox: it sorts in memory, and draws numbers that no sibling draws.

It reads its first randomness from a file, and where it cannot it makes do with the second that it is and its process
number, which siblings have in common and anybody can guess. So `random()` and `randomblob()` are functions of ours,
which ask the kernel. Who makes a `sqlite3.Connection` without `connect` has SQLite's own.
"""

from __future__ import annotations

import functools
import os
import sys
from typing import Any


def keep_apart() -> None:
    """To be called in the zygote when its module was imported."""
    database: Any = sys.modules.get("_sqlite3")
    if database is None:
        return
    connect = database.connect

    @functools.wraps(connect)
    def connect_in_memory(*arguments: Any, **options: Any) -> Any:
        connection = connect(*arguments, **options)
        database.Connection.execute(connection, "PRAGMA temp_store = MEMORY").close()
        database.Connection.create_function(connection, "random", 0, _random)
        database.Connection.create_function(connection, "randomblob", 1, _randomblob)
        return connection

    database.connect = connect_in_memory


def _random() -> int:
    return int.from_bytes(os.urandom(8), "little", signed=True)


def _randomblob(length: Any) -> bytes:
    """Of one byte at least, like SQLite's."""
    try:
        return os.urandom(max(int(length), 1))
    except (TypeError, ValueError):
        return os.urandom(1)
