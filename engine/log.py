"""The log that SQLite writes before the database: how long it may grow, and that it is shortened.

On a small disk it has an eighth of the room, so that data fills the disk, and not its log. What is written is not known
here.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from typing import Final

from .errors import StorageError
from .ownership import identity

LOG_BYTES = 64 * 1024 * 1024
"""What the log may grow to before it is cut off as soon as nobody reads in it."""
CHECKPOINT_PAGES: Final = 1000
"""What it is kept to otherwise, by commits that nobody's event loop waits for."""
FEWEST_PAGES: Final = 16
PAGE_BYTES: Final = 4096
LOOK_SECONDS: float = 1.0
"""How often it is looked whether database and log are still the files that are written to."""
SHARE: Final = 8
"""A log may have so small a part of the room on its disk."""


class Log:
    """That of the connection which writes."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        text, connection.text_factory = connection.text_factory, bytes  # a path need not be text
        self._path: bytes = connection.execute("PRAGMA database_list").fetchone()[2]
        connection.text_factory = text
        self._files = self._identities()
        self._looked = time.monotonic()
        self._checkpoints = True
        self._size = 0
        self.measure()

    def measure(self) -> None:
        """How much room there is for it."""
        room = LOG_BYTES * SHARE
        if self._path:
            with contextlib.suppress(OSError):
                disk = os.statvfs(self._path)
                if disk.f_blocks:  # some file systems do not count theirs
                    room = disk.f_bavail * disk.f_frsize + self._size
        self.most = min(LOG_BYTES, max(room // SHARE, FEWEST_PAGES * PAGE_BYTES))
        """Bytes that it may have."""
        self._pages = min(CHECKPOINT_PAGES, self.most // PAGE_BYTES)
        self._connection.execute(f"PRAGMA journal_size_limit = {self.most}")
        self._set()

    @property
    def scarce(self) -> bool:
        """Whether there is so little room that every commit is to keep it short, whoever waits."""
        return self._pages < CHECKPOINT_PAGES

    def _identities(self) -> list[object]:
        return [identity(each) for each in (self._path, self._path + b"-wal")] if self._path else []

    def check(self, *, carry: bool) -> None:
        """`StorageError` if somebody has taken one of them away: what is written there now is lost when the host dies.
        It is found again each time.

        What was written before is carried over into the database if `carry` says so, which takes as long as it takes.
        """
        if (now := time.monotonic()) - self._looked < LOOK_SECONDS:
            return
        if self._identities() != self._files:
            if carry:
                self.cut()
            raise StorageError(
                f"{os.fsdecode(self._path)} or the log beside it was moved, replaced or deleted while it was in use"
            )
        self._looked = now

    def checkpoints(self, *, on: bool) -> None:
        """Whether commits shorten it. Rewriting a short one syncs faster than growing one."""
        if on is not self._checkpoints:
            self._checkpoints = on
            self._set()

    def _set(self) -> None:
        self._connection.execute(f"PRAGMA wal_autocheckpoint = {self._pages if self._checkpoints else 0}")

    def bound(self) -> int:
        """Cut it off if it has grown beyond its bound and nobody reads in it; how many bytes it has.

        It grows while somebody holds a long look at the database open. Nobody is waited for: the next time will do.
        """
        _, frames, _ = self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        self._size = max(int(frames), 0) * PAGE_BYTES
        if self._size > self.most:
            self.cut()
        self.measure()
        return self._size

    def cut(self) -> bool:
        """Give back the room that it has: whether that was done. It is not while somebody reads in it, or what it says
        has no room in the database."""
        try:
            busy, _, _ = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error:  # if it is more than a lack of room, it shows in the next commit
            return False
        self._size = self._size if busy else 0
        return not busy
