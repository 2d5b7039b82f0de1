"""The kernel's surface: what would be a way into it, or would change the machine for everybody.

What no library ever tries ends the sandbox. In the proof nothing is done to the machine: a call is made with what does
no harm, or with what the kernel must find fault with once it has let the caller in.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import struct
import time

from . import KILLED, Bait, attack
from .calls import call, checked, libc, reached

PAGE = 4096


@attack(KILLED, proof="root")
def mount_something(bait: Bait) -> int:
    """Over a folder of the host's."""
    return call("mount", b"none", bait.folder.encode(), b"tmpfs", 0, 0)


@attack(KILLED, proof="root")
def unmount_something(bait: Bait) -> str:
    """To see what is below it."""
    return reached("umount2", bait.folder.encode(), 0)


@attack(KILLED, proof="root")
def change_the_root(bait: Bait) -> int:
    """And climb out of it with a descriptor."""
    return call("chroot", b"/")


@attack(KILLED, proof="root")
def swap_the_root(bait: Bait) -> str:
    """For one of its own."""
    return reached("pivot_root", bait.folder.encode(), bait.folder.encode())


@attack(KILLED, proof="root")
def clone_a_tree_of_mounts(bait: Bait) -> int:
    """As a descriptor."""
    return call("open_tree", -100, b"/", 1)


@attack(KILLED, proof="root")
def open_a_file_system(bait: Bait) -> int:
    """By the newer calls."""
    return call("fsopen", b"tmpfs", 0)


@attack(KILLED, proof="root")
def load_a_program_into_the_kernel(bait: Bait) -> str:
    """One that lies nowhere."""
    return reached("bpf", 5, 0, 0)


@attack(KILLED, proof="root")
def count_the_processors_events(bait: Bait) -> str:
    """Which tell what its neighbours do."""
    return reached("perf_event_open", struct.pack("II", 1, 112) + bytes(104), 0, -1, -1, 0)


@attack(KILLED, proof="root")
def hold_up_the_kernel_at_a_fault(bait: Bait) -> int:
    """The favourite of those who exploit races in it."""
    return call("userfaultfd", 0)


@attack(KILLED)
def keep_a_key(bait: Bait) -> int:
    """In the kernel's own store."""
    return call("add_key", b"user", b"cloister", b"x", 1, -2)  # the process's own: it is in no session's that is over


@attack(KILLED)
def join_a_ring_of_keys(bait: Bait) -> int:
    """Of the host's user."""
    return call("keyctl", 0, -4, 1)


@attack(KILLED)
def ask_for_a_key(bait: Bait) -> str:
    """Which may have a program of the host's started."""
    return reached("request_key", b"user", b"cloister-none", 0, 0)


@attack(KILLED, proof="root")
def load_a_module(bait: Bait) -> str:
    """That is none."""
    return reached("init_module", b"", 0, b"")


@attack(KILLED, proof="root")
def unload_a_module(bait: Bait) -> str:
    """That there is not."""
    return reached("delete_module", b"cloister_none", 0x800)


@attack(KILLED, proof="root")
def load_another_kernel(bait: Bait) -> str:
    """That has more parts than can be."""
    return reached("kexec_load", 0, 1000, 0, 0)


@attack(KILLED, proof="root")
def restart_the_machine(bait: Bait) -> str:
    """With a number that the kernel refuses."""
    return reached("reboot", 1, 2, 3, 0)


@attack(KILLED, proof="root")
def swap_to_a_file(bait: Bait) -> str:
    """That there is not."""
    return reached("swapon", f"{bait.folder}/none".encode(), 0)


@attack(KILLED, proof="root")
def stop_swapping(bait: Bait) -> str:
    """To a file that there is not."""
    return reached("swapoff", f"{bait.folder}/none".encode())


@attack(KILLED, proof="root")
def have_all_processes_recorded(bait: Bait) -> str:
    """In a file that there is not."""
    return reached("acct", f"{bait.folder}/none".encode())


@attack(KILLED, proof="root")
def speak_to_the_hardware(bait: Bait) -> int:
    """By its ports."""
    return call("ioperm", 0x80, 1, 0)


