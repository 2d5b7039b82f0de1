"""Whose a database is: one engine's, for as long as that lives; and whether it is still the file that it was.

There are two locks, both of which the kernel takes back when their owner dies: one of a file beside the database, which
says who has it, and one of a place in the database itself, far beyond all that SQLite reads, locks or writes. That one
holds whatever somebody clears away or renames.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import struct
import weakref
from typing import TYPE_CHECKING, Final

from .errors import EngineLocked, StorageError

if TYPE_CHECKING:
    from pathlib import Path

_PLACE: Final = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 1 << 62, 1, 0)  # a `struct flock`
_TAKEN: Final = {errno.EAGAIN, errno.EACCES}
_READ_ONLY: Final = {errno.EACCES, errno.EPERM, errno.EROFS}
Identity = tuple[int, int]

log = logging.getLogger(__name__)


def identity(path: str | bytes | Path) -> Identity | None:
    """Which file lies there, if one does."""
    try:
        found = os.stat(path)  # noqa: PTH116 - a path need not be text
    except OSError:
        return None
    return found.st_dev, found.st_ino


class Ownership:
    """The right to write a database."""

    def __init__(self, path: Path) -> None:
        """`EngineLocked`, `StorageError`."""
        self._path = path
        self._beside = self._file = -1
        try:
            self._take_beside()
            self._take_file()
            before = os.pread(self._beside, 20, 0)
            os.ftruncate(self._beside, 0)
            os.pwrite(self._beside, b"%d\n" % os.getpid(), 0)
        except BaseException:
            self._close()
            raise
        _ownerships.add(self)
        self._warn(before)

    def _take_beside(self) -> None:
        lock = self._path.with_name(self._path.name + ".lock")
        try:
            if self._path.exists() and not self._path.is_file():
                raise StorageError(f"cannot open {self._path}: it is not a file, which a database is")
            if self._path.is_file() and self._path.stat().st_nlink > 1:
                raise EngineLocked(
                    f"{self._path} has other names (hard links) under which it could be in use; keep only one"
                )
            self._beside = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageError(f"cannot open {lock}: {error.strerror}") from error
        try:
            fcntl.flock(self._beside, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.pread(self._beside, 20, 0).decode("ascii", "replace").strip()
            raise EngineLocked(f"{self._path} is in use by the engine of process {owner or 'unknown'}") from None

    def _take_file(self) -> None:
        """Who closes a descriptor of a file gives up what its process has locked there, SQLite's locks as well: so none
        is opened of one that an engine of this process has, and this one is closed when SQLite is done.
        """
        found = identity(self._path)
        if found is not None and any(other._identity == found for other in _ownerships if other._file >= 0):
            raise EngineLocked(f"{self._path} is in use by the engine of process {os.getpid()}")
        try:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o644)
        except OSError as error:
            if error.errno in _READ_ONLY:
                raise read_only(self._path) from error
            raise StorageError(f"cannot open {self._path}: {error.strerror}") from error
        opened = os.fstat(self._file)
        self._identity: Identity = opened.st_dev, opened.st_ino
        try:
            fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, _PLACE)
        except OSError as error:  # some file systems know no such locks: there the other one has to do
            if error.errno in _TAKEN:
                raise EngineLocked(
                    f"{self._path} is in use by another engine, whose lock file was deleted or which knows the file by"
                    " another name; stop that one first"
                ) from None

    def _warn(self, before: bytes) -> None:
        """The log of who did not come to close the file is missing."""
        wal = self._path.with_name(self._path.name + "-wal")
        if before.endswith(b"\n") and os.fstat(self._file).st_size and not wal.exists():
            log.warning(
                "%s was not closed by process %s, and its log %s is missing: if it was deleted, what was stored last is"
                " lost",
                self._path,
                before.decode("ascii", "replace").strip(),
                wal.name,
            )

    def check(self) -> None:
        """`StorageError` if another file lies in its place, or none."""
        if self._file >= 0 and identity(self._path) != self._identity:
            raise StorageError(
                f"{self._path} was moved, replaced or deleted while it was in use: nothing is stored until it is back"
            )

    def release(self) -> None:
        """Everything is closed: nobody need look for what the owner left behind."""
        if self._beside >= 0:
            os.ftruncate(self._beside, 0)
        self._close()

    def _close(self) -> None:
        for descriptor in (self._file, self._beside):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._beside = -1


def read_only(path: Path) -> StorageError:
    return StorageError(f"{path} cannot be written: the file, its folder or the file system is read-only")


_ownerships: weakref.WeakSet[Ownership] = weakref.WeakSet()


def _disown() -> None:
    """A child that others fork owns nothing: it would keep the locks beyond the death of its parent."""
    for ownership in tuple(_ownerships):
        ownership._close()


os.register_at_fork(after_in_child=_disown)
