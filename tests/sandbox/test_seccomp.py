"""The filter, run on a little machine of its own: every call that is named, those that must never be, and arguments."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from cloister.sandbox.lockdown import kernel, landlock, seccomp
from cloister.sandbox.lockdown.syscalls import NUMBERS

ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOW, KILL = "allow", "kill"
OWN_PID = 4242
HIGH = 1 << 32
CLOCKS = ("clock_gettime", "clock_getres", "clock_nanosleep")
Verdict = str | int
"""Allowed, killed, or the errno that is answered."""

NEVER = {
    "x86_64": {
        "fork": 57, "vfork": 58, "execve": 59, "execveat": 322, "kill": 62, "tkill": 200, "rt_sigqueueinfo": 129,
        "pidfd_open": 434, "pidfd_send_signal": 424, "pidfd_getfd": 438, "socket": 41, "connect": 42, "bind": 49,
        "listen": 50, "accept": 43, "sendmsg": 46, "recvmsg": 47, "sendmmsg": 307, "recvmmsg": 299, "dup2": 33,
        "dup3": 292, "creat": 85, "unlink": 87, "rename": 82, "mkdir": 83, "chmod": 90, "chown": 92, "link": 86,
        "symlink": 88, "mknod": 133, "truncate": 76, "ftruncate": 77, "fchmod": 91, "fchown": 93, "fchdir": 81,
        "getcwd": 79, "setuid": 105, "setgid": 106, "setresuid": 117, "setgroups": 116, "capset": 126, "setsid": 112,
        "setpriority": 141, "sched_setscheduler": 144, "sched_setaffinity": 203, "io_uring_setup": 425,
        "io_uring_enter": 426, "io_uring_register": 427, "memfd_create": 319, "memfd_secret": 447, "shmget": 29,
        "shmat": 30, "msgget": 68, "semget": 64, "mq_open": 240, "inotify_init1": 294, "fanotify_init": 300,
        "name_to_handle_at": 303, "open_by_handle_at": 304, "seccomp": 317, "landlock_create_ruleset": 444,
        "personality": 135, "arch_prctl": 158, "modify_ldt": 154, "pkey_mprotect": 329, "uname": 63, "sysinfo": 99,
        "syslog": 103, "splice": 275, "vmsplice": 278, "tee": 276, "sendfile": 40, "copy_file_range": 326,
        "process_madvise": 440, "process_mrelease": 448, "kcmp": 312, "get_mempolicy": 239, "mlock": 149,
        "timer_create": 222, "timerfd_create": 283, "signalfd4": 289, "wait4": 61, "waitid": 247, "setns": 308,
        "setsockopt": 54, "eventfd2": 290, "readv": 19, "writev": 20, "preadv2": 327, "dup": 32, "epoll_pwait2": 441,
    },
    "aarch64": {
        "execve": 221, "execveat": 281, "kill": 129, "tkill": 130, "pidfd_open": 434, "pidfd_send_signal": 424,
        "pidfd_getfd": 438, "socket": 198, "connect": 203, "bind": 200, "listen": 201, "accept": 202, "sendmsg": 211,
        "recvmsg": 212, "dup3": 24, "unlinkat": 35, "mkdirat": 34, "renameat2": 276, "fchmodat": 53, "getcwd": 17,
        "setuid": 146, "capset": 91, "setsid": 157, "io_uring_setup": 425, "memfd_create": 279, "shmget": 194,
        "seccomp": 277, "personality": 92, "pkey_mprotect": 288, "uname": 160, "sysinfo": 179, "splice": 76,
        "sendfile": 71, "process_madvise": 440, "timer_create": 107, "wait4": 260, "setsockopt": 208, "eventfd2": 19,
        "readv": 65, "writev": 66, "dup": 23, "epoll_pwait2": 441,
    },
}  # fmt: skip


def run(code: bytes, number: int, arguments: tuple[int, ...] = (), *, arch: int) -> Verdict:
    """The kernel's part: interpret the filter for one call."""
    padded = [argument & (2**64 - 1) for argument in (*arguments, *[0] * 6)][:6]
    data = struct.pack("<IIQ6Q", number & 0xFFFF_FFFF, arch, 0, *padded)
    instructions = list(struct.iter_unpack("<HBBI", code))
    assert len(instructions) <= 4096
    at = accumulator = 0
    while True:
        operation, if_true, if_false, constant = instructions[at]
        at += 1
        match operation:
            case 0x20:  # load a word
                (accumulator,) = struct.unpack_from("<I", data, constant)
            case 0x54:  # and
                accumulator &= constant
            case 0x05:  # jump
                at += constant
            case 0x15:  # jump if equal
                at += if_true if accumulator == constant else if_false
            case 0x35:  # jump if not below
                at += if_true if accumulator >= constant else if_false
            case 0x06:  # return
                action, value = constant & 0xFFFF_0000, constant & 0xFFFF
                words = {0x7FFF_0000: ALLOW, 0x8000_0000: KILL}
                return words[action] if action in words else int(value)
            case _:
                raise AssertionError(f"an instruction that is not used: {operation:#x}")


