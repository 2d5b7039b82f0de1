"""The standard library inside a sandbox, where no file can be opened and no library mapped.

What is written in C is imported before the lockdown, or it is gone. What is written in Python is kept as compiled code
in one shared mapping that a fork does not copy, and is imported from there when a tenant asks for it. Beside it lie
the data of time zones, as the files of a package `tzdata`, which is where `zoneinfo` looks for them.
"""

from __future__ import annotations

import _imp
import asyncio.selector_events
import errno
import fcntl
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
import sys
import sysconfig
import types
import zoneinfo
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from cloister.ipc import values

from ..lockdown import limits
from . import disguise, files, native, resources, sqlite
from .importer import run
from .native import ABSENT
from .profile import Package

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
    "http",
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

_SEALING_TRIES: Final = 5  # the kernel waits for a sixth of a second in each
_LEFT_OUT: Final = {"test", "tests", "site-packages", "dist-packages", "__pycache__"}
_OURS: Final = ("attempts", "blobs", "bodies", "bound", "caches", "children", "conversions", "dependencies",
                "distributions", "drift", "elements", "entries", "forms", "guises", "handlers", "headers",
                "hibernation", "http", "httpx_transports", "legacy", "loopback", "moments", "nesting", "objects",
                "pretence", "readers", "reading", "revival", "rewriter", "rollback", "selection", "sockets", "storage",
                "streams", "tables", "tees", "transports")  # fmt: skip
"""Modules of the guest's that few tenants need."""
_NO_ZONES: Final = {"posix", "right", "localtime", "posixrules"}
"""Other forms of the same zones, and which of them is the host's."""

Files = dict[str, memoryview]


class Archive(NamedTuple):
    """What is served from the shared mapping."""

    modules: dict[str, tuple[memoryview, bool]]
    """Module name: its compiled code, and whether it is a package."""
    files: Files
    """Path: content."""


def preload() -> None:
    """Import what must be there before the lockdown."""
    for name in (*EAGER, *native.names()):
        try:
            importlib.import_module(name)
        except ImportError:
            continue  # this build of Python does not have it, so neither will the guest
    _forget_the_host()
    _write_in_pieces()
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


def _write_in_pieces() -> None:
    """Streams with much to write would do it by a call that can pass descriptors, which is refused. So they write as in
    3.11: the other way of 3.12 loses bytes."""
    setattr(asyncio.selector_events, "_HAS_SENDMSG", False)  # noqa: B010
    transport: Any = getattr(asyncio.selector_events, "_SelectorSocketTransport")  # noqa: B009
    transport.writelines = asyncio.WriteTransport.writelines


def build(packages: Sequence[Package] = ()) -> Archive:
    """Compile, or read compiled, every module in Python that makes sense in a sandbox; read the zones."""
    memory = os.memfd_create("library", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with os.fdopen(os.dup(memory), "wb") as file:

        def keep(content: bytes) -> slice:
            start = file.tell()
            file.write(content)
            return slice(start, file.tell())

        modules = [(name, keep(code), package) for name, code, package in _all(packages)]
        kept: dict[bytes, slice] = {}  # a third of the zones are other names of the rest
        zones = [(path, kept.get(content) or kept.setdefault(content, keep(content))) for path, content in _zones()]
        nothing = keep(marshal.dumps(compile("", "", "exec")))
    view = _sealed(memory)
    archive = Archive({name: (view[place], package) for name, place, package in modules}, {})
    for path, place in zones:
        archive.files[path] = view[place]
        archive.modules[path.rpartition("/")[0].replace("/", ".")] = (view[nothing], True)
    return archive


def _sealed(memory: int) -> memoryview:
    """What was written, for reading. All sandboxes share it, so nobody may change it for the others: what is mapped of
    a file that was opened for reading can never be made writable. That the file takes no more writing either is a
    second lock, which the kernel refuses while it is busy with one of the pages."""
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    for _ in range(_SEALING_TRIES):
        try:
            fcntl.fcntl(memory, fcntl.F_ADD_SEALS, seals)
            break
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
    reading = os.open(f"/proc/self/fd/{memory}", os.O_RDONLY | os.O_CLOEXEC)
    view = memoryview(mmap.mmap(reading, 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ))
    os.close(memory)
    os.close(reading)
    return view


def install(archive: Archive) -> None:
    """From now on modules come from memory only, and none of them says where it came from."""
    for name in [name for name, module in sys.modules.items() if module is None]:
        del sys.modules[name]  # which the bootstrap had put there; whoever imports it from now on is told why not
    zoneinfo.reset_tzpath(())
    library = Library(archive)
    sys.path[:] = []
    sys.path_importer_cache.clear()
    sys.path_hooks[:] = [resources.below]  # type: ignore[list-item] # `pkgutil` needs no more of them
    sys.meta_path[:] = [importlib.machinery.BuiltinImporter, importlib.machinery.FrozenImporter, library]
    files.install()
    disguise.put_on(library)


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
            if reason is None or name not in sys.stdlib_module_names or _only_asked():
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
        return resources.Reader(resources.Entry(self._files, self._files.__getitem__, name.replace(".", "/")))

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


def _all(packages: Sequence[Package]) -> Iterator[tuple[str, bytes, bool]]:
    library = Path(sysconfig.get_path("stdlib"))
    yield from _compiled(library, library)
    for folder, top in packages:
        yield from _compiled(folder, folder / top)
    for beside, package, names in ((__file__, __package__, _OURS), (values.__file__, "cloister.ipc", ("streams",))):
        for name in names:
            code = _code(Path(beside).with_name(f"{name}.py"))
            if code is not None:
                yield f"{package}.{name}", code, False
    guest = Path(__file__).parent
    yield from _compiled(guest, guest / "workers")
    yield from _compiled(guest / "foreign", guest / "foreign")
    for name in [name for name in sys.modules if name.startswith("_sysconfigdata")]:
        yield name, _settings(name), False


def _compiled(root: Path, below: Path) -> Iterator[tuple[str, bytes, bool]]:
    for file in sorted(below.rglob("*.py")):
        parts = file.relative_to(root).with_suffix("").parts
        if parts[0] in ABSENT or parts[0].startswith(("config-", "_sysconfigdata")) or _LEFT_OUT & set(parts):
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


def _settings(name: str) -> bytes:
    """How this Python was built, without the places where that was and where it went."""
    known = sys.modules[name].build_time_vars
    told = {key: value for key, value in known.items() if "/" not in str(value)}
    return marshal.dumps(compile(f"build_time_vars = {told!r}", name, "exec"))


def _zones() -> Iterator[tuple[str, bytes]]:
    """The data of time zones, and a list of their names, from the system or from the package for those without."""
    package = importlib.util.find_spec("tzdata")
    folders = package.submodule_search_locations if package is not None else None
    places = [*zoneinfo.TZPATH, *(f"{folder}/zoneinfo" for folder in folders or ())]
    for root in filter(Path.is_dir, map(Path, places)):
        names = []
        for file in sorted(root.rglob("*")):
            name = file.relative_to(root).as_posix()
            if name.partition("/")[0] in _NO_ZONES or "." in name or not file.is_file():
                continue
            content = file.read_bytes()
            if content.startswith(b"TZif"):
                names.append(name)
                yield f"tzdata/zoneinfo/{name}", content
        yield "tzdata/zones", "\n".join(names).encode()
        return
