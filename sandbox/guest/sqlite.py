"""SQLite inside a sandbox: it sorts in memory, and draws numbers that no sibling draws.

It reads its first randomness from a file, and where it cannot it makes do with the second that it is and its process
number, which siblings have in common and anybody can guess. It takes none from anybody else. So the zygote looks for
the place where the state of its generator lies, which has had one form since 3.40, and each sandbox puts one of its own
there when it connects for the first time. An older SQLite is given a small number, by a call that is meant for tests.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
import sys
from collections.abc import Callable
from typing import Any, Final

from . import mappings

_KEY: Final = b"expand 32-byte k"
"""How the state of a ChaCha20 begins. What follows is secret, and then come the numbers that are made, and how many of
them are left."""
_SECRET, _MADE = 48, 64
_LEFT: Final = len(_KEY) + _SECRET + _MADE
_SET_SEED: Final = 28


def keep_apart() -> None:
    """To be called in the zygote, before the lockdown, when its module was imported."""
    database: Any = sys.modules.get("_sqlite3")
    if database is None:
        return
    connect = database.connect
    undone = [_seed(database)]

    @functools.wraps(connect)
    def connect_in_memory(*arguments: Any, **options: Any) -> Any:
        while undone:
            undone.pop()()
        connection = connect(*arguments, **options)
        database.Connection.execute(connection, "PRAGMA temp_store = MEMORY").close()
        return connection

    database.connect = connect_in_memory


def _seed(database: Any) -> Callable[[], object]:
    """What gives SQLite a state of its own."""
    place = _place(database)
    if place:
        ctypes.memset(place, 0, len(_KEY))  # it has not begun
        return lambda: ctypes.memmove(place, _KEY + os.urandom(_SECRET) + bytes(_MADE + 1), _LEFT + 1)
    try:
        set_seed = ctypes.CDLL(database.__file__).sqlite3_test_control
    except (AttributeError, OSError):
        return lambda: None  # which is as it was
    return lambda: set_seed(_SET_SEED, ctypes.c_uint32(int.from_bytes(os.urandom(4), "little")), None)


def _place(database: Any) -> int:
    """Where the state lies, 0 if that is not to be found: known by a number that was just drawn."""
    connection = database.connect(":memory:")
    drawn: bytes = connection.execute("SELECT randomblob(8)").fetchone()[0]
    connection.close()
    for start, end in mappings.data_of_libraries():
        data = ctypes.string_at(start, end - start)
        for found in re.finditer(_KEY, data):
            left = found.start() + _LEFT
            made = left - _MADE + data[left] if left < len(data) else 0
            if data[made : made + len(drawn)] == drawn:
                return start + found.start()
    return 0
