"""The few kernel calls that Python has no name for, by way of the C library. No policy here."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import struct
from typing import Final

MACHINE: Final = platform.machine()
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_syscall = _libc.syscall
_prctl = _libc.prctl
_prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)
_libc.mmap.restype = _libc.mremap.restype = ctypes.c_void_p

_CLOSE_RANGE, _LAST_DESCRIPTOR, _NO_FLAGS = ctypes.c_uint(436), ctypes.c_uint(0xFFFF_FFFF), ctypes.c_uint(0)
_SCHED_SETATTR: Final = 314 if MACHINE == "x86_64" else 274
READ, WRITE, EXECUTE = 1, 2, 4
_PRIVATE, _ANONYMOUS, _MAY_MOVE, _FIXED, _COLLAPSE = 2, 0x20, 1, 2, 25
_FAILED: Final = ctypes.c_void_p(-1).value
PR_SET_PDEATHSIG, PR_GET_DUMPABLE, PR_SET_DUMPABLE, PR_SET_SECCOMP = 1, 3, 4, 22
PR_CAPBSET_DROP, PR_SET_SECUREBITS, PR_SET_NO_NEW_PRIVS, PR_GET_NO_NEW_PRIVS = 24, 28, 38, 39


def check(result: int) -> int:
    """The result of a C call, or its errno as an `OSError`."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def prctl(option: int, argument: int = 0, second: int = 0) -> int:
    """prctl(2)."""
    return check(_prctl(option, argument, second, 0, 0))


def syscall(number: int, *arguments: object) -> int:
    """syscall(2): pointers as ctypes objects, numbers as `int`."""
    return check(_syscall(number, *arguments))


def unshare(flags: int) -> None:
    """unshare(2)."""
    check(_libc.unshare(flags))


def setns(descriptor: int, kind: int) -> None:
    """setns(2)."""
    check(_libc.setns(descriptor, kind))


def close_from(first: int) -> None:
    """close_range(2) to the last, which has the same number everywhere. Not limited by how many may be open now."""
    check(_syscall(_CLOSE_RANGE, ctypes.c_uint(first), _LAST_DESCRIPTOR, _NO_FLAGS))


def mount(source: bytes | None, target: bytes, kind: bytes | None, flags: int, options: bytes | None = None) -> None:
    """mount(2)."""
    check(_libc.mount(source, target, kind, ctypes.c_ulong(flags), options))


def umount(target: bytes, flags: int) -> None:
    """umount2(2)."""
    check(_libc.umount2(target, flags))


def protect(start: int, end: int, rights: int) -> None:
    """mprotect(2)."""
    check(_libc.mprotect(ctypes.c_void_p(start), ctypes.c_size_t(end - start), rights))


def map_memory(size: int) -> int:
    """mmap(2) of private memory: its address."""
    nowhere, everywhere = ctypes.c_int(-1), ctypes.c_long(0)
    address: int = _libc.mmap(None, ctypes.c_size_t(size), READ | WRITE, _PRIVATE | _ANONYMOUS, nowhere, everywhere)
    check(-1 if address == _FAILED else 0)
    return address


def unmap(start: int, end: int) -> None:
    """munmap(2)."""
    if end > start:
        check(_libc.munmap(ctypes.c_void_p(start), ctypes.c_size_t(end - start)))


def move(start: int, end: int, place: int) -> None:
    """mremap(2) to a place, instead of what is there."""
    size = ctypes.c_size_t(end - start)
    moved = _libc.mremap(ctypes.c_void_p(start), size, size, _MAY_MOVE | _FIXED, ctypes.c_void_p(place))
    check(-1 if moved == _FAILED else 0)


def collapse(start: int, end: int) -> None:
    """madvise(2), to make large pages of small ones at once. Linux 6.1."""
    check(_libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _COLLAPSE))


def read(path: str) -> bytes:
    """A small file of the kernel's."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 4096)
    finally:
        os.close(descriptor)


def write(path: str, content: bytes) -> None:
    """Into a file of the kernel's."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, content)
    finally:
        os.close(descriptor)


def set_malloc_arenas(count: int) -> None:
    """One arena instead of one for each thread, so that a limit on address space goes by what is used."""
    _libc.mallopt(-8, count)


def take_turns_of(nanoseconds: int) -> None:
    """How long this process, and whatever it forks, has a core before another that waits for it gets its turn. No more
    than a wish, which kernels before 6.12 do not know."""
    policy, nice = os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)  # as they are
    attributes = struct.pack("=IIQiIQQQ", 48, policy, 0, nice, 0, nanoseconds, 0, 0)
    with contextlib.suppress(OSError):
        syscall(_SCHED_SETATTR, ctypes.c_int(0), ctypes.c_char_p(attributes), ctypes.c_uint(0))
