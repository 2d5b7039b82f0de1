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
from collections.abc import Callable, Iterator, Sequence
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
            code = _code(str(Path(beside).with_name(f"{name}.py")))
            if code is not None:
                yield f"{package}.{name}", code, False
    guest = Path(__file__).parent
    yield from _compiled(guest, guest / "workers")
    yield from _compiled(guest / "foreign", guest / "foreign")
    for name in [name for name in sys.modules if name.startswith("_sysconfigdata")]:
        yield name, _settings(name), False


def _compiled(root: Path, below: Path) -> Iterator[tuple[str, bytes, bool]]:
    for parts, file in _files(below, below.relative_to(root).parts, _sensible):
        stem, end = os.path.splitext(parts[-1])
        package = stem == "__init__"
        names = parts[:-1] if package else (*parts[:-1], stem)
        if end == ".py" and names and all(part.isidentifier() and part.isascii() for part in names):
            code = _code(file)
            if code is not None:
                yield ".".join(names), code, package


def _sensible(parts: tuple[str, ...]) -> bool:
    """Whether there may be anything that a sandbox can use in this folder, or file."""
    top, last = parts[0].removesuffix(".py"), parts[-1].removesuffix(".py")
    return last not in _LEFT_OUT and top not in ABSENT and not top.startswith(("config-", "_sysconfigdata"))


def _files(
    folder: str | Path, parts: tuple[str, ...], wanted: Callable[[tuple[str, ...]], bool]
) -> Iterator[tuple[tuple[str, ...], str]]:
    """What is in a folder and below, in order: where it is there, and its path. Links to folders are not followed, and
    what is not wanted is not looked into, nor what nobody may."""
    try:
        found = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in found:
        if not wanted(place := (*parts, entry.name)):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _files(entry.path, place, wanted)
        elif os.path.isfile(entry.path) if entry.is_symlink() else entry.is_file():  # a link may lead round in a circle
            yield place, entry.path


def _code(file: str) -> bytes | None:
    """Marshalled code, from beside the source where an up-to-date copy lies, compiled anew where not."""
    try:
        data = _content(importlib.util.cache_from_source(file))
        stamp = int(os.stat(file).st_mtime) & 0xFFFF_FFFF
        if data[:4] == importlib.util.MAGIC_NUMBER and data[4:12] == bytes(4) + stamp.to_bytes(4, "little"):
            return data[16:]
    except OSError:
        pass
    try:
        return marshal.dumps(compile(_content(file), file, "exec", dont_inherit=True))
    except (SyntaxError, ValueError, OSError):
        return None  # a sample of bad code, as some libraries ship


def _content(file: str) -> bytes:
    with open(file, "rb", buffering=0) as opened:
        return opened.read()


def _settings(name: str) -> bytes:
    """How this Python was built, without the places where that was and where it went."""
    known = sys.modules[name].build_time_vars
    told = {key: value for key, value in known.items() if "/" not in str(value)}
    return marshal.dumps(compile(f"build_time_vars = {told!r}", name, "exec"))


def _data(packages: Sequence[Package]) -> Iterator[tuple[str, bytes]]:
    """What packages have beside their modules: templates, translations, tables."""
    left = _MOST_DATA
    for folder, top in packages:
        for parts, file in _files(folder / top, (top,), lambda parts: parts[-1] not in _LEFT_OUT):
            if os.path.splitext(file)[1] not in _NO_DATA:
                left -= os.stat(file).st_size
                if left >= 0:
                    yield "/".join(parts), _content(file)


def _zones() -> Iterator[tuple[str, bytes]]:
    """The data of time zones, and a list of their names, from the system or from the package for those without."""
    package = importlib.util.find_spec("tzdata")
    folders = package.submodule_search_locations if package is not None else None
    places = [*zoneinfo.TZPATH, *(f"{folder}/zoneinfo" for folder in folders or ())]
    for root in filter(os.path.isdir, places):
        names = []
        for parts, file in _files(root, (), lambda parts: parts[0] not in _NO_ZONES and "." not in parts[-1]):
            content = _content(file)
            if content.startswith(b"TZif"):
                names.append(name := "/".join(parts))
                yield f"tzdata/zoneinfo/{name}", content
        yield "tzdata/zones", "\n".join(names).encode()
        return
