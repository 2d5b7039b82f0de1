"""What a tenant's SQL may do, and for how long: an authorizer, limits, and a look at the clock.

SQLite asks for each thing that a statement would do before it is run. What is not in the table is refused: other files,
extensions, settings, transactions of its own, virtual tables. A statement that runs too long is interrupted where
SQLite looks whether it should go on, which it does at each turn of a loop. What takes long without one is the business
of the host, who ends the process.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path
from typing import Final

_ALLOWED: Final = {
    getattr(sqlite3, f"SQLITE_{name}")
    for name in (
        "CREATE_INDEX CREATE_TABLE CREATE_TRIGGER CREATE_VIEW DELETE DROP_INDEX DROP_TABLE DROP_TRIGGER DROP_VIEW"
        " INSERT READ SELECT UPDATE ALTER_TABLE REINDEX ANALYZE FUNCTION RECURSIVE"
    ).split()
}
_PRAGMAS: Final = frozenset(
    "table_info table_xinfo table_list index_list index_info index_xinfo foreign_key_list foreign_key_check"
    " defer_foreign_keys".split()
)
_FUNCTIONS_REFUSED: Final = frozenset(
    {"load_extension", "fts3_tokenizer", "sqlite_log", "readfile", "writefile", "edit"}
)
_LIMITS: Final = {
    "LENGTH": 2_000_000, "SQL_LENGTH": 100_000, "COLUMN": 200, "EXPR_DEPTH": 100, "COMPOUND_SELECT": 50,
    "VDBE_OP": 100_000, "FUNCTION_ARG": 64, "ATTACHED": 0, "LIKE_PATTERN_LENGTH": 100, "VARIABLE_NUMBER": 1000,
    "TRIGGER_DEPTH": 20, "WORKER_THREADS": 0,
}  # fmt: skip
_STEPS: Final = 1_000  # of SQLite's machine, between two looks at the clock
_BETWEEN: Final = 0.01  # seconds, between two looks at what was written


class Guard:
    """Stands over one connection. `host` is true while what runs is the host's own; what is not has so many seconds,
    may write so many bytes, and ends when it is `stopped`, from any thread."""

    def __init__(
        self, connection: sqlite3.Connection, stopped: threading.Event, *, seconds: float, written: int
    ) -> None:
        self.host = True
        self.overran = self.overwrote = False
        self._stopped = stopped
        self._looked = time.monotonic()
        self._deadline = self._looked + seconds
        self._most_written = _written() + written
        connection.set_authorizer(self._authorize)
        connection.set_progress_handler(self._look, _STEPS)
        for name, most in _LIMITS.items():
            connection.setlimit(getattr(sqlite3, f"SQLITE_LIMIT_{name}"), most)

    def _look(self) -> int:
        now = time.monotonic()
        self.overran = now > self._deadline
        if now - self._looked > _BETWEEN:
            self._looked = now
            self.overwrote = self.overwrote or _written() > self._most_written
        return int((self.overran or self.overwrote or self._stopped.is_set()) and not self.host)

    def _authorize(self, action: int, first: str | None, second: str | None, database: str | None, _: object) -> int:
        if self.host:
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_PRAGMA:
            return sqlite3.SQLITE_OK if (first or "").lower() in _PRAGMAS else sqlite3.SQLITE_DENY
        if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in _FUNCTIONS_REFUSED:
            return sqlite3.SQLITE_DENY
        return sqlite3.SQLITE_OK if action in _ALLOWED else sqlite3.SQLITE_DENY


def _written() -> int:
    """Bytes that this thread has written to files. SQLite has no limit for the temporary ones that sorting takes."""
    try:
        with Path("/proc/thread-self/io").open("rb", buffering=0) as file:
            return int(file.read().split()[3])
    except OSError:  # a kernel that does not count them
        return 0
