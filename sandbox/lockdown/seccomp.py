"""The system-call filter: a default-deny list by name, turned into a search tree for the kernel's BPF machine.

`ALLOWED` and `checked` are the policy; the rest of the file is a small assembler. A tree, because the kernel runs the
filter once for every call number when it is installed, and a line of tests costs twice as much there. Everything that
is not named answers EPERM, which Python turns into an exception that the tenant can read; what no library ever tries
kills. `clone3` answers ENOSYS, because its flags lie in memory where a filter cannot see them; the C library then falls
back to `clone`, whose flags it can.

The kernel takes a tenth of a millisecond to translate it all. So it comes in two parts, and a call has to pass both:
the zygote enters the larger one, once, and its children with it; the smaller one takes from each child what a zygote
needs beside. Of each call one part says what the lists say, and the other lets it pass.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from . import kernel
from .syscalls import NUMBERS

_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_AUDIT_ARCH: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT: Final = 0x40000000
_FIRST_PROCESS, _ANY_PROCESS = 1, 0x7FFF_FFFE  # no process has the latter number: it stands for one

ALLOWED: Final = frozenset(
    name
    for line in """
        read write close fstat lseek                 # on what it holds; Python asks where a file is when it wraps one
        poll ppoll pselect6 select                   # the same by machine and by age of the C library
        epoll_create1 epoll_ctl epoll_wait epoll_pwait
        shutdown getsockname getpeername             # asyncio's streams, on pairs that the tenant makes
        munmap brk                                   # memory; what may be mapped is checked
        set_robust_list rseq                         # each thread, when it starts
        sched_yield                                  # Python 3.13's locks, and numpy's
        rt_sigaction rt_sigprocmask rt_sigreturn     # handlers of its own: signal.signal, and the start of a thread
        sigaltstack                                  # faulthandler
        restart_syscall                              # the kernel's own, after a stop
        nanosleep                                    # time.sleep with an old C library
        gettimeofday time times                      # where the kernel's page of clocks cannot tell; os.times
        getrusage                                    # resource: of itself and its threads, there is no other
        getpid getppid gettid                        # threading, logging
        getuid geteuid getgid getegid                # tempfile, getpass
        umask                                        # libuuid; of itself only, and there are no files
        getrandom
        exit exit_group
    """.splitlines()
    for name in line.partition("#")[0].split()
)
"""Whatever the arguments are."""

KILLED: Final = frozenset(
    """
    ptrace process_vm_readv process_vm_writev bpf perf_event_open userfaultfd
    mount umount2 pivot_root chroot unshare setns move_mount open_tree fsopen fsmount
    init_module finit_module delete_module kexec_load kexec_file_load reboot
    keyctl add_key request_key swapon swapoff acct iopl ioperm
    """.split()
)

BEFORE: Final = frozenset(
    """
    recvmsg sendmsg clone unshare setns pidfd_open wait4 madvise tgkill newfstatat
    dup2 dup3 close_range prlimit64 setgroups setresgid setresuid capset setsid prctl landlock_restrict_self
    """.split()
)
"""What the zygote does, and a child until it is confined, that the lists do not allow, or not with any arguments."""

REFUSED: Final = {
    **dict.fromkeys(("clone3", "statx", "openat2", "faccessat2"), errno.ENOSYS),
    **dict.fromkeys(
        ("open", "openat", "stat", "lstat", "access", "faccessat", "readlink", "readlinkat", "chdir", "getdents64"),
        errno.EACCES,
    ),
}


@dataclass(frozen=True, slots=True)
class Test:
    """One argument of a call: its value under `mask` must be one of `values`. Its own answer goes before the rule's."""

    argument: int
    values: tuple[int, ...]
    mask: int = 0xFFFF_FFFF_FFFF_FFFF
    otherwise: int | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """A call that is allowed when every test passes, and answers `otherwise` when one does not."""

    tests: tuple[Test, ...]
    otherwise: int = errno.EPERM


_KINDS_OF_MEMORY: Final = 0x12_C013
"""MAP_SHARED, _PRIVATE, _FIXED, _NORESERVE, _POPULATE, _STACK, _FIXED_NOREPLACE."""
_LOW: Final = 0xFFFF_FFFF
"""The lower half of an argument, for those that the kernel takes as an `int`: it does not look at the upper one."""


