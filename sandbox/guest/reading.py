"""Files that came with the tenant's code, or with packages of its profile: opened, found and listed by their paths, as
if they lay there. For reading only.
"""

from __future__ import annotations

import io
import os
import stat
import sys
from collections.abc import Iterator
from typing import IO, Any, Self

from . import disguise, importer, library, resources


def opened(
    file: Any, mode: str = "r", buffering: int = -1, encoding: str | None = None, errors: str | None = None,
    newline: str | None = None, *_: Any, **__: Any,
) -> IO[Any] | None:  # fmt: skip
    """The file, or None if none of that name came along, or it is to be written."""
    if set(mode) - set("rbt"):
        return None
    entry = _entry(os.fspath(file))
    if entry is None or not entry.is_file():
        return None
    data = io.BytesIO(entry.read_bytes())
    return data if "b" in mode else io.TextIOWrapper(data, encoding or "utf-8", errors, newline)


def status(path: str | bytes) -> os.stat_result | None:
    """What `os.stat` says of a file or a folder, whose times are the beginning of 1970. None if none came along."""
    entry = _entry(path)
    if entry is not None and entry.is_file():
        return os.stat_result((stat.S_IFREG | 0o444, 0, 0, 1, 0, 0, len(entry.read_bytes()), 0, 0, 0))
    if entry is not None and entry.is_dir():
        return os.stat_result((stat.S_IFDIR | 0o555, 0, 0, 1, 0, 0, 0, 0, 0, 0))
    return None


def names(path: str | bytes) -> list[str] | None:
    """What is in a folder. None if none of that name came along."""
    entry = _entry(path)
    return None if entry is None or not entry.is_dir() else [below.name for below in entry.iterdir()]


class Found:
    """One of the things in a folder, as `os.scandir` has it."""

    def __init__(self, path: str, entry: Any) -> None:
        self.name, self.path, self._entry = entry.name, path, entry

    def __fspath__(self) -> str:
        return self.path

    def stat(self, **_: Any) -> os.stat_result:
        """See `os.stat`."""
        return os.stat(self.path)  # noqa: PTH116 - which is what is asked for

    def is_file(self, **_: Any) -> bool:
        """Whether it is a file."""
        return bool(self._entry.is_file())

    def is_dir(self, **_: Any) -> bool:
        """Whether it is a folder."""
        return bool(self._entry.is_dir())

    def is_symlink(self) -> bool:
        """There are no links."""
        return False


class Scan:
    """What is in a folder, to be gone through once."""

    def __init__(self, found: Iterator[Found]) -> None:
        self._found = found

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Found:
        return next(self._found)

    def __enter__(self) -> Self:
        return self

    def close(self, *_: object) -> None:
        """There is nothing to close."""

    __exit__ = close


def entries(path: str | bytes) -> Scan | None:
    """The same, with what `os.scandir` says of each."""
    entry = _entry(path)
    if entry is None or not entry.is_dir():
        return None
    folder = os.fsdecode(path).rstrip("/")
    return Scan(Found(f"{folder}/{below.name}", below) for below in entry.iterdir())


def missing(path: str | bytes) -> bool:
    """Whether it would be in a folder that came along, and is not there."""
    folder, _, name = os.fsdecode(path).rstrip("/").rpartition("/")
    entry = _entry(folder) if folder.strip("./") and name else None
    return entry is not None and entry.is_dir()


def _entry(path: str | bytes) -> resources.Entry | None:
    text = os.fsdecode(path)
    of_library = text.lstrip("/").startswith(disguise.ROOT)
    for finder in sys.meta_path:
        if of_library and isinstance(finder, library.Library):
            return finder.entry(text.lstrip("/").removeprefix(disguise.ROOT))
        if not of_library and isinstance(finder, importer.Tenant):
            return resources.Entry(finder.paths, finder.get_data, text)
    return None
