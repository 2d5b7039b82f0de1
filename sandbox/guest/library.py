"""The standard library inside a sandbox, where no file can be opened and no library mapped.

What is written in C is imported before the lockdown, or it is gone. What is written in Python is kept as compiled code
in one shared mapping that a fork does not copy, and is imported from there when a tenant asks for it.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import marshal
import mmap
import platform
import sys
import sysconfig
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

EAGER: Final = [
    "asyncio",
    "collections.abc",
    "contextlib",
    "contextvars",
    "copy",
    "dataclasses",
    "datetime",
    "enum",
    "functools",
    "hashlib",
    "inspect",
    "io",
    "itertools",
    "json",
    "linecache",
    "logging",
    "math",
    "operator",
    "random",
    "re",
    "string",
    "struct",
    "tempfile",
    "threading",
    "time",
    "traceback",
    "types",
    "typing",
    "uuid",
    "weakref",
    "concurrent.futures.thread",
    "encodings.idna",
    "encodings.latin_1",
    "_strptime",
]
"""Imported by the zygote, because nearly every tenant uses them, or because they are needed after the lockdown."""

NOT_FOR_GUESTS: Final = frozenset(
    """
    _tkinter _curses _curses_panel readline _dbm _gdbm _ssl _ctypes_test _xxsubinterpreters _xxtestfuzz nis
    ossaudiodev spwd _crypt _posixshmem _multiprocessing _posixsubprocess syslog
    """.split()
)
"""Modules in C that reach for a terminal, the network, other processes or the host's accounts."""

ABSENT: Final = ("_ssl", "ssl")
"""Never imported, also not by asyncio: there is nobody to talk to, and it takes two megabytes."""

LEFT_OUT: Final = frozenset(
    """
    test tests idlelib tkinter turtle turtledemo lib2to3 ensurepip distutils venv site-packages dist-packages
    __pycache__ curses dbm pydoc_data msilib
    """.split()
)

_ROOM: Final = 64 << 20  # address space; only what is written to takes memory
Archive = dict[str, tuple[memoryview, bool]]
"""Module name: its compiled code, and whether it is a package."""


def preload() -> None:
    """Import what must be there before the lockdown."""
    sys.modules.update(dict.fromkeys(ABSENT))  # type: ignore[arg-type] # None is how an import is refused
    for name in (*EAGER, *_native_modules()):
        try:
            importlib.import_module(name)
        except ImportError:
            continue  # this build of Python does not have it, so neither will the guest
    _forget_the_host()


def _forget_the_host() -> None:
    """What was asked of the system on the way is kept by the module that asked: the host's name, and its kernel."""
    known = platform.uname()
    setattr(platform, "_uname_cache", platform.uname_result(known.system, "sandbox", "", "", known.machine))  # noqa: B010
    platform._platform_cache.clear()  # type: ignore[attr-defined]


def build() -> Archive:
    """Compile, or read compiled, every module in Python that makes sense in a sandbox."""
    shared = mmap.mmap(-1, _ROOM)
    view = memoryview(shared)
    archive: Archive = {}
    for name, code, package in _compiled(Path(sysconfig.get_path("stdlib"))):
        start = shared.tell()
        shared.write(code)
        archive[name] = (view[start : shared.tell()], package)
    return archive


def install(archive: Archive) -> None:
    """From now on modules come from memory only."""
    sys.path[:] = []
    sys.path_importer_cache.clear()
    sys.meta_path[:] = [importlib.machinery.BuiltinImporter, importlib.machinery.FrozenImporter, Library(archive)]


class Library(importlib.abc.Loader):
    """Finds and loads modules of the archive."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The import system's question."""
        entry = self._archive.get(name)
        if entry is None:
            return None
        origin = f"<library>/{name.replace('.', '/')}.py"
        return importlib.util.spec_from_loader(name, self, origin=origin, is_package=entry[1])

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        """The default will do."""

    def exec_module(self, module: types.ModuleType) -> None:
        """Run the module's code in it."""
        exec(self.get_code(module.__name__), module.__dict__)

    def get_code(self, name: str) -> types.CodeType:
        """The compiled code of a module."""
        code: types.CodeType = marshal.loads(self._archive[name][0])
        return code

    def get_source(self, name: str) -> None:
        """There is none: only compiled code is kept."""

    def is_package(self, name: str) -> bool:
        """Whether a module of the archive is a package."""
        return self._archive[name][1]


def _compiled(root: Path) -> Iterator[tuple[str, bytes, bool]]:
    for file in sorted(root.rglob("*.py")):
        parts = file.relative_to(root).with_suffix("").parts
        if LEFT_OUT & set(parts) or parts[0].startswith("config-"):
            continue
        package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if package else parts)
        if name.isascii() and all(part.isidentifier() for part in name.split(".")):
            code = _code(file)
            if code is not None:
                yield name, code, package


def _code(file: Path) -> bytes | None:
    """Marshalled code, from beside the source where an up-to-date copy lies, compiled anew where not."""
    cached = Path(importlib.util.cache_from_source(str(file)))
    try:
        data = cached.read_bytes()
        stamp = int(file.stat().st_mtime) & 0xFFFF_FFFF
        if data[:4] == importlib.util.MAGIC_NUMBER and data[4:12] == bytes(4) + stamp.to_bytes(4, "little"):
            return data[16:]
    except OSError:
        pass
    try:
        return marshal.dumps(compile(file.read_bytes(), str(file), "exec", dont_inherit=True))
    except (SyntaxError, ValueError, OSError):
        return None  # a sample of bad code, as some libraries ship


def _native_modules() -> Iterator[str]:
    folder = Path(sysconfig.get_path("platstdlib")) / "lib-dynload"
    for file in folder.glob("*.so"):
        name = file.name.partition(".")[0]
        if name not in NOT_FOR_GUESTS and not name.startswith(("_test", "xx")):
            yield name