def checked(own_pid: int) -> dict[str, Rule]:
    """The calls that are allowed with certain arguments only."""
    own_clocks = Test(0, (0,), mask=_LOW & ~0xF)  # no process's by its number, no device's by a descriptor
    return {
        # No PROT_EXEC: no code that was not loaded before the lockdown. Memory only, no descriptor's; shared or not, at
        # an address or not, reserved or filled; no stack that grows into others, none of the host's huge pages.
        "mmap": Rule((Test(2, (0,), mask=4), Test(3, (0x20,), mask=_LOW & ~_KINDS_OF_MEMORY))),
        "mprotect": Rule((Test(2, (0,), mask=4),)),
        "mremap": Rule((Test(3, (0, 1), mask=_LOW),)),  # larger or smaller, and elsewhere if need be
        # Advice that the C library and numpy give. Not MADV_MERGEABLE: by the time a write to a merged page takes, one
        # tenant would learn what another has in memory.
        "madvise": Rule((Test(2, (0, 1, 2, 3, 4, 8, 14, 15), mask=_LOW),)),
        "clone": Rule((Test(0, (0x3D0F00,)),)),  # exactly the flags of a thread of the C library
        # Wait, wake, and what older C libraries' conditions need, by either clock. None of the kind that inherits
        # priorities, which the kernel got wrong more than once. Private to the process: by others siblings could wake
        # each other, on any page of a library that they share. Who waits for the end of a thread uses one such, and
        # is told to look again until it has ended.
        "futex": Rule((Test(1, (0, 1, 3, 4, 9, 10), mask=_LOW & ~0x180), Test(1, (0x80,), 0x80, errno.EAGAIN))),
        "sched_getaffinity": Rule((Test(0, (0,), mask=_LOW),)),  # of itself, as C libraries count cores
        "clock_gettime": Rule((own_clocks,)),
        "clock_getres": Rule((own_clocks,)),
        "clock_nanosleep": Rule((own_clocks,)),
        # No address: only to where the socket is connected. Neither way MSG_OOB, by which a browser's sandbox was left;
        # only not to wait, no signal, to look ahead, and to wait for all.
        "sendto": Rule((Test(4, (0,)), Test(3, (0,), mask=_LOW & ~0x4040))),
        "recvfrom": Rule((Test(3, (0,), mask=_LOW & ~0x4162),)),
        "socketpair": Rule((Test(0, (1,)), Test(1, (1, 5), mask=0xF))),  # AF_UNIX, not datagram: an event loop's own
        # Kind, error, sizes. Not who the peer is: that would be the host, and SO_PEERPIDFD even a descriptor of it.
        "getsockopt": Rule((Test(1, (1,), mask=_LOW), Test(2, (3, 4, 7, 8, 30, 38, 39), mask=_LOW))),
        "pipe2": Rule((Test(1, (0,), mask=_LOW & ~0x80800),)),  # close-on-exec, non-blocking; no queue of events
        "fcntl": Rule((Test(1, (1, 2, 3, 4, 1030)),)),  # get and set flags, duplicate with close-on-exec
        "ioctl": Rule((Test(1, (0x5421, 0x541B, 0x5451)),), errno.ENOTTY),  # non-blocking, bytes waiting, close-on-exec
        "prctl": Rule((Test(0, (15,)),)),  # the name of a thread
        "tgkill": Rule((Test(0, (own_pid,)),)),  # raise_signal, abort
        "prlimit64": Rule((Test(0, (0,)), Test(2, (0,)))),  # read its own limits
        "setrlimit": Rule((Test(0, (7, 9)),)),  # lower its descriptors and address space, which no one can raise again
        # The C library's fstat, and nothing by path.
        "newfstatat": Rule((Test(3, (0x1000,), mask=0x1000),), errno.EACCES),
    }


def common() -> bytes:
    """The part of the zygote and its children alike: the lists, but for `BEFORE`, which passes."""
    passing = dict.fromkeys(_numbers(BEFORE), _return(_ALLOW))
    return _program({**_actions(_ANY_PROCESS, True), **passing}, _REFUSE)


def rest(own_pid: int, *, empty_root: bool) -> bytes:
    """The part of each child, which knows itself as `own_pid`: `BEFORE` by the lists, while everything else passes.

    Where the root is not empty, a call that could look at a path is refused even when it mostly looks at a descriptor.
    """
    actions = _actions(own_pid, empty_root)
    return _program({number: actions.get(number, _REFUSE) for number in _numbers(BEFORE)}, _return(_ALLOW))


def _actions(own_pid: int, empty_root: bool) -> dict[int, bytes]:
    actions: dict[int, bytes] = {}

    def add(names: Iterable[str], action: bytes) -> None:
        actions.update(dict.fromkeys(_numbers(names), action))

    add(ALLOWED, _return(_ALLOW))
    add(KILLED, _return(_KILL_PROCESS))
    for name, number in REFUSED.items():
        add([name], _return(_ERRNO | number))
    for name, rule in checked(own_pid).items():
        add([name], _assemble(rule))
    if not empty_root:
        add(["newfstatat"], _return(_ERRNO | errno.EACCES))
    return actions