@attack(KILLED, proof="root")
def speak_to_all_hardware(bait: Bait) -> int:
    """In the older way."""
    return call("iopl", 0)


@attack("EPERM")
def open_a_ring_of_calls(bait: Bait) -> int:
    """Whose calls no filter sees."""
    return call("io_uring_setup", 1, ctypes.create_string_buffer(120))


@attack("EPERM")
def be_another_kind_of_system(bait: Bait) -> int:
    """In which all that can be read can be executed."""
    return call("personality", 0x0400000)


@attack("EPERM")
def change_its_segments(bait: Bait) -> int:
    """A corner of the processor."""
    return call("modify_ldt", 0, ctypes.create_string_buffer(16), 16)


@attack("EPERM", proof="root")
def rename_the_machine(bait: Bait) -> int:
    """To something of its own."""
    return call("sethostname", b"attack", 6)


@attack("EPERM", proof="root")
def rename_the_domain(bait: Bait) -> int:
    """As well."""
    return call("setdomainname", b"attack", 6)


@attack("EPERM", proof="root")
def change_quotas(bait: Bait) -> str:
    """On a device that there is not."""
    return reached("quotactl", 0x800002 << 8, b"/none", 0, 0)


@attack("EPERM", proof="root")
def set_the_time_zone(bait: Bait) -> int:
    """To what it is."""
    return call("settimeofday", 0, bytes(8))


@attack("EPERM", proof="root")
def set_the_clock(bait: Bait) -> str:
    """To what no clock can show."""
    return reached("clock_settime", time.CLOCK_REALTIME, struct.pack("qq", 0, -1))


@attack("EPERM")
def ask_how_the_clock_is_kept(bait: Bait) -> int:
    """By the call that changes that too."""
    return call("adjtimex", ctypes.create_string_buffer(256))


@attack("EPERM", proof="root")
def read_the_kernels_log(bait: Bait) -> int:
    """Which holds its addresses."""
    return call("syslog", 10, 0, 0)


@attack("EPERM")
def ask_how_the_machine_is(bait: Bait) -> int:
    """Its memory, its load, its age."""
    return call("sysinfo", ctypes.create_string_buffer(256))


@attack("EPERM")
def ask_what_the_kernel_is(bait: Bait) -> int:
    """To choose the attack by its version."""
    return call("uname", ctypes.create_string_buffer(512))


@attack("EPERM")
def make_a_file_of_memory(bait: Bait) -> int:
    """Which can be executed."""
    return call("memfd_create", b"x", 0)


@attack("EPERM")
def make_a_queue_of_messages(bait: Bait) -> int:
    """For whoever knows its number."""
    return call("msgget", 0, 0o600)


@attack("EPERM")
def make_a_queue_with_a_name(bait: Bait) -> int:
    """For whoever knows that."""
    name = f"cloister-{os.getpid()}".encode()  # there may be others, on a machine that several use
    made = call("mq_open", name, os.O_CREAT | os.O_RDWR, 0o600, 0)
    call("mq_unlink", name)
    return made


@attack("EPERM")
def make_semaphores(bait: Bait) -> int:
    """That outlive it."""
    return call("semget", 0, 1, 0o600)


@attack("EPERM")
def make_a_timer(bait: Bait) -> int:
    """Of which each takes memory of the kernel's."""
    return call("timer_create", 1, 0, ctypes.create_string_buffer(8))


@attack("EPERM")
def make_a_timer_as_a_descriptor(bait: Bait) -> int:
    """As well."""
    return call("timerfd_create", 1, 0)


@attack("EPERM")
def read_signals_from_a_descriptor(bait: Bait) -> int:
    """As well."""
    return call("signalfd4", -1, bytes(8), 8, 0)


@attack("EPERM")
def move_pages_into_a_pipe(bait: Bait) -> int:
    """Where they were once written through to files that could only be read."""
    page = ctypes.create_string_buffer(PAGE)
    _, end = os.pipe()
    return call("vmsplice", end, struct.pack("QQ", ctypes.addressof(page), PAGE), 1, 0)