def both(parts: tuple[bytes, bytes], number: int, arguments: tuple[int, ...] = (), *, arch: int) -> Verdict:
    """The kernel's part where there are two filters: what is stricter counts, and of two errors the later one's."""
    first, second = (run(part, number, arguments, arch=arch) for part in parts)
    return KILL if KILL in {first, second} else first if second == ALLOW else second


class Machine:
    """The filters of one machine, and what they say."""

    def __init__(self, name: str, *, empty_root: bool = True) -> None:
        self.name = name
        self.numbers = NUMBERS[name]
        self._parts = seccomp.common(), seccomp.rest(OWN_PID, empty_root=empty_root)

    def verdict(self, call: str | int, *arguments: int) -> Verdict:
        number = self.numbers[call] if isinstance(call, str) else call
        return both(self._parts, number, arguments, arch=ARCH[self.name])

    def raw(self, number: int, arch: int) -> Verdict:
        return both(self._parts, number, arch=arch)


@pytest.fixture(params=list(ARCH))
def build(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Machine]:
    """Filters of either machine, whichever this one is."""
    monkeypatch.setattr(kernel, "MACHINE", request.param)
    return lambda **options: Machine(request.param, **options)


@pytest.fixture
def machine(build: Callable[..., Machine]) -> Machine:
    return build()


def test_every_named_call_gets_what_its_list_says(machine: Machine) -> None:
    """Allowed, killed, or answered with the errno that makes the C library go another way."""
    checked = seccomp.checked(OWN_PID)
    for name in machine.numbers:
        if name in checked:
            continue
        expected: Verdict = errno.EPERM
        if name in seccomp.ALLOWED:
            expected = ALLOW
        elif name in seccomp.KILLED:
            expected = KILL
        elif name in seccomp.REFUSED:
            expected = seccomp.REFUSED[name]
        assert machine.verdict(name) == expected, name


def test_the_lists_do_not_contradict_each_other() -> None:
    """A call is in one of them."""
    lists = [set(seccomp.ALLOWED), set(seccomp.KILLED), set(seccomp.REFUSED), set(seccomp.checked(1))]
    assert sum(map(len, lists)) == len(set().union(*lists))


def test_one_part_decides_and_the_other_lets_pass(machine: Machine) -> None:
    """What a zygote needs passes the part that it is under itself, and all the rest passes the one of its children."""
    before = {machine.numbers[name] for name in seccomp.BEFORE & machine.numbers.keys()}
    for number in range(1024):
        for arguments in ((), (1,) * 6, (2**64 - 1,) * 6, (0, 0, 4, 0, 0, 0)):
            common, rest = (run(part, number, arguments, arch=ARCH[machine.name]) for part in machine._parts)
            assert (common if number in before else rest) == ALLOW, number
            assert number in before or (common == ALLOW) is (machine.verdict(number, *arguments) == ALLOW), number


