"""The folder for temporary files, `/tmp`: it lies in the tenant's memory, which is limited already, and goes with the
sandbox.

`files` asks here for what is below it. Nothing of it has a descriptor, so `mkstemp` is refused in words. Kept with the
standard library, for those who ask.
"""

from __future__ import annotations

import errno
import io
import os
import posixpath
import stat
import tempfile
import time
from typing import IO, Any, Final, NamedTuple

from . import folders

ROOT: Final = "/tmp"
_WAYS: Final = {*"arwx"}
_files: dict[str, _Content] = {}
_folders: dict[str, float] = {ROOT: time.time()}
"""When each was made."""


class _Content(bytearray):
    """What is in a file, whoever has it open."""

    changed = 0.0


class _Raw(io.RawIOBase):
    """A file that is open."""

    def __init__(self, name: str, content: _Content, mode: str, *, forget: bool = False) -> None:
        self.name, self.mode = name, mode
        self._content, self._forget, self._at = content, forget, 0

    def readable(self) -> bool:
        """As it was opened."""
        return bool({*self.mode} & {*"r+"})

    def writable(self) -> bool:
        """As it was opened."""
        return bool({*self.mode} & {*"wax+"})

    def seekable(self) -> bool:
        """Of course."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Some of it."""
        self._check(self.readable(), "readable")
        piece = self._content[self._at : self._at + len(buffer)]
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)

    def write(self, data: Any) -> int:
        """More of it, or something else."""
        self._check(self.writable(), "writable")
        if "a" in self.mode:
            self._at = len(self._content)
        view = bytes(data)
        self._content.extend(bytes(max(self._at - len(self._content), 0)))
        self._content[self._at : self._at + len(view)] = view
        self._at += len(view)
        self._content.changed = time.time()
        return len(view)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go on elsewhere."""
        self._at = max(offset + (0, self._at, len(self._content))[whence], 0)
        return self._at

    def truncate(self, size: int | None = None) -> int:
        """As long as this, and no longer."""
        self._check(self.writable(), "writable")
        size = self._at if size is None else size
        if size < 0:
            raise _error(errno.EINVAL, self.name)
        del self._content[size:]
        self._content.extend(bytes(size - len(self._content)))
        return size

    def _check(self, may: bool, what: str) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file.")
        if not may:
            raise io.UnsupportedOperation(f"not {what}")

    def close(self) -> None:
        """It is forgotten if that was asked for."""
        if not self.closed and self._forget and _files.get(self.name) is self._content:
            del _files[self.name]
        super().close()


def path_of(path: Any) -> str | None:
    """A path without detours that is there, or could be made; None for any other."""
    plain = posixpath.normpath(posixpath.join("/", os.fsdecode(path)))
    return plain if plain in _folders or posixpath.dirname(plain) in _folders else None


def opened(
    file: str, mode: str = "r", buffering: int = -1, encoding: str | None = None, errors: str | None = None,
    newline: str | None = None, *_: Any, forget: bool = False,
) -> IO[Any]:  # fmt: skip
    """A file below the folder, as `open` has it."""
    content = _files.get(file)
    if len(_WAYS & {*mode}) != 1 or not {*mode} <= _WAYS | {*"+bt"} or {*"bt"} <= {*mode}:
        raise ValueError(f"invalid mode: {mode!r}")
    if file in _folders:
        raise _error(errno.EISDIR, file)
    if content is not None and "x" in mode:
        raise _error(errno.EEXIST, file)
    if content is None and "r" in mode:
        raise _error(errno.ENOENT, file)
    if content is None or "w" in mode:
        content = _files.setdefault(file, _Content())
        content.clear()
        content.changed = time.time()
    raw: Any = _Raw(file, content, mode.replace("b", "").replace("t", ""), forget=forget)
    if buffering == 0:
        return raw  # type: ignore[no-any-return]
    both = "+" in mode
    wrapped: Any = (io.BufferedRandom if both else io.BufferedWriter if raw.writable() else io.BufferedReader)(raw)
    if "a" in mode:
        wrapped.seek(0, os.SEEK_END)
    if "b" not in mode:
        wrapped = io.TextIOWrapper(wrapped, encoding or "utf-8", errors, newline, line_buffering=buffering == 1)
    return wrapped  # type: ignore[no-any-return]


def status(path: str) -> os.stat_result:
    """What `os.stat` says."""
    if path in _folders:
        return _stat(stat.S_IFDIR | 0o700, 0, _folders[path])
    if path not in _files:
        raise _error(errno.ENOENT, path)
    return _stat(stat.S_IFREG | 0o600, len(_files[path]), _files[path].changed)


def _stat(mode: int, size: int, at: float) -> os.stat_result:
    whole, precise = (int(at),) * 3, (int(at * 1e9),) * 3
    return os.stat_result((mode, 0, 0, 1, 0, 0, size, *whole, *(at,) * 3, *precise))


def names(path: str) -> list[str]:
    """What is in a folder."""
    if path not in _folders:
        raise _error(errno.ENOTDIR if path in _files else errno.ENOENT, path)
    return sorted(posixpath.basename(one) for one in {*_files, *_folders} - {ROOT} if posixpath.dirname(one) == path)


def unlink(path: str, **_: Any) -> None:
    """Forget a file."""
    if path in _folders:
        raise _error(errno.EISDIR, path)
    if _files.pop(path, None) is None:
        raise _error(errno.ENOENT, path)


def mkdir(path: str, *_: Any, **__: Any) -> None:
    """Make a folder."""
    if path in _folders or path in _files:
        raise _error(errno.EEXIST, path)
    _folders[path] = time.time()


def rmdir(path: str, **_: Any) -> None:
    """Forget a folder that is empty."""
    if names(path):
        raise _error(errno.ENOTEMPTY, path)
    if path == ROOT:
        raise _error(errno.EBUSY, path)
    _folders.pop(path, None)


def rename(path: str, target: Any, **_: Any) -> None:
    """Call a file something else, in place of what was called that; or a folder, with what is in it."""
    to = path_of(target)
    if to is None:
        raise _error(errno.EACCES, os.fsdecode(target))
    if path in _files:
        if to in _folders:
            raise _error(errno.EISDIR, to)
        _files[to] = _files.pop(path)
        return
    names(path)
    if to in _files or (to in _folders and to != path and names(to)):
        raise _error(errno.ENOTDIR if to in _files else errno.ENOTEMPTY, to)
    if path == ROOT or to.startswith(f"{path}/"):
        raise _error(errno.EINVAL, path)
    for kept in _files, _folders:
        for one in [one for one in kept if f"{one}/".startswith(f"{path}/")]:
            kept[f"{to}{one[len(path) :]}"] = kept.pop(one)  # type: ignore[assignment]


def rmtree(path: str, ignore_errors: bool = False, *_: Any, **__: Any) -> None:
    """Forget a folder and what is in it."""
    if path not in _folders and not ignore_errors:
        names(path)
    for one in [one for one in _files if one.startswith(f"{path}/")]:
        del _files[one]
    for one in [one for one in _folders if one != ROOT and f"{one}/".startswith(f"{path}/")]:
        del _folders[one]


def keep(path: str, *_: Any, **__: Any) -> None:
    """Rights and times are what they are."""
    status(path)


def entries(path: str) -> Any:
    """The same, with what `os.scandir` says of each."""
    return folders.Scan(folders.Found(f"{path}/{name}", _Named(name, f"{path}/{name}")) for name in names(path))


class _Named(NamedTuple):
    name: str
    path: str

    def is_file(self) -> bool:
        """Whether there is content."""
        return self.path in _files

    def is_dir(self) -> bool:
        """Whether it is a folder."""
        return self.path in _folders


def named(
    mode: str = "w+b", buffering: int = -1, encoding: str | None = None, newline: str | None = None,
    suffix: str | None = None, prefix: str | None = None, dir: str | None = None, delete: bool = True,  # noqa: A002
    *, errors: str | None = None, delete_on_close: bool = True,
) -> IO[Any]:  # fmt: skip
    """`tempfile.NamedTemporaryFile`. One that is to be deleted is when it is closed."""
    place = path_of(ROOT if dir is None else dir)
    if place not in _folders:
        raise _error(errno.EACCES if place is None else errno.ENOENT, str(dir))
    chosen = next(tempfile._get_candidate_names())  # type: ignore[attr-defined]
    file = posixpath.join(place, f"{'tmp' if prefix is None else prefix}{chosen}{suffix or ''}")
    return opened(file, mode.replace("r", "x").replace("w", "x"), buffering, encoding, errors, newline,
                  forget=delete and delete_on_close)  # fmt: skip


def unnamed(
    mode: str = "w+b", buffering: int = -1, encoding: str | None = None, newline: str | None = None, *_: Any,
    errors: str | None = None, **__: Any,
) -> IO[Any]:  # fmt: skip
    """`tempfile.TemporaryFile`, which nobody can find by a name."""
    file = io.BytesIO()
    return file if "b" in mode else io.TextIOWrapper(file, encoding or "utf-8", errors, newline)


def _error(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)
