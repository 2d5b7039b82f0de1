"""Processes and signals: none can be started, none can be seen, none can be reached, and none can be outlived."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import resource
import signal
import socket
import struct
import subprocess
import time

from . import KILLED, LATE, SPENT, Bait, attack
from .calls import call, libc, reached

CHILD_TELLS = int(signal.SIGCHLD)
NEW_USER, NEW_UTS = 0x10000000, 0x04000000
NOBODY = "ESRCH"
"""There is no such process in a namespace of one's own; where there is none the call itself is to be refused."""


def _child(number: int) -> str:
    """End at once where this is the child, and wait for it where it is not."""
    if number == 0:
        os._exit(0)
    os.waitpid(number, 0)
    return "had a child"


@attack("EPERM")
def fork(bait: Bait) -> str:
    """Another process, which no call is waited for in."""
    return _child(os.fork())


@attack("EPERM")
def fork_without_end(bait: Bait) -> str:
    """The oldest bomb, with a fuse of two hundred."""
    children = []
    for _ in range(200):
        child = os.fork()
        if not child:
            signal.pause()
        children.append(child)
    for each in children:
        os.kill(each, signal.SIGKILL)
        os.waitpid(each, 0)
    return f"had {len(children)} children"


@attack("EPERM")
def fork_by_clone(bait: Bait) -> str:
    """The call that threads are started by, without the flags of a thread."""
    return _child(call("clone", CHILD_TELLS, 0, 0, 0, 0))


@attack("EPERM")
def clone_into_namespaces(bait: Bait) -> str:
    """In which it would be root."""
    return _child(call("clone", NEW_USER | CHILD_TELLS, 0, 0, 0, 0))


@attack("ENOSYS")
def fork_by_the_newest_call(bait: Bait) -> str:
    """Whose flags lie in memory, where a filter does not see them."""
    return _child(call("clone3", struct.pack("11Q", 0, 0, 0, 0, CHILD_TELLS, *[0] * 6), 88))


@attack("EACCES")
def fork_with_a_terminal(bait: Bait) -> str:
    """A pair of devices comes with it."""
    pid, _ = os.forkpty()
    return _child(pid)


@attack("EPERM")
def execute_a_program(bait: Bait) -> None:
    """In its own place."""
    os.execv(bait.program, [bait.program])


@attack("EPERM")
def execute_what_was_never_a_file(bait: Bait) -> None:
    """Written to memory first."""
    number = call("memfd_create", b"x", 0)
    os.write(number, b"#!/bin/sh\necho done: it runs\n")
    call("execveat", number, b"", 0, 0, 0x1000)


@attack("EPERM")
def start_a_program(bait: Bait) -> int:
    """With the library's own means."""
    return subprocess.run([bait.program], check=True).returncode


@attack("EPERM")
def spawn_a_program(bait: Bait) -> int:
    """With the C library's."""
    return os.waitpid(os.posix_spawn(bait.program, [bait.program], {}), 0)[1]


@attack("EPERM")
def run_a_command(bait: Bait) -> int:
    """With the C library's oldest, which tells of a failure by its result."""
    found = int(libc.system(b"exit 7"))
    if found != 7 << 8:
        raise OSError(ctypes.get_errno() or errno.EPERM, "the command did not run")
    return found >> 8


@attack("EPERM")
def signal_the_host(bait: Bait) -> None:
    """One that does no harm, for the proof."""
    os.kill(bait.host, signal.SIGCONT)


@attack("EPERM")
def signal_a_neighbour(bait: Bait) -> None:
    """Of the same user."""
    os.kill(bait.victim, signal.SIGCONT)


@attack("EPERM")
def signal_a_sibling(bait: Bait) -> None:
    """Another tenant's sandbox."""
    os.kill(bait.sibling, signal.SIGCONT)


@attack("EPERM")
def signal_its_parent(bait: Bait) -> None:
    """Which is the zygote."""
    os.kill(os.getppid() or 1, signal.SIGCONT)


@attack("EPERM")
def signal_everybody(bait: Bait) -> None:
    """Nothing is sent: whether it could be is asked."""
    os.kill(-1, 0)


