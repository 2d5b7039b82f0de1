"""Files that came with the tenant's code, or with packages of its profile: opened, found and listed by their paths, as
if they lay there. For reading only.
"""

from __future__ import annotations

import io
import os
import stat
import sys
from typing import IO, Any

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


def entries(path: str | bytes) -> Any:
    """The same, with what `os.scandir` says of each."""
    entry = _entry(path)
    if entry is None or not entry.is_dir():
        return None
    from . import folders

    return folders.scan(os.fsdecode(path).rstrip("/"), entry)


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
