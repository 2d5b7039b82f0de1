"""A runtime profile: packages of the host's that every sandbox of a zygote finds imported.

A tenant brings along what is written in Python; what is not has to be there before the lockdown. Importing it in the
zygote also makes a heavy tenant boot as fast as a light one. Runs once, in the zygote, before the lockdown, if at all:
most zygotes have nothing to import.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.machinery
import os
import posix
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_TESTS: Final = {"test", "tests", "testing"}
_ONE_THREAD: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
Package = tuple[Path, str]
"""The folder that a package was found in, and its name there."""


class PreloadFailed(Exception):
    """A package cannot be preloaded; the message says which and why."""


def load(names: Sequence[str], folders: Sequence[str]) -> list[Package]:
    """Import modules from the host's folders: which packages were imported from there, for their other modules."""
    os.environ.update(dict.fromkeys(_ONE_THREAD, "1"))
    pretend, os.register_at_fork = os.register_at_fork, posix.register_at_fork  # these may hold locks, or numbers
    sys.path[:0] = folders
    before = set(sys.modules)
    try:
        for name in names:
            _import(name)
        tops = sorted({name.partition(".")[0] for name in sys.modules.keys() - before})
        packages = [(Path(folder), top) for top in tops for folder in folders if _is_in(folder, top)]
        for folder, top in packages:
            _import_native(folder, top)
    finally:
        os.register_at_fork = pretend
        del sys.path[: len(folders)]
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads > 1:
        raise PreloadFailed(
            f"importing {', '.join(names)} started {threads - 1} threads, and a process with threads cannot be forked"
        )
    return packages


def _import(name: str) -> None:
    try:
        importlib.import_module(name)
    except BaseException as error:
        raise PreloadFailed(f"{name!r} cannot be preloaded: {type(error).__name__}: {error}") from error


def _import_native(folder: Path, top: str) -> None:
    """What a package imports only when it needs it, as far as it is in C: there is no later."""
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        for file in sorted((folder / top).rglob(f"*{suffix}")):
            parts = file.relative_to(folder).parts
            name = ".".join((*parts[:-1], file.name.removesuffix(suffix)))
            if not _TESTS & set(parts) and name not in sys.modules:
                with contextlib.suppress(Exception):  # for another system, or another package that is not there
                    importlib.import_module(name)


def _is_in(folder: str, top: str) -> bool:
    return (Path(folder) / top / "__init__.py").exists()
