"""The memory of others: of the host, of the zygote, of siblings, who share what they have not changed."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import KILLED, Bait, attack
from .calls import call, checked, libc, reached


def _vector(address: int, size: int) -> bytes:
    return struct.pack("QQ", address, size)


@attack(KILLED)
def read_a_neighbours_memory(bait: Bait) -> str:
    """Of whom it knows no address: the kernel says that there is nothing, where it looks at all."""
    here = ctypes.create_string_buffer(16)
    try:
        return str(call("process_vm_readv", bait.victim, _vector(ctypes.addressof(here), 16), 1, _vector(8, 16), 1, 0))
    except OSError as error:
        if isinstance(error, PermissionError):
            raise
        return str(error)


@attack(KILLED)
def write_a_neighbours_memory(bait: Bait) -> str:
    """The same the other way."""
    here = ctypes.create_string_buffer(16)
    try:
        return str(call("process_vm_writev", bait.victim, _vector(ctypes.addressof(here), 16), 1, _vector(8, 16), 1, 0))
    except OSError as error:
        if isinstance(error, PermissionError):
            raise
        return str(error)


@attack("EACCES")
def open_a_neighbours_memory(bait: Bait) -> int:
    """As a file."""
    return os.open(f"/proc/{bait.victim}/mem", os.O_RDWR)


@attack("EACCES")
def open_the_machines_memory(bait: Bait) -> int:
    """Or what tells of each page of it."""
    return os.open("/proc/self/pagemap", os.O_RDONLY)


@attack("EPERM")
def compare_with_a_neighbour(bait: Bait) -> int:
    """Which tells of the kernel's addresses."""
    return call("kcmp", os.getpid(), bait.victim, 1, 0, 0)


@attack("EPERM")
def advise_on_a_neighbours_memory(bait: Bait) -> str:
    """That it be thrown out."""
    return reached("process_madvise", -1, 0, 0, 21, 0)


@attack("EPERM")
def share_memory_by_number(bait: Bait) -> int:
    """With whoever knows it."""
    return call("shmget", 0, 4096, 0o600)


@attack("EACCES")
def share_memory_by_name(bait: Bait) -> int:
    """In the folder that is made for it."""
    path = f"/dev/shm/cloister-{os.getpid()}"
    number = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    Path(path).unlink()
    return number


def _shared() -> Iterator[memoryview]:
    """All memory that was there before this program and is a mapping: what the siblings have too."""
    gc.unfreeze()
    seen: set[int] = set()
    todo: list[Any] = gc.get_objects()
    while todo:
        found = todo.pop()
        if id(found) not in seen:
            seen.add(id(found))
            if type(found) is memoryview and type(found.obj) not in {bytes, bytearray} and len(found) > 1000:
                yield found
            elif type(found) in {dict, list, tuple} and len(seen) < 2_000_000:
                todo += gc.get_referents(found)


def _address(view: memoryview) -> int:
    """Where it lies, also of one that can only be read."""
    buffer = (ctypes.c_byte * 256)()
    get = ctypes.pythonapi.PyObject_GetBuffer
    get.argtypes = (ctypes.py_object, ctypes.c_void_p, ctypes.c_int)
    get(view, buffer, 0)
    return int(ctypes.c_size_t.from_buffer(buffer).value)


@attack("TypeError: cannot modify read-only memory")
def write_to_what_siblings_share(bait: Bait) -> str:
    """The library that each of them imports from: what is written there they would run."""
    written = 0
    for view in _shared():
        size = min(len(view), 64)
        view[:size] = bytes(size)
        written += size
    return "wrote" if written else "found nothing"


@attack("EACCES")
def make_what_siblings_share_writable(bait: Bait) -> str:
    """By asking the kernel."""
    for view in _shared():
        page = _address(view) & -4096
        checked(libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(4096), 3))
        ctypes.memset(_address(view), 0, 64)
        return "wrote"
    return "found nothing"


@attack("SandboxDied: the sandbox was killed by SIGSEGV")
def write_where_siblings_read(bait: Bait) -> str:
    """Past the interpreter, which knows what can only be read."""
    for view in _shared():
        ctypes.memset(_address(view), 0, 64)
        return "wrote"
    return "found nothing"


@attack("EPERM")
def throw_away_what_siblings_share(bait: Bait) -> str:
    """So that they read zeros."""
    for view in _shared():
        page = _address(view) + 4095 & -4096
        checked(libc.madvise(ctypes.c_void_p(page), ctypes.c_size_t(4096), 9))
        return "thrown away"
    return "found nothing"


@attack("EAGAIN")
def wake_whoever_waits_on_a_shared_page(bait: Bait) -> int:
    """Every process on the machine has some of the C library's: who could wake and wait there could talk."""
    return call("futex", _word(), 1, 1, 0, 0, 0)


@attack("EAGAIN")
def wait_on_a_shared_page(bait: Bait) -> str:
    """The other half of it."""
    word = _word()
    try:
        call("futex", word, 0, ctypes.c_uint32.from_address(word).value, struct.pack("qq", 0, 1000), 0, 0)
    except TimeoutError:
        return "waited"
    return "woken"


def _word() -> int:
    return (ctypes.cast(libc.getpid, ctypes.c_void_p).value or 0) & ~4095


@attack("EPERM")
def map_what_it_holds(bait: Bait) -> int:
    """Should one of its descriptors be memory that others have too."""
    number = 0
    with contextlib.suppress(OSError):
        number = os.open(bait.file, os.O_RDONLY)
    address = libc.mmap(None, ctypes.c_size_t(4096), 1, 1, number, ctypes.c_long(0))
    return checked(-1 if address == ctypes.c_void_p(-1).value else 0)


@attack("done: []")
def search_for_secrets(bait: Bait) -> list[str]:
    """In all objects that it was forked with."""
    gc.unfreeze()
    found: set[str] = set()
    for holder in gc.get_objects():
        for each in gc.get_referents(holder):
            if isinstance(each, str | bytes | bytearray):
                text = each if isinstance(each, str) else each.decode("latin-1")
                if text.startswith(f"{bait.marker}-"):
                    found.add(text)
    return sorted(found)


@attack("done: []")
def read_the_first_environment(bait: Bait) -> list[bytes]:
    """The one that the C library keeps, whatever Python shows."""
    entries = ctypes.POINTER(ctypes.c_char_p).in_dll(libc, "environ")
    found: list[bytes] = []
    at = 0
    while entries and (entry := entries[at]):
        found.append(entry)
        at += 1
    return [entry for entry in found if not entry.startswith(b"LC_CTYPE=")]
