"""Files that are kept in memory, as `importlib.resources` and `pkgutil` want to see them."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import posixpath
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from importlib.resources.abc import Traversable, TraversableResources
from typing import IO, Any

Modules = Mapping[str, tuple[Any, bool]]
"""By name; the second of each says whether it is a package."""


def plain(path: str) -> str:
    """A path as it stands in a list of files: from the root, without detours."""
    return posixpath.normpath(f"/{path}").lstrip("/")


def children(modules: Modules, package: str, prefix: str) -> Iterator[tuple[str, bool]]:
    """What `pkgutil.iter_modules` says of a package; of everything, for ""."""
    stem = f"{package}." if package else ""
    for name in sorted(modules):
        rest = name[len(stem) :]
        if name.startswith(stem) and rest and "." not in rest:
            yield prefix + rest, modules[name][1]


def below(path: str) -> Below:
    """The hook for what is in the `__path__` of packages: `pkgutil` asks, imports do not."""
    for finder in sys.meta_path:
        if hasattr(finder, "below"):
            with contextlib.suppress(ImportError):
                found: Below = finder.below(path)
                return found
    raise ImportError(f"there is no package at {path!r}")


class Below:
    """What is in a package."""

    def __init__(self, modules: Modules, package: str) -> None:
        if not modules.get(package, (None, False))[1]:
            raise ImportError(f"there is no package {package!r}")
        self._modules, self._package = modules, package

    def iter_modules(self, prefix: str = "") -> Iterator[tuple[str, bool]]:
        """What `pkgutil` asks for."""
        return children(self._modules, self._package, prefix)


class Entry(Traversable):
    """A file or a folder among some files."""

    def __init__(self, paths: Collection[str], read: Callable[[str], Any], path: str) -> None:
        self._paths, self._read, self._path = paths, read, plain(path)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self._path.rpartition("/")[2]

    def is_file(self) -> bool:
        """Whether there is content."""
        return self._path in self._paths

    def is_dir(self) -> bool:
        """Whether there are files below it."""
        return any(True for _ in self._below())

    def iterdir(self) -> Iterator[Entry]:
        """What is directly in a folder."""
        names = dict.fromkeys(path.partition("/")[0] for path in self._below())
        return (self.joinpath(name) for name in sorted(names))

    def joinpath(self, *descendants: Any) -> Entry:
        """Further down."""
        return Entry(self._paths, self._read, posixpath.join(self._path, *map(str, descendants)))

    __truediv__ = joinpath

    def read_bytes(self) -> bytes:
        """The content."""
        if not self.is_file():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self._path)
        return bytes(self._read(self._path))

    def read_text(self, encoding: str | None = None, errors: str | None = None) -> str:
        """The content as text."""
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

    def open(self, mode: str = "r", *args: Any, **kwargs: Any) -> IO[Any]:
        """The content as a file."""
        content = io.BytesIO(self.read_bytes())
        if "b" in mode:
            return content
        kwargs.setdefault("encoding", args[1] if len(args) > 1 else "utf-8")
        return io.TextIOWrapper(content, **{key: value for key, value in kwargs.items() if key != "buffering"})

    def _below(self) -> Iterator[str]:
        stem = f"{self._path}/" if self._path else ""
        return (path[len(stem) :] for path in self._paths if path.startswith(stem))

    def __str__(self) -> str:
        return self._path

    def __repr__(self) -> str:
        return f"<{self._path!r} in memory>"


class Reader(TraversableResources):
    """The files of one package."""

    def __init__(self, folder: Entry) -> None:
        self._folder = folder

    def files(self) -> Entry:
        """The folder that the package is."""
        return self._folder