@attack("EPERM")
def signal_its_group(bait: Bait) -> None:
    """Whoever that is."""
    os.killpg(0, 0)


@attack("EPERM")
def signal_a_thread_of_another(bait: Bait) -> int:
    """The call that a process signals itself by."""
    return call("tgkill", bait.victim, bait.victim, signal.SIGCONT)


@attack("EPERM")
def signal_any_thread(bait: Bait) -> int:
    """Its older form."""
    return call("tkill", bait.victim, signal.SIGCONT)


@attack("EPERM")
def signal_with_a_forged_sender(bait: Bait) -> int:
    """And a value."""
    return call("rt_sigqueueinfo", bait.victim, signal.SIGCONT, struct.pack("iiiii", 18, 0, -1, 1, 0) + bytes(108))


@attack("EPERM")
def signal_by_descriptor(bait: Bait) -> int:
    """Taken from a number."""
    return call("pidfd_send_signal", call("pidfd_open", bait.victim, 0), signal.SIGCONT, 0, 0)


@attack("EPERM")
def signal_by_any_descriptor(bait: Bait) -> str:
    """In case one was left in it: each is tried."""
    for number in range(64):
        try:
            call("pidfd_send_signal", number, 0, 0, 0)
        except OSError as error:
            if isinstance(error, PermissionError):
                raise
    return "no descriptor is refused"


@attack("EPERM")
def take_a_descriptor_of_another(bait: Bait) -> int:
    """By a copy of its."""
    return call("pidfd_getfd", call("pidfd_open", bait.victim, 0), 0, 0)


@attack("EPERM")
def have_signals_sent_for_it(bait: Bait) -> int:
    """The kernel signals the owner of a descriptor when there is something to read."""
    one, _ = os.pipe()
    return fcntl.fcntl(one, fcntl.F_SETOWN, bait.victim)


@attack("EPERM")
def choose_what_signal_is_sent(bait: Bait) -> int:
    """By that same way."""
    one, _ = os.pipe()
    return fcntl.fcntl(one, fcntl.F_SETSIG, signal.SIGCONT)


@attack("ENOTTY")
def have_signals_sent_by_a_socket(bait: Bait) -> int:
    """And by the older one."""
    one, _ = socket.socketpair()
    return len(fcntl.ioctl(one, 0x8901, struct.pack("i", bait.victim)))


@attack("ENOTTY", proof="root")
def type_into_a_terminal(bait: Bait) -> bytes:
    """As if whoever sits there had."""
    terminal = 0
    with contextlib.suppress(OSError):
        _, terminal = os.openpty()
    return fcntl.ioctl(terminal, 0x5412, b"x")


@attack("done: 'went on'", without_namespaces=LATE)
def stop_itself(bait: Bait) -> str:
    """So that it neither works nor ends. The first process of a namespace cannot be stopped by itself."""
    signal.raise_signal(signal.SIGSTOP)
    return "went on"


@attack(SPENT, endless=True)
def ignore_every_signal(bait: Bait) -> None:
    """That can be ignored, and go on."""
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    while True:
        pass


@attack("EPERM")
def outlive_its_parent(bait: Bait) -> int:
    """By taking back what ends it with the zygote."""
    return call("prctl", 1, 0, 0, 0, 0)


@attack("EPERM")
def leave_its_session(bait: Bait) -> None:
    """And whatever is done to it as a whole."""
    os.setsid()


@attack("EPERM")
def set_an_alarm(bait: Bait) -> tuple[float, float]:
    """A signal that comes later."""
    return signal.setitimer(signal.ITIMER_REAL, 1000)


@attack("EPERM", proof="root")
def be_more_important(bait: Bait) -> None:
    """Than its neighbours."""
    os.setpriority(os.PRIO_PROCESS, 0, -5)


@attack("EPERM", proof="realtime")
def be_scheduled_first(bait: Bait) -> None:
    """In real time."""
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


@attack("EPERM")
def make_another_less_important(bait: Bait) -> None:
    """Its neighbour."""
    os.setpriority(os.PRIO_PROCESS, bait.victim, 19)