@attack("EPERM")
def move_from_pipe_to_pipe(bait: Bait) -> int:
    """As well."""
    (source, write), (_, target) = os.pipe(), os.pipe()
    os.write(write, b"x")
    return os.splice(source, target, 1) if hasattr(os, "splice") else 0


@attack("EPERM")
def send_a_file_by_the_kernel(bait: Bait) -> str:
    """As well."""
    one, other = os.pipe()
    try:
        return str(os.sendfile(other, one, None, 1))
    except OSError as error:
        if isinstance(error, PermissionError):
            raise
        return str(error)  # a pipe cannot be sent, and the kernel has looked


@attack("EPERM")
def take_a_key_of_memory(bait: Bait) -> str:
    """Pages that are switched on and off by a register."""
    return reached("pkey_alloc", 0, 0)


@attack("EPERM")
def hold_up_all_processors(bait: Bait) -> int:
    """With a barrier."""
    return call("membarrier", 0, 0, 0)


@attack("EPERM")
def choose_where_memory_lies(bait: Bait) -> str:
    """On which node."""
    return reached("mbind", 0, 0, 0, 0, 0, 0)


@attack("EPERM")
def map_memory_to_execute(bait: Bait) -> int:
    """Code that it brought."""
    return len(mmap.mmap(-1, PAGE, prot=mmap.PROT_READ | mmap.PROT_EXEC))


@attack("EPERM")
def make_memory_executable(bait: Bait) -> int:
    """After it was written to."""
    page = mmap.mmap(-1, PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    return checked(libc.mprotect(ctypes.c_void_p(address), PAGE, 5))


@attack("EPERM")
def change_code_that_is_there(bait: Bait) -> int:
    """The C library's own: it may be written to, as it is nobody else's page then, but not be executed again."""
    address = ctypes.cast(libc.getpid, ctypes.c_void_p).value or 0
    start = ctypes.c_void_p(address & -PAGE)
    return checked(libc.mprotect(start, PAGE, 7))


@attack("MemoryError: ")
def have_a_function_made(bait: Bait) -> int:
    """Which the interpreter's foreign functions do in executable memory."""
    return int(ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 7)())


@attack("EPERM", proof="anybody")
def call_the_kernel_as_an_older_program(bait: Bait) -> int:
    """By the table of calls for 32 bits, whose numbers mean something else."""
    code = b"\xb8\x14\x00\x00\x00\xcd\x80\xc3"  # its number 20 is getpid
    address = libc.mmap(None, ctypes.c_size_t(PAGE), 7, 0x22, -1, ctypes.c_long(0))
    checked(-1 if address == ctypes.c_void_p(-1).value else 0)
    ctypes.memmove(address, code, len(code))
    return int(ctypes.CFUNCTYPE(ctypes.c_int)(address)()) if platform.machine() == "x86_64" else 0


@attack(KILLED, proof="anybody")
def call_the_kernel_with_short_pointers(bait: Bait) -> str:
    """By the table of the x32 machine, should this kernel have one."""
    checked(libc.syscall(ctypes.c_long(0x40000000 + 39)))
    return "returned"


@attack("EPERM", proof="root")
def change_how_something_is_mounted(bait: Bait) -> str:
    """By the newest call for it."""
    return reached("mount_setattr", -1, b"", 0x1000, 0, 0)


@attack("EPERM", proof="root")
def configure_a_file_system(bait: Bait) -> str:
    """That was opened before."""
    return reached("fsconfig", -1, 6, 0, 0, 0)


@attack("EPERM", proof="root")
def pick_a_file_system(bait: Bait) -> int:
    """That is there."""
    return call("fspick", -100, b"/", 0)


@attack("EPERM")
def list_the_mounts(bait: Bait) -> str:
    """Without /proc."""
    return reached("statmount", 0, 0, 0, 0)


@attack("EPERM")
def wait_in_the_newer_way(bait: Bait) -> str:
    """On many words of memory at once."""
    return reached("futex_waitv", 0, 0, 0, 0, 0)


