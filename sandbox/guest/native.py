"""Which modules of the standard library a sandbox has of those that are written in C, and which of all it has not, and
why.

The libraries are mapped before the zygote imports anything else. The memory that it takes for objects then comes to lie
in one piece, and not between them, so that there is room in it for large pages.
"""

from __future__ import annotations

import contextlib
import ctypes
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ABSENT: Final = {
    name: reason
    for reason, names in (
        ("there is no network; call what the host has granted", "ssl _ssl"),
        ("there is no terminal and no screen",
         "curses _curses _curses_panel readline tkinter _tkinter turtle turtledemo idlelib"),
        ("it keeps its data in files; sqlite3 keeps them in memory", "dbm _dbm _gdbm"),
        ("nothing can be installed", "venv ensurepip distutils lib2to3"),
        ("the accounts, the log and the devices of the host are not there", "crypt _crypt spwd nis syslog ossaudiodev"),
        ("it is part of another system's Python",
         "msilib _msi msvcrt nt winreg winsound _winapi _wmi _overlapped _scproxy _ios_support"),
    )
    for name in names.split()
}  # fmt: skip
"""Modules that a tenant cannot import: why not."""

_FOR_ITS_OWN_TESTS: Final = ("_test", "_ctypes_test", "_xx", "xx")


def map_all() -> None:
    """Map every library that `names` speaks of, and run nothing of it yet."""
    for file in _files():
        with contextlib.suppress(OSError):  # it needs another library that this system does not have
            ctypes.CDLL(str(file))


def names() -> Iterator[str]:
    """The modules that are to be imported before the lockdown."""
    return map(_name, _files())


def _files() -> Iterator[Path]:
    for file in (Path(sysconfig.get_path("platstdlib")) / "lib-dynload").glob("*.so"):
        if _name(file) not in ABSENT and not _name(file).startswith(_FOR_ITS_OWN_TESTS):
            yield file


def _name(file: Path) -> str:
    return file.name.partition(".")[0]