@attack("EPERM")
def choose_a_neighbours_processor(bait: Bait) -> None:
    """The one that is busiest."""
    os.sched_setaffinity(bait.victim, os.sched_getaffinity(0))


@attack("EPERM")
def read_a_neighbours_priority(bait: Bait) -> int:
    """And so learn that it is there."""
    return os.getpriority(os.PRIO_PROCESS, bait.victim)


@attack("EPERM", NOBODY, without_namespaces="EPERM")
def ask_for_a_neighbours_processors(bait: Bait) -> list[int]:
    """And so learn that it is there."""
    return sorted(os.sched_getaffinity(bait.victim))


@attack("EPERM", "EINVAL", without_namespaces="EPERM")
def read_a_neighbours_clock(bait: Bait) -> float:
    """How much it works, to the nanosecond: what it works on shows in that."""
    return time.clock_gettime((~bait.victim << 3) | 2)


@attack("EPERM", NOBODY, without_namespaces="EPERM")
def wait_for_a_neighbours_lock(bait: Bait) -> str:
    """A lock that says that a neighbour holds it: the kernel looks whether there is one."""
    lock = ctypes.create_string_buffer(struct.pack("i", bait.victim))
    try:
        call("futex", lock, 6, 0, struct.pack("qq", 1, 0), 0, 0)  # with a deadline long past
    except TimeoutError:
        return "it is there"
    return "got the lock"


@attack("EPERM")
def ask_for_a_neighbours_session(bait: Bait) -> int:
    """And so learn that it is there."""
    return os.getsid(bait.victim)


@attack("EPERM")
def lower_a_neighbours_limits(bait: Bait) -> int:
    """To nothing, or as here to what they are."""
    now = ctypes.create_string_buffer(16)
    call("prlimit64", bait.victim, resource.RLIMIT_CORE, 0, now)
    return call("prlimit64", bait.victim, resource.RLIMIT_CORE, now, 0)


@attack("ValueError: not allowed to raise maximum limit", proof="resource")
def raise_its_own_limits(bait: Bait) -> None:
    """By one."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, soft - 1))
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, soft))


def _lower_and_raise(kind: int) -> int:
    soft, _ = resource.getrlimit(kind)
    lower = (soft if soft != resource.RLIM_INFINITY else 1 << 40) - 4
    call("setrlimit", kind, struct.pack("QQ", lower, lower))
    return call("setrlimit", kind, struct.pack("QQ", lower + 4, lower + 4))


@attack("EPERM", proof="resource")
def raise_its_limit_on_descriptors(bait: Bait) -> int:
    """By the call that the filter lets it lower that by."""
    return _lower_and_raise(resource.RLIMIT_NOFILE)


@attack("EPERM", proof="resource")
def raise_its_limit_on_memory(bait: Bait) -> int:
    """As well."""
    return _lower_and_raise(resource.RLIMIT_AS)


@attack("EPERM")
def let_files_grow(bait: Bait) -> int:
    """By the same call, for another limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    return call("setrlimit", resource.RLIMIT_FSIZE, struct.pack("qq", soft, hard))


@attack("EPERM", proof="root")
def become_root(bait: Bait) -> None:
    """By asking."""
    os.setresuid(0, 0, 0)


@attack("EPERM", proof="root")
def become_somebody_else(bait: Bait) -> None:
    """Its neighbour, in whose name it could act."""
    os.setresgid(12345, 12345, 12345)
    os.setresuid(12345, 12345, 12345)


@attack("EPERM", proof="root")
def join_a_group(bait: Bait) -> None:
    """That may do more."""
    os.setgroups([0])


@attack("EPERM")
def take_capabilities(bait: Bait) -> int:
    """As many as there are to take, which in the proof is none."""
    return call("capset", struct.pack("=Ii", 0x20080522, 0), bytes(24))


@attack("EPERM")
def be_open_to_debuggers(bait: Bait) -> int:
    """And to everybody of the same user."""
    return call("prctl", 4, 1, 0, 0, 0)


