"""The standard library inside a sandbox, where no file can be opened and no library mapped.

What is written in C is imported before the lockdown, or it is gone. What is written in Python is kept as compiled code
in one shared mapping that a fork does not copy, and is imported from there when a tenant asks for it. Beside it lie
the data of time zones, as the files of a package `tzdata`, which is where `zoneinfo` looks for them.
"""

from __future__ import annotations

import _imp
import asyncio.selector_events
import errno
import functools
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import marshal
import mmap
import os
import platform
import socket
import subprocess
import sys
import types
import warnings
import zoneinfo
from collections.abc import Iterator, Sequence
from typing import Any, Final

from ..lockdown import limits
from . import disguise, files, native, resources, sqlite
from .archive import Archive
from .importer import run
from .native import ABSENT

EAGER: Final = (
    "asyncio collections.abc contextlib contextvars copy dataclasses datetime enum functools hashlib http inspect"
    " io itertools json linecache logging math operator random re string struct tempfile threading time traceback"
    " types typing uuid weakref concurrent.futures.thread encodings.idna encodings.latin_1 _strptime"
).split()
"""Imported by the zygote, because nearly every tenant uses them, or because they are needed after the lockdown."""

_NO_PROCESS: Final = (
    "no process can be started in a sandbox: use a thread (asyncio.to_thread), or a binding of the host's"
)
_NO_SOCKET: Final = "no socket can be opened in a sandbox: fetch, urllib, requests and httpx reach what the host grants"
_BROUGHT: Final = "a package comes with the code (cloister bundle), or from the host: preload=({!r},)"


def preload() -> None:
    """Import what must be there before the lockdown."""
    for name in (*EAGER, *native.names()):
        try:
            importlib.import_module(name)
        except ImportError:
            continue  # this build of Python does not have it, so neither will the guest
    _forget_the_host()
    _count_the_cores()
    _write_in_pieces()
    _explain()
    sqlite.keep_apart()


