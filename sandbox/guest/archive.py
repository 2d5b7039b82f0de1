"""What the library in memory is made of: compiled modules, data of time zones, and what packages have beside their
modules, in one mapping that a fork does not copy. Made once, in the zygote, before the lockdown.
"""

from __future__ import annotations

import errno
import fcntl
import importlib.util
import marshal
import mmap
import os
import sys
import sysconfig
import zoneinfo
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from cloister.ipc import values

from .native import ABSENT

if TYPE_CHECKING:
    from .profile import Package

_SEALING_TRIES: Final = 5  # the kernel waits for a sixth of a second in each
_LEFT_OUT: Final = {"test", "tests", "site-packages", "dist-packages", "__pycache__"}
_OURS: Final = ("attempts", "blobs", "bodies", "bound", "caches", "children", "codings", "conversions",
                "dependencies", "dialing", "distributions", "drift", "elements", "entries", "folders", "forms",
                "guises", "handlers", "headers", "hibernation", "http", "httpx_transports", "legacy", "loopback",
                "mails", "moments", "neglect", "nesting", "objects", "pretence", "readers", "reading", "revival",
                "rewriter", "rollback", "scratch", "selection", "sockets", "storage", "streams", "tables", "tees",
                "transports")  # fmt: skip
"""Modules of the guest's that few tenants need."""
_NO_DATA: Final = {".py", ".pyc", ".pyi", ".so", ".po", ".c", ".h", ".pyx", ".pxd"}
"""Files of packages that nobody reads in a sandbox."""
_MOST_DATA: Final = 64 * 1024 * 1024
"""Bytes of the others, of all packages of a profile."""
_NO_ZONES: Final = {"posix", "right", "localtime", "posixrules"}
"""Other forms of the same zones, and which of them is the host's."""

Files = dict[str, memoryview]


class Archive(NamedTuple):
    """What is served from the shared mapping."""

    modules: dict[str, tuple[memoryview, bool]]
    """Module name: its compiled code, and whether it is a package."""
    files: Files
    """Path: content."""


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
        data = [(path, keep(content)) for path, content in _data(packages)]
        nothing = keep(marshal.dumps(compile("", "", "exec")))
    view = _sealed(memory)
    archive = Archive({name: (view[place], package) for name, place, package in modules}, {})
    for path, place in zones:
        archive.files[path] = view[place]
        archive.modules[path.rpartition("/")[0].replace("/", ".")] = (view[nothing], True)
    archive.files.update((path, view[place]) for path, place in data)
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


def _all(packages: Sequence[Package]) -> Iterator[tuple[str, bytes, bool]]:
    library = Path(sysconfig.get_path("stdlib"))
    yield from _compiled(library, library)
    for folder, top in packages:
        yield from _compiled(folder, folder / top)
    for beside, package, names in (
        (__file__, __package__, _OURS),
        (values.__file__, "cloister.ipc", ("places", "streams", "supply")),
    ):
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


def _data(packages: Sequence[Package]) -> Iterator[tuple[str, bytes]]:
    """What packages have beside their modules: templates, translations, tables."""
    left = _MOST_DATA
    for folder, top in packages:
        for file in sorted((folder / top).rglob("*")):
            path = file.relative_to(folder)
            if file.suffix not in _NO_DATA and not _LEFT_OUT & set(path.parts) and file.is_file():
                left -= file.stat().st_size
                if left >= 0:
                    yield path.as_posix(), file.read_bytes()


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