def test_a_zygote_can_do_no_more_than_fork_and_confine(machine: Machine) -> None:
    """It is under the larger part itself: no file, no socket, no program, no signal, no code that is mapped anew."""
    numbers = {**NEVER[machine.name], **machine.numbers}
    for name in (
        "openat",
        "socket",
        "connect",
        "execve",
        "kill",
        "pidfd_send_signal",
        "mount",
        "ptrace",
        "io_uring_setup",
    ):
        assert run(machine._parts[0], numbers[name], arch=ARCH[machine.name]) != ALLOW, name
    for name in ("mmap", "mprotect"):
        assert run(machine._parts[0], numbers[name], (0, 4096, 5, 0x22), arch=ARCH[machine.name]) == errno.EPERM
    assert len(seccomp.BEFORE) <= 21


def test_every_name_in_the_lists_has_a_number_on_some_machine() -> None:
    """Or a typing mistake would quietly refuse, or fail to kill, what was meant."""
    known = set().union(*NUMBERS.values())
    assert {*seccomp.ALLOWED, *seccomp.KILLED, *seccomp.REFUSED, *seccomp.BEFORE, *seccomp.checked(1)} <= known


def test_numbers_are_told_apart() -> None:
    """No number stands for two calls."""
    for numbers in NUMBERS.values():
        assert len(set(numbers.values())) == len(numbers)


def test_what_is_not_named_is_refused(machine: Machine) -> None:
    """Every other number that there is, or may be some day, and negative ones."""
    named = set(machine.numbers.values())
    for number in [*range(1024), 4096, 0x3FFF_FFFF]:
        if number not in named:
            assert machine.verdict(number) == errno.EPERM, number
    assert machine.verdict(-1) in {errno.EPERM, KILL}


def test_the_calls_that_make_a_way_out_are_never_allowed(machine: Machine) -> None:
    """Programs, processes, signals, sockets, descriptors by message, files, identity, rings, more filters."""
    for name, number in NEVER[machine.name].items():
        for arguments in ((), (1, 1, 1, 1, 1, 1), (2**64 - 1,) * 6):
            assert machine.verdict(number, *arguments) != ALLOW, name


def test_another_machines_calls_kill(machine: Machine) -> None:
    """The 32-bit table of the same processor has other numbers."""
    for arch in (0x40000003, 0x40000028, 0, 0xFFFF_FFFF, *(set(ARCH.values()) - {ARCH[machine.name]})):
        assert machine.raw(machine.numbers["read"], arch) == KILL
    assert machine.raw(machine.numbers["read"], ARCH[machine.name]) == ALLOW


def test_x32_kills(machine: Machine) -> None:
    """Where there is such a table: every number with its bit."""
    if machine.name != "x86_64":
        assert machine.verdict(0x40000000) == errno.EPERM
        return
    for number in (0, 1, 59, 319, 520, 0x3FFF_FFFF, 0xBFFF_FFFF):
        assert machine.verdict(0x40000000 + number) == KILL


