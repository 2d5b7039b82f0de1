"""What stands where files would be: what came along with the code, a temporary folder that lies in memory, and for
everything else errors that say what can be done instead.
"""

from __future__ import annotations

import builtins
import errno
import functools
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from typing import IO, Any, Final, NoReturn

_open, _stat, _lstat, _listdir, _scandir = io.open, os.stat, os.lstat, os.listdir, os.scandir
_INSTEAD = (
    "no file can be opened in a sandbox, but in /tmp: write there, or to io.BytesIO, "
    "read what came with the code through importlib.resources"
)
_NO_DESCRIPTOR = "a temporary file lies in memory, and has no descriptor: use tempfile.NamedTemporaryFile(delete=False)"
_CHANGES: Final = {"unlink": "unlink", "remove": "unlink", "mkdir": "mkdir", "rmdir": "rmdir", "rename": "rename",
                   "replace": "rename", "chmod": "keep", "utime": "keep"}  # fmt: skip
"""Functions of `os`, and what does the same in the temporary folder."""


def open(file: Any, *args: Any, **kwargs: Any) -> IO[Any]:  # noqa: A001 - it is what `open` is inside
    """As ever for a descriptor. What came along with the code can be read; any other path cannot be opened, and the
    error says what to do instead."""
    if (place := _temporary(file)) is not None:
        return _scratch("opened", place, *args, **kwargs)  # type: ignore[no-any-return]
    try:
        stream: IO[Any] = _open(file, *args, **kwargs)
        return stream
    except PermissionError as error:
        if isinstance(file, int):
            raise
        from . import reading

        if (found := reading.opened(file, *args, **kwargs)) is not None:
            return found
        writes = bool({*(args[0] if args else kwargs.get("mode", "r"))} & {*"wax+"})
        if os.path.normpath(os.fsdecode(file)).startswith("/tmp/") or (not writes and reading.missing(os.fspath(file))):
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


def _temporary(path: Any) -> str | None:
    """A path in the temporary folder; None for any other, and for a descriptor."""
    if path is None or isinstance(path, int) or "tmp" not in os.fsdecode(path):
        return None
    return _scratch("path_of", path)  # type: ignore[no-any-return]


def _scratch(name: str, *args: Any, **options: Any) -> Any:
    from . import scratch

    return getattr(scratch, name)(*args, **options)


def _also_temporary(real: Callable[..., Any], name: str) -> Callable[..., Any]:
    @functools.wraps(real)
    def call(path: Any, *args: Any, **options: Any) -> Any:
        if (place := _temporary(path)) is not None:
            return _scratch(name, place, *args, **options)
        try:
            return real(path, *args, **options)
        except PermissionError as error:
            if name == "mkdir" and os.fsdecode(path).startswith("/tmp/"):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from error
            raise

    return call


def _seen(what: str, look: Any, path: Any, **options: Any) -> Any:
    if (place := _temporary(path)) is not None:
        return _scratch(what, place)
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
    for name, same in _CHANGES.items():
        setattr(os, name, _also_temporary(getattr(os, name), same))
    shutil.rmtree = _also_temporary(shutil.rmtree, "rmtree")  # type: ignore[assignment]
    if "_rmtree" in vars(tempfile):  # Debian's has kept the other one
        vars(tempfile)["_rmtree"] = shutil.rmtree
    shutil._copyxattr = lambda *_, **__: None  # type: ignore[attr-defined] # no file has any, nor may they be asked for
    tempfile._get_default_tempdir = lambda *_: "/tmp"  # type: ignore[attr-defined]
    tempfile.TemporaryFile = functools.partial(_scratch, "unnamed")
    tempfile.NamedTemporaryFile = functools.partial(_scratch, "named")
    tempfile.mkstemp = tempfile._mkstemp_inner = _no_descriptor  # type: ignore[attr-defined]
    for module in map(vars, filter(None, map(sys.modules.get, ("pathlib", "pathlib._abc")))):
        if "_IGNORED_ERRNOS" in module:  # what `Path.exists` takes for a no
            module["_IGNORED_ERRNOS"] += (errno.EACCES, errno.EPERM)
    if (globber := getattr(sys.modules.get("glob"), "_StringGlobber", None)) is not None:
        globber.scandir, globber.lstat = staticmethod(scandir), staticmethod(lstat)  # `Path.glob` has kept the others
    os.getcwd, os.getcwdb = lambda: "/", lambda: b"/"  # which is true, and the system may not be asked


def _no_descriptor(*_: object, **__: object) -> NoReturn:
    raise OSError(_NO_DESCRIPTOR)