@attack("EPERM")
def wake_in_the_newer_way(bait: Bait) -> str:
    """Whoever waits on a word of memory."""
    return reached("futex_wake", 0, 0, 0, 0)


@attack("EPERM")
def inherit_a_priority(bait: Bait) -> int:
    """By a lock of the kind whose code in the kernel was wrong more than once."""
    return call("futex", ctypes.create_string_buffer(8), 0x80 | 8, 0, 0, 0, 0)


@attack("EPERM")
def read_where_locks_are_kept(bait: Bait) -> int:
    """Which tells an address of its own, or of anybody's."""
    return call("get_robust_list", 0, ctypes.create_string_buffer(8), ctypes.create_string_buffer(8))


@attack("EPERM")
def change_a_register_of_segments(bait: Bait) -> int:
    """Or the shadow stack: here it is asked for."""
    return call("arch_prctl", 0x1003, ctypes.create_string_buffer(8))


@attack("EPERM")
def switch_on_tracing_of_calls(bait: Bait) -> int:
    """By which a process answers its own system calls, past the filter's view of them."""
    return call("prctl", 59, 0, 0, 0, 0)


@attack("EPERM")
def switch_off_the_processors_clock(bait: Bait) -> int:
    """For itself; or ask whether it is on."""
    return call("prctl", 25, ctypes.create_string_buffer(8), 0, 0, 0)


@attack("EPERM")
def change_how_the_processor_speculates(bait: Bait) -> int:
    """Which is what keeps tenants from reading each other; here it is asked for."""
    return call("prctl", 52, 0, 0, 0, 0)


@attack("EPERM")
def have_equal_pages_merged(bait: Bait) -> int:
    """All of them, so that the time a write takes tells what neighbours have in memory."""
    return call("prctl", 67, 0, 0, 0, 0)  # or, for the proof, not


@attack("EPERM")
def share_a_core_with_a_neighbour(bait: Bait) -> str:
    """Or take care to: by the cookie that keeps others off it."""
    return reached("prctl", 62, 0, 0, 0, 0)


@attack("EPERM")
def ask_what_is_in_memory(bait: Bait) -> int:
    """Of the files that all have mapped: which of them others have used."""
    page = mmap.mmap(-1, PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    return call("mincore", address, PAGE, ctypes.create_string_buffer(8))


@attack("EPERM")
def ask_what_is_cached(bait: Bait) -> str:
    """The same by descriptor."""
    return reached("cachestat", -1, 0, 0, 0)


@attack("EPERM")
def read_without_waiting_for_a_disk(bait: Bait) -> str:
    """The same by trying."""
    return reached("preadv2", -1, 0, 0, 0, 0, 8)


@attack("EPERM")
def move_pages_to_another_node(bait: Bait) -> str:
    """Or learn on which they lie."""
    return reached("move_pages", 0, 0, 0, 0, 0, 0)


@attack("EPERM")
def have_the_whole_machine_write_to_disk(bait: Bait) -> int:
    """And everybody wait for that."""
    return call("sync")


@attack("EPERM", proof="root")
def hang_up_on_everybody(bait: Bait) -> int:
    """At the terminal, of which the proof has none."""
    return call("vhangup")


@attack("EPERM")
def ask_what_guards_it(bait: Bait) -> str:
    """Which modules, and with what words."""
    return reached("lsm_get_self_attr", 100, 0, ctypes.create_string_buffer(8), 0)


@attack("EPERM")
def seal_its_memory(bait: Bait) -> int:
    """So that nothing of it can be changed any more."""
    return call("mseal", 0, 0, 0)


@attack("EPERM")
def have_a_word_cleared_at_its_end(bait: Bait) -> int:
    """Wherever it lies, by the kernel."""
    return call("set_tid_address", 0)


@attack("done: 'refused'", proof="itself")
def look_at_the_clock_of_a_device(bait: Bait) -> str:
    """By descriptor, which such clocks are named by; and at those that are younger than this text."""
    for clock in [(~number << 3) | 3 for number in range(64)] + list(range(16, 64)):
        try:
            return f"read {time.clock_gettime(clock)}"
        except PermissionError:
            continue
    return "refused"
