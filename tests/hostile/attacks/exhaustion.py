"""Using up what there is: processor, time, memory, threads, descriptors."""

from __future__ import annotations

import _thread
import asyncio
import ctypes
import errno
import fcntl
import hashlib
import mmap
import os
import re
import select
import signal
import socket
import threading
import time
import zlib

from . import LATE, SPENT, Bait, attack
from .calls import call, checked, libc

MIB = 1 << 20
MAP_DROPPABLE, MAP_LOCKED, MAP_HUGETLB = 0x8, 0x2000, 0x40000
FULL = "LimitExceeded: the sandbox exceeded 128 MiB of memory"
"""What comes bit by bit is ended by the limit on address space or by the kernel, whichever is reached first."""


def _spin() -> None:
    while True:
        pass


@attack(SPENT, endless=True)
def spin(bait: Bait) -> None:
    """The plainest loop."""
    _spin()


@attack(SPENT, endless=True)
async def spin_in_a_coroutine(bait: Bait) -> None:
    """Giving way to others each time, so that the loop lives."""
    while True:  # noqa: ASYNC110 - that is the attack
        await asyncio.sleep(0)


@attack(SPENT, endless=True)
def spin_whatever_is_raised(bait: Bait) -> None:
    """Catching everything that could end it."""
    while True:
        try:
            while True:
                pass
        except BaseException:  # noqa: BLE001 - that is the attack
            continue


@attack(SPENT, endless=True)
def spin_in_a_pattern(bait: Bait) -> None:
    """One call in C that never comes back to the interpreter."""
    re.match("(a+)+$", "a" * 60 + "b")


@attack(SPENT, endless=True)
def spin_in_a_sum(bait: Bait) -> None:
    """Another."""
    sum(range(10**12))


@attack(SPENT, endless=True)
def spin_in_a_power(bait: Bait) -> None:
    """A third, with one huge number."""
    pow(3, 10**8)


@attack(SPENT, endless=True)
def spin_in_a_comparison(bait: Bait) -> None:
    """A fourth, over what never ends."""
    assert 1 in iter(int, 1)


@attack(SPENT, endless=True)
def spin_without_the_lock(bait: Bait) -> None:
    """So that other threads of it go on."""
    hashlib.pbkdf2_hmac("sha512", b"x", b"y", 10**9)


@attack(SPENT, endless=True)
def spin_in_threads(bait: Bait) -> None:
    """And return from the call's own."""
    for _ in range(4):
        threading.Thread(target=_spin).start()
    threading.Event().wait()


@attack(SPENT, endless=True)
def spin_in_a_finalizer(bait: Bait) -> None:
    """In which exceptions are swallowed."""

    class Stubborn:
        def __del__(self) -> None:
            while True:
                pass

    Stubborn()


@attack(LATE, endless=True)
def sleep_for_ever(bait: Bait) -> None:
    """Holding up the loop."""
    time.sleep(10_000)


@attack(LATE, endless=True)
def wait_for_a_lock_that_nobody_opens(bait: Bait) -> None:
    """Not even interruptible by asking."""
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


@attack(LATE, endless=True)
async def never_answer(bait: Bait) -> None:
    """And let the loop go on."""
    await asyncio.Event().wait()


@attack(LATE, endless=True)
async def refuse_to_be_cancelled(bait: Bait) -> None:
    """However often it is asked."""
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            continue


@attack("MemoryError: ")
def fill_memory_at_once(bait: Bait) -> int:
    """With one object."""
    return len(bytearray(1 << 30))


@attack("MemoryError: ", FULL)
def fill_memory_bit_by_bit(bait: Bait) -> int:
    """With many."""
    kept: list[bytes] = []
    while len(kept) < 600:
        kept.append(os.urandom(16) * 65536)
    return len(kept)


@attack("MemoryError: ", FULL)
def fill_memory_with_a_list(bait: Bait) -> int:
    """That doubles."""
    kept: list[object] = [None]
    while len(kept) < 1 << 26:
        kept += kept
    return len(kept)


@attack("MemoryError: ")
def fill_memory_with_text(bait: Bait) -> int:
    """By repeating it."""
    return len("cloister" * (1 << 26))


@attack("MemoryError: Unable to allocate output buffer.", FULL)
def fill_memory_with_zeros(bait: Bait) -> int:
    """That come out of almost nothing."""
    return len(zlib.decompress(_bomb(), wbits=-15))


def _bomb() -> bytes:
    """Half a gibibyte, compressed: one piece, again and again."""
    compressor = zlib.compressobj(1, wbits=-15)
    piece = compressor.compress(bytes(16 * MIB)) + compressor.flush(zlib.Z_FULL_FLUSH)
    return piece * 32 + compressor.flush()