@attack("EPERM")
def add_a_filter(bait: Bait) -> int:
    """One that asks a supervisor of its own."""
    return call("seccomp", 2, 0, struct.pack("I", 0x7FFF0000))  # or, for the proof, asks what one could do


@attack("EPERM")
def set_a_filter_by_prctl(bait: Bait) -> str:
    """Or have the kernel look at one that lies nowhere."""
    try:
        return str(call("prctl", 22, 2, 0, 0, 0))
    except OSError as error:
        if error.errno != errno.EFAULT:
            raise
        return "the kernel looked"


@attack("EPERM")
def rewrite_its_own_description(bait: Bait) -> str:
    """Where its code and arguments are said to lie."""
    try:
        return str(call("prctl", 35, 14, 0, 0, 0))
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.EPERM} or libc.prctl(3, 0, 0, 0, 0) < 0:
            raise
        return "the kernel looked"


@attack("EPERM")
def adopt_orphans(bait: Bait) -> int:
    """Of whoever dies below it."""
    return call("prctl", 36, 1, 0, 0, 0)


@attack("EPERM")
def restrict_itself_further(bait: Bait) -> int:
    """A way into more code of the kernel."""
    return call("landlock_create_ruleset", 0, 0, 1)


@attack(KILLED)
def leave_for_a_namespace(bait: Bait) -> int:
    """In which it would be root."""
    return call("unshare", NEW_USER)


@attack(KILLED, proof="root")
def join_a_namespace(bait: Bait) -> int:
    """Such as the host's."""
    space = 0
    with contextlib.suppress(OSError):
        space = os.open("/proc/self/ns/uts", os.O_RDONLY)
    return call("setns", space, NEW_UTS)


@attack(KILLED)
def be_traced(bait: Bait) -> int:
    """By its parent."""
    return call("ptrace", 0, 0, 0, 0)


@attack(KILLED)
def trace_a_neighbour(bait: Bait) -> int:
    """And so become it."""
    return call("ptrace", 0x4206, bait.victim, 0, 0)  # seizing does not stop it


@attack("EPERM")
def be_run_in_time_of_its_own(bait: Bait) -> str:
    """By the call that sets everything about that at once."""
    return reached("sched_setattr", 0, 0, 0)


@attack("EPERM")
def ask_how_a_neighbour_is_run(bait: Bait) -> int:
    """And so learn that it is there."""
    return call("sched_getattr", bait.victim, ctypes.create_string_buffer(64), 64, 0)


@attack("EPERM")
def go_first_at_the_disk(bait: Bait) -> int:
    """Before its neighbours; or ask who does."""
    return call("ioprio_get", 1, bait.victim)


@attack("EPERM")
def free_a_neighbours_memory(bait: Bait) -> str:
    """As if it were dying."""
    return reached("process_mrelease", -1, 0)


@attack("EPERM")
def wait_for_a_neighbour(bait: Bait) -> str:
    """And so learn of its end."""
    return reached("waitid", 3, -1, 0, 4, 0)


@attack("EPERM")
def be_told_of_its_parents_end_otherwise(bait: Bait) -> int:
    """By a signal that it can ignore."""
    return call("prctl", 1, signal.SIGUSR1, 0, 0, 0)


@attack("EPERM")
def act_on_files_as_another(bait: Bait) -> int:
    """By the user id that only files know."""
    return call("setfsuid", 0xFFFF_FFFF)


@attack("EPERM")
def put_a_descriptor_in_anothers_place(bait: Bait) -> int:
    """Such as that of its connection."""
    return call("dup3", 0, 63, 0)


@attack("EPERM")
def lock_what_it_holds(bait: Bait) -> int:
    """Which others may hold too, and see that it is locked."""
    return call("flock", 0, 6)


@attack("EPERM")
def ask_for_word_of_a_folder(bait: Bait) -> int:
    """Which is a signal, and a lease on what is in it."""
    folder = os.open("/", os.O_RDONLY) if _unconfined() else 0
    return fcntl.fcntl(folder, fcntl.F_NOTIFY, 0)


def _unconfined() -> bool:
    try:
        os.close(os.open("/", os.O_RDONLY))
    except OSError:
        return False
    return True
