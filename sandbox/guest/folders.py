"""What is in a folder that came with the tenant's code, or with packages of its profile, as `os.scandir` tells of it.

Kept with the standard library, for those who ask.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, Self

from .resources import Entry


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


def scan(folder: str, entry: Entry) -> Scan:
    """A folder's."""
    return Scan(Found(f"{folder}/{below.name}", below) for below in entry.iterdir())
