"""What a tenant's SQL may do, and for how long: an authorizer, limits, and functions that cannot be made to hang.

SQLite asks for each thing that a statement would do before it is run. What is not in the table is refused: other files,
extensions, settings, transactions of its own, virtual tables. A statement that runs too long is interrupted; the few
functions of SQLite that could take minutes within one step are replaced by such as cannot.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

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
    {"load_extension", "fts3_tokenizer", "sqlite_log", "readfile", "writefile", "edit", "json_patch"}
)
"""The last takes the product of two lengths too, and what stood in for it could not say that its result is JSON."""
_LIMITS: Final = {
    "LENGTH": 2_000_000, "SQL_LENGTH": 100_000, "COLUMN": 200, "EXPR_DEPTH": 100, "COMPOUND_SELECT": 50,
    "VDBE_OP": 100_000, "FUNCTION_ARG": 64, "ATTACHED": 0, "LIKE_PATTERN_LENGTH": 100, "VARIABLE_NUMBER": 1000,
    "TRIGGER_DEPTH": 20, "WORKER_THREADS": 0,
}  # fmt: skip
_STEPS: Final = 1_000  # of SQLite's machine, between two looks at the clock
_BETWEEN: Final = 0.01  # seconds, between two looks at what was written
_MOST_TRIMMED: Final = 64


class Guard:
    """Stands over one connection. `host` is true while what runs is the host's own."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.host = False
        self._deadline = float("inf")
        self._stopped = threading.Event()
        self.overran = self.overwrote = False
        self._most_written = self._looked = 0.0
        connection.set_authorizer(self._authorize)
        connection.set_progress_handler(self._look, _STEPS)
        for name, most in _LIMITS.items():
            connection.setlimit(getattr(sqlite3, f"SQLITE_LIMIT_{name}"), most)
        for name, count, function in _FUNCTIONS:
            connection.create_function(name, count, function, deterministic=True)

    def begin(self, seconds: float, written_bytes: int) -> None:
        """What runs from now on, in this thread, has so long, and may write so much."""
        self._looked = time.monotonic()
        self._deadline = self._looked + seconds
        self._most_written = _written() + written_bytes
        self._stopped.clear()
        self.overran = self.overwrote = False

    def stop(self) -> None:
        """Nobody waits for it any longer. From any thread."""
        self._stopped.set()

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


def _plain(value: Any) -> str | bytes:
    return value if isinstance(value, str | bytes) else repr(value) if isinstance(value, float) else str(value)


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _pair(first: Any, second: Any) -> tuple[Any, Any] | None:
    """Both as text, or both as bytes; None if one of them is nothing."""
    if first is None or second is None:
        return None
    one, other = _plain(first), _plain(second)
    if isinstance(one, bytes) and isinstance(other, bytes):
        return one, other
    return _text(one), _text(other)


def _instr(within: Any, what: Any) -> int | None:
    pair = _pair(within, what)
    return None if pair is None else pair[0].find(pair[1]) + 1


def _replace(within: Any, what: Any, by: Any) -> str | None:
    if within is None or what is None or by is None:
        return None
    text, old, new = (_text(_plain(part)) for part in (within, what, by))
    if not old:
        return text
    if len(text) + text.count(old) * (len(new) - len(old)) > _LIMITS["LENGTH"]:
        raise ValueError("string or blob too big")
    return text.replace(old, new)


def _trim(cut: Callable[[str, str], str]) -> Callable[..., str | None]:
    def trim(value: Any, characters: Any = " ") -> str | None:
        if value is None or characters is None:
            return None
        text, known = _text(_plain(value)), _text(_plain(characters))
        if len(known) > _MOST_TRIMMED:
            raise ValueError(f"at most {_MOST_TRIMMED} characters are trimmed")
        return cut(text, known) if known else text

    return trim


_TRIMS: Final = {"trim": _trim(str.strip), "ltrim": _trim(str.lstrip), "rtrim": _trim(str.rstrip)}
_FUNCTIONS: Final[list[tuple[str, int, Callable[..., Any]]]] = [
    ("instr", 2, _instr),
    ("replace", 3, _replace),
    *((name, count, function) for name, function in _TRIMS.items() for count in (1, 2)),
]
"""Theirs take time that is the product of two lengths, within one step of the machine that cannot be interrupted."""