@pytest.mark.parametrize(
    ("call", "arguments", "verdict"),
    [
        ("mmap", (0, 4096, 0x3, 0x22), ALLOW),
        ("mmap", (0, 4096, 0x0, 0x22), ALLOW),
        ("mmap", (0, 4096, 0x4, 0x22), errno.EPERM),
        ("mmap", (0, 4096, 0x7, 0x22), errno.EPERM),
        ("mmap", (0, 4096, 0xFFFF_FFFF, 0x22), errno.EPERM),
        ("mmap", (0, 4096, 0x3, 0x20022), ALLOW),
        ("mmap", (0, 4096, 0x3, 0x10022), errno.EPERM),
        ("mmap", (0, 4096, 0x3, 0x40022), errno.EPERM),
        ("mmap", (0, 4096, 0x3, 0x122), errno.EPERM),
        ("mmap", (0, 4096, 0x3, 0x21), ALLOW),
        ("mmap", (0, 4096, 0x3, 0x32), ALLOW),
        ("mmap", (0, 4096, 0x3, 0xC022), ALLOW),
        ("mmap", (0, 4096, 0x3, 0x100032), ALLOW),
        ("mmap", (0, 4096, 0x3, 0x1), errno.EPERM),
        ("mmap", (0, 4096, 0x3, 0x2), errno.EPERM),
        ("mmap", (0, 4096, 0x3, 0x28), errno.EPERM),
        ("mmap", (0, 4096, 0x3, 0x62), errno.EPERM),
        ("mmap", (0, 4096, 0x3, 0x2022), errno.EPERM),
        ("mmap", (0, 4096, 0x3, 0x80022), errno.EPERM),
        ("mprotect", (0, 4096, 0x1), ALLOW),
        ("mprotect", (0, 4096, 0x5), errno.EPERM),
        ("mprotect", (0, 4096, HIGH | 0x4), errno.EPERM),
        ("clone", (0x3D0F00,), ALLOW),
        ("clone", (17,), errno.EPERM),
        ("clone", (0x3D0F00 | 0x10000000,), errno.EPERM),
        ("clone", (0x3D0F00 & ~0x10000,), errno.EPERM),
        ("clone", (HIGH | 0x3D0F00,), errno.EPERM),
        ("mremap", (0, 1, 2, 1), ALLOW),
        ("mremap", (0, 1, 2, 3), errno.EPERM),
        ("mremap", (0, 1, 2, 4), errno.EPERM),
        ("madvise", (0, 1, 4), ALLOW),
        ("madvise", (0, 1, 14), ALLOW),
        ("madvise", (0, 1, 12), errno.EPERM),
        ("madvise", (0, 1, 100), errno.EPERM),
        ("futex", (1, 0x80), ALLOW),
        ("futex", (1, 0x81), ALLOW),
        ("futex", (1, 0x189), ALLOW),
        ("futex", (1, HIGH | 0x81), ALLOW),
        ("futex", (1, 0), errno.EAGAIN),
        ("futex", (1, 1), errno.EAGAIN),
        ("futex", (1, 0x109), errno.EAGAIN),
        ("futex", (1, 6), errno.EPERM),
        ("futex", (1, 0x86), errno.EPERM),
        ("futex", (1, 11), errno.EPERM),
        ("futex", (1, 12), errno.EPERM),
        ("futex", (1, 13), errno.EPERM),
        ("futex", (1, 0x200), errno.EPERM),
        ("sched_getaffinity", (0,), ALLOW),
        ("sched_getaffinity", (1,), errno.EPERM),
        *[(call, (clock,), ALLOW) for call in CLOCKS for clock in (0, 1, 2, 3, 7, 11)],
        *[(call, (clock,), errno.EPERM) for call in CLOCKS for clock in (~1 << 3 | 2, (~5 << 3 | 3), 16, 0xFFFF_FFF2)],
        ("recvfrom", (3, 1, 1, 0), ALLOW),
        ("recvfrom", (3, 1, 1, 0x4162), ALLOW),
        ("recvfrom", (3, 1, 1, 1), errno.EPERM),
        ("recvfrom", (3, 1, 1, 0x2000), errno.EPERM),
        ("sendto", (3, 1, 1, 0x4040, 0, 0), ALLOW),
        ("sendto", (3, 1, 1, 1, 0, 0), errno.EPERM),
        ("sendto", (3, 1, 1, 0x4000000, 0, 0), errno.EPERM),
        ("sendto", (3, 1, 1, 0, 0, 0), ALLOW),
        ("sendto", (3, 1, 1, 0, 1, 16), errno.EPERM),
        ("sendto", (3, 1, 1, 0, HIGH, 16), errno.EPERM),
        ("socketpair", (1, 1), ALLOW),
        ("socketpair", (1, 5 | 0x80000 | 0x800), ALLOW),
        ("socketpair", (1, 2), errno.EPERM),
        ("socketpair", (1, 3), errno.EPERM),
        ("socketpair", (2, 1), errno.EPERM),
        ("socketpair", (10, 1), errno.EPERM),
        ("socketpair", (16, 1), errno.EPERM),
        ("socketpair", (40, 1), errno.EPERM),
        ("socketpair", (HIGH | 1, 1), errno.EPERM),
        *[("getsockopt", (3, 1, option), ALLOW) for option in (3, 4, 38, 39)],
        *[("getsockopt", (3, 1, option), errno.EPERM) for option in (17, 26, 31, 59, 77)],
        ("getsockopt", (3, 0, 3), errno.EPERM),
        ("getsockopt", (3, 6, 3), errno.EPERM),
        ("pipe2", (1, 0), ALLOW),
        ("pipe2", (1, 0x80800), ALLOW),
        ("pipe2", (1, 0x80), errno.EPERM),
        ("fcntl", (3, 1), ALLOW),
        ("fcntl", (3, 1030), ALLOW),
        ("fcntl", (3, 0), errno.EPERM),
        ("fcntl", (3, 8), errno.EPERM),
        ("fcntl", (3, 1024), errno.EPERM),
        ("fcntl", (3, 1033), errno.EPERM),
        ("fcntl", (3, HIGH | 1), errno.EPERM),
        ("ioctl", (3, 0x5421), ALLOW),
        ("ioctl", (0, 0x5412), errno.ENOTTY),
        ("ioctl", (0, 0x541C), errno.ENOTTY),
        ("ioctl", (0, HIGH | 0x5421), errno.ENOTTY),
        ("prctl", (15,), ALLOW),
        ("prctl", (4, 1), errno.EPERM),
        ("prctl", (22, 2), errno.EPERM),
        ("prctl", (1, 0), errno.EPERM),
        ("prctl", (47, 2), errno.EPERM),
        ("tgkill", (OWN_PID, 7, 9), ALLOW),
        ("tgkill", (1, 1, 9), errno.EPERM),
        ("tgkill", (-1, 1, 9), errno.EPERM),
        ("tgkill", (HIGH | OWN_PID, 1, 9), errno.EPERM),
        ("prlimit64", (0, 7, 0, 1), ALLOW),
        ("prlimit64", (0, 7, 1, 0), errno.EPERM),
        ("prlimit64", (0, 7, HIGH, 0), errno.EPERM),
        ("prlimit64", (1, 7, 0, 1), errno.EPERM),
        ("setrlimit", (9, 1), ALLOW),
        ("setrlimit", (7, 1), ALLOW),
        ("setrlimit", (6, 1), errno.EPERM),
        ("newfstatat", (3, 1, 1, 0x1000), ALLOW),
        ("newfstatat", (3, 1, 1, 0), errno.EACCES),
        ("newfstatat", (3, 1, 1, 0x100), errno.EACCES),
    ],
)
def test_arguments_decide(machine: Machine, call: str, arguments: tuple[int, ...], verdict: Verdict) -> None:
    """Each rule lets through what it is for; a value beside it, or with something in its upper half, it refuses."""
    assert machine.verdict(call, *arguments) == verdict