def _forget_the_host() -> None:
    """Its name, its kernel and its memory: neither from a module that has asked before, nor from the system."""
    known = platform.uname()
    os.uname = lambda: os.uname_result((known.system, "sandbox", "", "", known.machine))
    socket.gethostname = lambda: "sandbox"
    setattr(platform, "_uname_cache", platform.uname_result(known.system, "sandbox", "", "", known.machine))  # noqa: B010
    platform._platform_cache.clear()  # type: ignore[attr-defined]
    platform.architecture.__defaults__ = ("", "", "")
    of_machine = os.sysconf
    pages = {each: [each, os.sysconf_names[each]] for each in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES")}

    @functools.wraps(of_machine)
    def sysconf(name: str | int, /) -> int:
        if name in pages["SC_AVPHYS_PAGES"]:  # the C library would answer with what lies on its stack
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        return limits.own_memory() // mmap.PAGESIZE if name in pages["SC_PHYS_PAGES"] else of_machine(name)

    os.sysconf = sysconf


def _count_the_cores() -> None:
    """Before the host keeps a process that computes on one of them for a while: asked then, the system would say one,
    and who has threads for each core would have one for good."""
    cores, of_process, of_machine = os.sched_getaffinity(0), os.sched_getaffinity, os.sysconf
    known = [each for name in ("SC_NPROCESSORS_CONF", "SC_NPROCESSORS_ONLN") for each in (name, os.sysconf_names[name])]

    @functools.wraps(of_process)
    def sched_getaffinity(pid: int, /) -> set[int]:
        return of_process(pid) if pid else set(cores)

    @functools.wraps(of_machine)
    def sysconf(name: str | int, /) -> int:
        return len(cores) if name in known else of_machine(name)

    os.sched_getaffinity, os.sysconf = sched_getaffinity, sysconf
    os.cpu_count = functools.wraps(os.cpu_count)(lambda: len(cores))


def _write_in_pieces() -> None:
    """Streams with much to write would do it by a call that can pass descriptors, which is refused. So they write as in
    3.11: the other way of 3.12 loses bytes."""
    setattr(asyncio.selector_events, "_HAS_SENDMSG", False)  # noqa: B010
    transport: Any = getattr(asyncio.selector_events, "_SelectorSocketTransport")  # noqa: B009
    transport.writelines = asyncio.WriteTransport.writelines


def _explain() -> None:
    """What is refused to whoever starts a process or opens a socket says so, and what to do instead."""

    def explained(real: Any, words: str = _NO_PROCESS) -> Any:
        @functools.wraps(real)
        def call(*args: Any, **options: Any) -> Any:
            try:
                return real(*args, **options)
            except PermissionError as error:
                raise PermissionError(error.errno, words, error.filename) from None

        return call

    def system(command: Any, of_system: Any = os.system) -> int:
        warnings.warn(_NO_PROCESS, RuntimeWarning, stacklevel=2)  # it says no more than that it went wrong
        return of_system(command)  # type: ignore[no-any-return]

    os.system = functools.wraps(os.system)(system)
    for place, names in (os, "execv execve fork forkpty posix_spawn posix_spawnp"), (subprocess, "_fork_exec"):
        vars(place).update((name, explained(vars(place)[name])) for name in names.split())
    if lock := getattr(own := sys.modules.get("_multiprocessing"), "SemLock", None):
        vars(own)["SemLock"] = type("SemLock", (lock,), {"__new__": explained(lock.__new__)})
    socket.socket.__init__ = explained(socket.socket.__init__, _NO_SOCKET)  # type: ignore[method-assign]


def install(archive: Archive) -> None:
    """From now on modules come from memory only, and none of them says where it came from."""
    for name in [name for name, module in sys.modules.items() if module is None]:
        del sys.modules[name]  # which the bootstrap had put there; whoever imports it from now on is told why not
    zoneinfo.reset_tzpath(())
    library = Library(archive)
    sys.path[:] = []
    sys.path_importer_cache.clear()
    sys.path_hooks[:] = [resources.below]  # type: ignore[list-item] # `pkgutil` needs no more of them
    sys.meta_path[:] = [_BuiltIn, importlib.machinery.FrozenImporter, library]
    files.install()
    disguise.put_on(library)


class _BuiltIn:
    """Finds what is part of the interpreter, but for what some builds have there and a sandbox has not."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """The import system's question."""
        return None if name in ABSENT else importlib.machinery.BuiltinImporter.find_spec(name, path, target)


class Library(importlib.abc.Loader):
    """Finds and loads modules of the archive."""

    def __init__(self, archive: Archive) -> None:
        self._modules, self._files = archive

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The import system's question."""
        entry = self._modules.get(name)
        if path is not None and disguise.folder(name.rpartition(".")[0]) not in path:
            return None  # the package of that name is another one: a tenant's own
        if entry is None:
            reason = ABSENT.get(name)
            if name not in sys.stdlib_module_names:
                reason = None if "." in name or sys.meta_path[-1] is not self else _BROUGHT.format(name)
            if reason is None or _only_asked():
                return None
            raise ModuleNotFoundError(f"No module named {name!r} in a sandbox: {reason}", name=name)
        spec = importlib.machinery.ModuleSpec(name, self, origin=disguise.place(name, entry[1]), is_package=entry[1])
        if spec.submodule_search_locations is not None:
            spec.submodule_search_locations.append(disguise.folder(name))
        return spec

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        """The default will do."""

    def exec_module(self, module: types.ModuleType) -> None:
        """Run the module's code in it."""
        module.__file__ = disguise.place(module.__name__, self.is_package(module.__name__))
        run(self.get_code(module.__name__), module)

    def get_code(self, name: str) -> types.CodeType:
        """The compiled code of a module."""
        code: types.CodeType = marshal.loads(self._entry(name)[0])
        _imp._fix_co_filename(code, disguise.place(name, self.is_package(name)))  # type: ignore[attr-defined]
        return code

    def get_source(self, name: str) -> None:
        """There is none: only compiled code is kept."""

    def is_package(self, name: str) -> bool:
        """Whether a module of the archive is a package."""
        return self._entry(name)[1]

    def get_resource_reader(self, name: str) -> resources.Reader:
        """The files of a package, for `importlib.resources`."""
        return resources.Reader(self.entry(name.replace(".", "/")))

    def entry(self, path: str) -> resources.Entry:
        """A file or a folder of them."""
        return resources.Entry(self._files, self._files.__getitem__, path)

    def iter_modules(self, prefix: str = "") -> Iterator[tuple[str, bool]]:
        """The top-level modules, for `pkgutil`."""
        return resources.children(self._modules, "", prefix)

    def below(self, path: str) -> resources.Below:
        """What is in a package, for `pkgutil`."""
        return resources.Below(self._modules, disguise.package(path))

    def _entry(self, name: str) -> tuple[memoryview, bool]:
        try:
            return self._modules[name]
        except KeyError:
            raise ImportError(f"no code is kept of {name!r}", name=name) from None


def _only_asked() -> bool:
    """Whether `importlib.util.find_spec` wants to know if there is such a module: there is not."""
    return bool(sys._getframe(3).f_globals.get("__name__") == "importlib.util")