def _numbers(names: Iterable[str]) -> list[int]:
    known = NUMBERS[kernel.MACHINE]
    return [known[name] for name in names if name in known]


def _program(actions: Mapping[int, bytes], otherwise: bytes) -> bytes:
    start = _jump_if_equal(_AUDIT_ARCH[kernel.MACHINE], 1, 0) + _return(_KILL_PROCESS)
    body = _tree(_segments(actions, otherwise))
    if kernel.MACHINE == "x86_64":  # the 32-bit pointers of x32 are another table of calls
        body = _instruction(0x35, 0, 1, _X32_BIT) + _return(_KILL_PROCESS) + body
    return _load(4) + start + _load(0) + body


class Filter:
    """A program in the form that the kernel takes."""

    def __init__(self, code: bytes) -> None:
        self._code = ctypes.create_string_buffer(code, len(code))
        self._header = ctypes.create_string_buffer(
            struct.pack("HxxxxxxQ", len(code) // 8, ctypes.addressof(self._code))
        )
        self._address = ctypes.addressof(self._header)

    def install(self) -> None:
        """Put the calling thread, and all it starts, under the filter. Needs `no_new_privs`. There is no way back."""
        kernel.prctl(kernel.PR_SET_SECCOMP, 2, self._address)


class Rest(Filter):
    """A child's part, laid out before the fork, for a process of one number."""

    def __init__(self, empty_root: bool, own_pid: int = _FIRST_PROCESS, template: bytes = b"") -> None:
        self._empty_root, self._own_pid = empty_root, own_pid
        self._template = template or rest(_ANY_PROCESS, empty_root=empty_root)
        super().__init__(self._template.replace(_equal(_ANY_PROCESS), _equal(own_pid)))

    def of_process(self, own_pid: int) -> Rest:
        """The same for the process of that number: itself, where each is the first of a namespace of its own."""
        return self if own_pid == self._own_pid else Rest(self._empty_root, own_pid, self._template)


def _equal(own_pid: int) -> bytes:
    return _jump_if_equal(own_pid, 1, 0)


def _instruction(code: int, if_true: int, if_false: int, constant: int) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, constant)


def _load(offset: int) -> bytes:
    return _instruction(0x20, 0, 0, offset)


def _return(value: int) -> bytes:
    return _instruction(0x06, 0, 0, value)


_REFUSE: Final = _return(_ERRNO | errno.EPERM)


def _jump_if_equal(constant: int, if_true: int, if_false: int) -> bytes:
    return _instruction(0x15, if_true, if_false, constant)


def _assemble(rule: Rule) -> bytes:
    """Both halves of each argument are compared: a test that saw only the lower one could be passed by."""
    code = _return(_ALLOW)
    for test in reversed(rule.tests):
        refuse = _return(_ERRNO | (rule.otherwise if test.otherwise is None else test.otherwise))
        code = _half(test, 32, _half(test, 0, code, refuse), refuse)
    return code


def _half(test: Test, shift: int, following: bytes, refuse: bytes) -> bytes:
    mask = test.mask >> shift & 0xFFFF_FFFF
    if mask == 0:
        return following
    wanted = sorted({value >> shift & 0xFFFF_FFFF for value in test.values})
    if shift == 32 and len(wanted) != 1:
        raise ValueError("alternatives must agree in their upper half")
    load = _load(16 + 8 * test.argument + shift // 8)
    if mask != 0xFFFF_FFFF:
        load += _instruction(0x54, 0, 0, mask)
    compares = b"".join(_jump_if_equal(value, len(wanted) - at, 0) for at, value in enumerate(wanted[:-1]))
    return load + compares + _jump_if_equal(wanted[-1], 1, 0) + refuse + following


def _segments(actions: Mapping[int, bytes], otherwise: bytes) -> list[tuple[int, bytes]]:
    """(first number, action) for runs of numbers with the same action, covering all of them."""
    segments: list[tuple[int, bytes]] = []
    for number in range(max(actions) + 2):
        action = actions.get(number, otherwise)
        if not segments or segments[-1][1] != action:
            segments.append((number, action))
    return segments


def _tree(segments: list[tuple[int, bytes]]) -> bytes:
    if len(segments) == 1:
        return segments[0][1]
    middle = len(segments) // 2
    left, right = _tree(segments[:middle]), _tree(segments[middle:])
    # A conditional jump reaches 255 instructions, so the far side is reached by an unconditional one.
    return _instruction(0x35, 0, 1, segments[middle][0]) + _instruction(0x05, 0, 0, len(left) // 8) + left + right
