"""What stands where files would be: errors that say what can be done instead, and a working folder.

There is no temporary folder either. A temporary file without a name lies in the tenant's memory, which is limited
already: whatever else it wants to keep in a file has a place there too.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import sys
import tempfile
from typing import IO, Any, NoReturn

_open, _stat, _lstat, _listdir, _scandir = io.open, os.stat, os.lstat, os.listdir, os.scandir
_INSTEAD = (
    "no file can be opened in a sandbox: write to io.BytesIO or io.StringIO, "
    "read what came with the code through importlib.resources"
)
_NO_FOLDER = "there is no folder for temporary files in a sandbox: use io.BytesIO, or tempfile.TemporaryFile()"


def open(file: Any, *args: Any, **kwargs: Any) -> IO[Any]:  # noqa: A001 - it is what `open` is inside
    """As ever for a descriptor. What came along with the code can be read; any other path cannot be opened, and the
    error says what to do instead."""
    try:
        stream: IO[Any] = _open(file, *args, **kwargs)
        return stream
    except PermissionError as error:
        if isinstance(file, int):
            raise
        from . import reading

        if (found := reading.opened(file, *args, **kwargs)) is not None:
            return found
        if not {*(args[0] if args else kwargs.get("mode", "r"))} & {*"wax+"} and reading.missing(os.fspath(file)):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(file)) from None
        raise PermissionError(error.errno, _INSTEAD, os.fspath(file)) from None


def stat(path: Any, **options: Any) -> os.stat_result:
    """As ever, and of what came along with the code."""
    return _seen("status", _stat, path, **options)  # type: ignore[no-any-return]


def lstat(path: Any, **options: Any) -> os.stat_result:
    """The same: there are no links."""
    return _seen("status", _lstat, path, **options)  # type: ignore[no-any-return]


def listdir(path: Any = ".") -> list[Any]:
    """The names in a folder that came along with the code."""
    return _seen("names", _listdir, path)  # type: ignore[no-any-return]


def scandir(path: Any = ".") -> Any:
    """What is in such a folder."""
    return _seen("entries", _scandir, path)


def _seen(what: str, look: Any, path: Any, **options: Any) -> Any:
    try:
        return look(path, **options)
    except OSError:
        if isinstance(path, int):
            raise
        from . import reading

        if (found := getattr(reading, what)(os.fspath(path))) is not None:
            return found
        if reading.missing(os.fspath(path)):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(path)) from None
        raise


def install() -> None:
    """Take the places of what is there."""
    open.__module__ = "io"
    builtins.open = io.open = open  # type: ignore[assignment]
    os.stat, os.lstat, os.listdir, os.scandir = stat, lstat, listdir, scandir
    if "tokenize" in sys.modules:  # by which tracebacks find lines
        vars(sys.modules["tokenize"])["_builtin_open"] = open
    tempfile._get_default_tempdir = _no_folder  # type: ignore[attr-defined]
    tempfile.TemporaryFile = _in_memory  # type: ignore[assignment]
    for module in map(vars, filter(None, map(sys.modules.get, ("pathlib", "pathlib._abc")))):
        if "_IGNORED_ERRNOS" in module:  # what `Path.exists` takes for a no
            module["_IGNORED_ERRNOS"] += (errno.EACCES, errno.EPERM)
    if (globber := getattr(sys.modules.get("glob"), "_StringGlobber", None)) is not None:
        globber.scandir, globber.lstat = staticmethod(scandir), staticmethod(lstat)  # `Path.glob` has kept the others
    os.getcwd, os.getcwdb = lambda: "/", lambda: b"/"  # which is true, and the system may not be asked


def _in_memory(
    mode: str = "w+b", buffering: int = -1, encoding: str | None = None, newline: str | None = None, *_: Any,
    errors: str | None = None, **__: Any,
) -> IO[Any]:  # fmt: skip
    """A temporary file that nobody can find by a name. It is where it would be written to anyway."""
    file = io.BytesIO()
    return file if "b" in mode else io.TextIOWrapper(file, encoding or "utf-8", errors, newline)


def _no_folder(*_: object) -> NoReturn:
    raise FileNotFoundError(_NO_FOLDER)
