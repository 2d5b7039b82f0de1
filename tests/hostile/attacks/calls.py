"""System calls by name, for attacks: a tenant has `ctypes`, and so each number there is."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from typing import Final

_NUMBERS: Final = {
    # name: x86-64, arm64
    "acct": (163, 89), "add_key": (248, 217), "adjtimex": (159, 171), "bpf": (321, 280), "bind": (49, 200),
    "capset": (126, 91), "chroot": (161, 51), "clock_settime": (227, 112), "clone": (56, 220), "clone3": (435, 435),
    "connect": (42, 203), "delete_module": (176, 106), "execveat": (322, 281), "fanotify_init": (300, 262),
    "fsopen": (430, 430), "futex": (202, 98), "getcwd": (79, 17), "init_module": (175, 105),
    "inotify_init1": (294, 26), "io_uring_setup": (425, 425), "ioperm": (173, None), "iopl": (172, None),
    "ioprio_set": (251, 30), "kcmp": (312, 272), "kexec_load": (246, 104), "keyctl": (250, 219),
    "landlock_create_ruleset": (444, 444), "mbind": (237, 235), "membarrier": (324, 283), "memfd_create": (319, 279),
    "memfd_secret": (447, 447), "mlock": (149, 228), "modify_ldt": (154, None), "mount": (165, 40),
    "mq_open": (240, 180), "msgget": (68, 186), "name_to_handle_at": (303, 264), "newfstatat": (262, 79),
    "open_tree": (428, 428), "openat2": (437, 437), "perf_event_open": (298, 241), "personality": (135, 92),
    "pidfd_getfd": (438, 438), "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424), "pivot_root": (155, 41),
    "pkey_alloc": (330, 289), "prctl": (157, 167), "prlimit64": (302, 261), "process_madvise": (440, 440),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "ptrace": (101, 117), "quotactl": (179, 60),
    "reboot": (169, 142), "request_key": (249, 218), "rt_sigqueueinfo": (129, 138),
    "sched_setaffinity": (203, 122), "seccomp": (317, 277), "semget": (64, 190), "setdomainname": (171, 162),
    "setrlimit": (160, 164), "sethostname": (170, 161), "setns": (308, 268),
    "settimeofday": (164, 170), "shmat": (30, 196),
    "shmget": (29, 194), "signalfd4": (289, 74), "statx": (332, 291), "swapoff": (168, 225), "swapon": (167, 224),
    "sysinfo": (99, 179), "syslog": (103, 116), "tgkill": (234, 131), "timer_create": (222, 107),
    "timerfd_create": (283, 85), "tkill": (200, 130), "umount2": (166, 39), "uname": (63, 160),
    "unshare": (272, 97), "userfaultfd": (323, 282), "vmsplice": (278, 75),
}  # fmt: skip
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
libc.mmap.restype = ctypes.c_void_p


def checked(result: int) -> int:
    """The result of a C call, or its errno as an `OSError`."""
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def call(name: str, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    """The result of a system call, or its errno as an `OSError`."""
    number = _NUMBERS[name][platform.machine() == "aarch64"]
    if number is None:
        raise OSError(errno.ENOSYS, "this machine has no such call")
    passed = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    return checked(libc.syscall(number, *passed))


def reached(name: str, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> str:
    """The same for what must not be done even where it could be: the kernel goes as far as to find fault with it.

    Being refused for want of rights, or because there is no such call, is still an error.
    """
    try:
        return f"returned {call(name, *arguments)}"
    except OSError as error:
        if error.errno in {errno.EPERM, errno.EACCES, errno.ENOSYS}:
            raise
        return f"answered {error.strerror}"