def test_where_files_can_be_seen_no_call_may_look_at_a_path(build: Callable[..., Machine]) -> None:
    """`newfstatat` takes a path even with the flag that says it takes none."""
    machine = build(empty_root=False)
    assert machine.verdict("newfstatat", 3, 1, 1, 0x1000) == errno.EACCES
    assert machine.verdict("newfstatat", 3, 1, 1, 0) == errno.EACCES
    assert machine.verdict("fstat", 3) == ALLOW


def test_the_filter_is_a_tree(machine: Machine) -> None:
    """The way to any verdict is short, since it is gone for each call, and for every number when it is installed."""
    for code in machine._parts:
        steps = {number: trace(code, number, ARCH[machine.name]) for number in machine.numbers.values()}
        assert max(steps.values()) <= 45


def trace(code: bytes, number: int, arch: int) -> int:
    """How many instructions one verdict takes."""
    data = struct.pack("<IIQ6Q", number, arch, 0, *[0] * 6)
    instructions = list(struct.iter_unpack("<HBBI", code))
    at = steps = accumulator = 0
    while True:
        operation, if_true, if_false, constant = instructions[at]
        at, steps = at + 1, steps + 1
        if operation == 0x06:
            return steps
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, constant)
        elif operation == 0x54:
            accumulator &= constant
        elif operation == 0x05:
            at += constant
        else:
            hit = accumulator == constant if operation == 0x15 else accumulator >= constant
            at += if_true if hit else if_false