@attack("ENOMEM")
def fill_memory_past_the_interpreter(bait: Bait) -> int:
    """With a mapping."""
    return len(mmap.mmap(-1, 1 << 30))


@attack("RuntimeError: can't start new thread", "LimitExceeded: the sandbox exceeded 32 threads")
def start_threads_without_end(bait: Bait) -> int:
    """That do nothing but be there, with as little of a stack as can be. Where no group counts them, the host does."""
    gate, started = threading.Lock(), 0
    threading.stack_size(65536)

    def be_there() -> None:
        with gate:
            pass

    with gate:
        while started < 5000:
            _thread.start_new_thread(be_there, ())
            started += 1
    return started


@attack("EMFILE")
def open_descriptors_without_end(bait: Bait) -> int:
    """Pipes."""
    kept: list[int] = []
    try:
        while len(kept) < 500:
            kept += os.pipe()
    finally:
        for each in kept:
            os.close(each)
    return len(kept)


@attack("EMFILE")
def copy_descriptors_without_end(bait: Bait) -> int:
    """The same one again and again."""
    kept: list[int] = []
    try:
        while len(kept) < 500:
            kept.append(os.dup(0))
    finally:
        for each in kept:
            os.close(each)
    return len(kept)


@attack("EMFILE")
def fill_the_kernels_memory(bait: Bait) -> int:
    """What is written to a socket and never read lies there."""
    kept: list[socket.socket] = []
    while len(kept) < 500:
        one, other = socket.socketpair()
        kept += one, other
        one.setblocking(False)
        try:
            while True:
                one.send(bytes(65536))
        except BlockingIOError:
            continue
    return len(kept)


@attack("EMFILE")
def nest_what_waits_without_end(bait: Bait) -> int:
    """Descriptors that watch descriptors."""
    kept = [select.epoll()]
    while len(kept) < 500:
        outer = select.epoll()
        if len(kept) % 4:  # the kernel allows five levels
            outer.register(kept[-1].fileno(), select.EPOLLIN)
        kept.append(outer)
    return len(kept)


@attack("EPERM")
def lock_memory(bait: Bait) -> int:
    """So that the machine cannot use it for anything else."""
    return call("mlock", id(bait) & ~4095, 4096)


@attack("EPERM", proof="root")
def lock_all_memory(bait: Bait) -> int:
    """What there is, and what will be."""
    return call("mlockall", 1)


@attack("EPERM")
def lock_memory_as_it_is_mapped(bait: Bait) -> int:
    """By a flag of the call that everybody may make."""
    return _map(MAP_LOCKED)


@attack("EPERM", proof="itself")
def map_pages_that_the_host_has_set_aside(bait: Bait) -> int:
    """Which no limit counts."""
    return _map(MAP_HUGETLB)


@attack("EPERM")
def map_memory_that_may_be_dropped(bait: Bait) -> int:
    """The newest kind, a corner of the kernel."""
    return _map(MAP_DROPPABLE)


def _map(flags: int) -> int:
    address = libc.mmap(None, ctypes.c_size_t(4096), 3, flags | 0x20 | (0 if flags == MAP_DROPPABLE else 2), -1, 0)
    return checked(-1 if address == ctypes.c_void_p(-1).value else 0)


@attack("EPERM")
def enlarge_a_pipe(bait: Bait) -> int:
    """To a mebibyte of the kernel's memory each."""
    one, _ = os.pipe()
    return fcntl.fcntl(one, fcntl.F_SETPIPE_SZ, 1 << 20)


@attack("EPERM")
def enlarge_a_buffer(bait: Bait) -> None:
    """Of a socket, so that more can be sent ahead."""
    one, _ = socket.socketpair()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)


@attack("EAGAIN", proof="resource")
def have_signals_wait_without_end(bait: Bait) -> int:
    """Each is memory of the kernel's, counted for the user."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGRTMAX})
    for _ in range(100):
        call("tgkill", os.getpid(), threading.get_native_id(), signal.SIGRTMAX)
    return 100


@attack("EPERM")
def reserve_room_on_what_it_holds(bait: Bait) -> None:
    """Of a disk, should one of its descriptors lead to one."""
    try:
        os.posix_fallocate(0, 0, 1)
    except OSError as error:
        if error.errno not in {errno.ENODEV, errno.EBADF, errno.ESPIPE, errno.EINVAL}:
            raise


@attack(SPENT, endless=True)
def spin_when_the_first_thread_has_ended(bait: Bait) -> None:
    """So that whoever looks at the process by its first thread sees one that is over."""
    threading.Thread(target=_spin).start()
    call("exit", 0)


@attack(LATE, endless=True)
def end_the_first_thread(bait: Bait) -> None:
    """And leave another that sleeps, so that the process neither answers nor ends."""
    threading.Thread(target=time.sleep, args=(10_000,)).start()
    call("exit", 0)
