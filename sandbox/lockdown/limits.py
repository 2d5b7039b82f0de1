"""Resource limits of one process: the fuse under everything that is enforced from outside."""

from __future__ import annotations

import ctypes
import resource
import threading
from pathlib import Path
from typing import Final

from . import kernel

_SETRLIMIT: Final = {"x86_64": 160, "aarch64": 164}

FIXED: Final = (
    (resource.RLIMIT_CORE, 0),  # a core file would carry the tenant's data out
    (resource.RLIMIT_FSIZE, 0),  # nothing it could write to may grow
    (resource.RLIMIT_MEMLOCK, 0),
    (resource.RLIMIT_MSGQUEUE, 0),
    (resource.RLIMIT_SIGPENDING, 64),
    (resource.RLIMIT_STACK, 8 << 20),
    (resource.RLIMIT_NICE, 0),
    (resource.RLIMIT_RTPRIO, 0),
)
OPEN_FILES: Final = 64
"""Descriptors that a guest may have at most: what asyncio needs, and some more for pipes between threads."""
STACK: Final = 2 << 20
"""What each thread sets aside of the address space: enough for recursion to end in an error of Python's, and a quarter
of what the C library would take."""
_ROOM: Final = 4 << 20
"""Address space that a guest has beyond what it inherited and its tenant may use: for its own part, and so that who
takes one small piece after the other is ended by the group that counts what is used. Refused again and again by this
fuse alone, it could hold all of it for as long as it has CPU time."""
_inherited = ctypes.c_uint64()
_bounds = (ctypes.c_uint64 * 2)()  # laid out before the fork, like all that a child hands to the kernel


def bound_all(open_files: int) -> None:
    """Set the limits that are the same for every child; they inherit them from the zygote."""
    threading.stack_size(STACK)
    for kind, limit in (*FIXED, (resource.RLIMIT_NOFILE, open_files)):
        _, hard = resource.getrlimit(kind)
        bound = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (bound, bound))


def bound_tasks(count: int) -> None:
    """Bound the threads of a process that has a user id of its own."""
    resource.setrlimit(resource.RLIMIT_NPROC, (count, count))


def address_space() -> int:
    """How many bytes of address space a child has that is not the tenant's doing: what it inherits, and some room."""
    _inherited.value = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + _ROOM
    return _inherited.value


def own_memory() -> int:
    """How many bytes the tenant may use, from inside."""
    return resource.getrlimit(resource.RLIMIT_AS)[0] - _inherited.value


def limit_address_space(size: int) -> None:
    """Bound this process's own address space, for good. The filter lets a few limits be lowered, since they are known
    only when a spare gets its tenant; nothing can raise them again."""
    _lower(resource.RLIMIT_AS, size)


def limit_open_files(count: int) -> None:
    """Bound this process's own descriptors, for good."""
    _lower(resource.RLIMIT_NOFILE, count)


def _lower(kind: int, bound: int) -> None:
    _bounds[0] = _bounds[1] = bound
    kernel.syscall(_SETRLIMIT[kernel.MACHINE], kind, _bounds)