HEADERS = {
    "x86_64": [Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), Path("/usr/include/asm/unistd_64.h")],
    "aarch64": [Path("/usr/include/asm-generic/unistd.h")],
}


@pytest.mark.parametrize("name", list(ARCH))
def test_the_numbers_are_the_kernels(name: str) -> None:
    """As its own headers have them; those of arm64 are the generic ones, where wide calls have a name of their own."""
    header = next((file for file in HEADERS[name] if file.exists()), None)
    if header is None:
        pytest.skip("the kernel's headers are not installed")
    defined = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)\b", header.read_text()))
    numbers = {**{call: int(number) for call, number in defined.items()}}
    numbers.setdefault("newfstatat", numbers.get("fstatat", -1))
    assert {call: numbers.get(call) for call in NUMBERS[name]} == NUMBERS[name]
    for call, number in NEVER[name].items():
        assert numbers.get(call, number) == number, call


def test_a_filter_is_for_one_process(machine: Machine) -> None:
    """Where a process knows itself by another number than 1, its filter is the same but for that number."""
    first = seccomp.Rest(empty_root=True)
    assert bytes(first._code) == seccomp.rest(1, empty_root=True)
    assert first.of_process(1) is first
    for number in (2, OWN_PID, (1 << 22) - 1):
        assert bytes(first.of_process(number)._code) == seccomp.rest(number, empty_root=True)
    bare = seccomp.Rest(empty_root=False).of_process(OWN_PID)
    assert bytes(bare._code) == seccomp.rest(OWN_PID, empty_root=False)


# Landlock


@pytest.mark.parametrize(
    ("version", "known"),
    [
        (1, (13,)),
        (2, (14,)),
        (3, (15,)),
        (4, (15, 2)),
        (5, (16, 2)),
        (6, (16, 2, 2)),
        (7, (16, 2, 2)),
        (9, (17, 2, 2)),
        (10, (17, 4, 2)),
        (99, (64, 63, 5, 0)),
    ],
)
def test_landlock_handles_all_that_the_kernel_knows(
    monkeypatch: pytest.MonkeyPatch, version: int, known: tuple[int, ...]
) -> None:
    """Of files, ports and scopes, whatever its version; and names nothing else, which would be refused as a whole."""
    made: list[tuple[int, ...]] = []

    def syscall(number: int, *arguments: object) -> int:
        assert number == 444
        pointer, length, flags = arguments
        assert isinstance(flags, ctypes.c_uint32)
        if pointer is None:
            assert flags.value == 1
            return version
        assert isinstance(length, ctypes.c_size_t)
        assert flags.value == 0
        fields = struct.unpack(f"{length.value // 8}Q", bytes(pointer._obj))  # type: ignore[attr-defined]
        if any(fields[len(known) :]):
            raise OSError(errno.E2BIG, "a field that this kernel does not have")
        if any(bits >> most for bits, most in zip(fields, known, strict=False)):
            raise OSError(errno.EINVAL, "a right that this kernel does not have")
        made.append(fields)
        return os.open("/dev/null", os.O_RDONLY)

    monkeypatch.setattr(kernel, "syscall", syscall)
    os.close(landlock.deny_everything())
    assert made[-1] == tuple((1 << most) - 1 for most in (*known, 0, 0, 0)[:3])


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSYS, "this kernel has no Landlock"),
        (errno.EOPNOTSUPP, "switched off when it starts"),
        (errno.EPERM, "the container's profile refuses it"),
        (errno.EFAULT, "Bad address"),
    ],
)
def test_why_there_is_no_landlock(monkeypatch: pytest.MonkeyPatch, number: int, words: str) -> None:
    """An old kernel, one that was started without it, and a container's profile are told apart."""

    def syscall(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(kernel, "syscall", syscall)
    with pytest.raises(OSError, match=words):
        landlock.deny_everything()
