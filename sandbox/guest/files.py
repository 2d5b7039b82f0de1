"""What stands where files would be: errors that say what can be done instead, and a working folder.

There is no temporary folder either. Whatever a tenant wants to keep in a file has a place in its memory, which is
limited already.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import sys
import tempfile
from typing import IO, Any, NoReturn

_open = io.open
_INSTEAD = (
    "no file can be opened in a sandbox: write to io.BytesIO or io.StringIO, "
    "read what came with the code through importlib.resources"
)
_NO_FOLDER = "there is no folder for temporary files in a sandbox: use io.BytesIO, or tempfile.SpooledTemporaryFile()"


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
        raise PermissionError(error.errno, _INSTEAD, os.fspath(file)) from None


def install() -> None:
    """Take the places of what is there."""
    open.__module__ = "io"
    builtins.open = io.open = open  # type: ignore[assignment]
    tempfile._get_default_tempdir = _no_folder  # type: ignore[attr-defined]
    for module in map(vars, filter(None, map(sys.modules.get, ("pathlib", "pathlib._abc")))):
        if "_IGNORED_ERRNOS" in module:  # what `Path.exists` takes for a no
            module["_IGNORED_ERRNOS"] += (errno.EACCES, errno.EPERM)
    os.getcwd, os.getcwdb = lambda: "/", lambda: b"/"  # which is true, and the system may not be asked


def _no_folder(*_: object) -> NoReturn:
    raise FileNotFoundError(_NO_FOLDER)
