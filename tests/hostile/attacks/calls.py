"""System calls by name, for attacks: a tenant has `ctypes`, and so each number there is."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from typing import Final

_NUMBERS: Final = {
    # name: x86-64, arm64
    "acct": (163, 89), "add_key": (248, 217), "adjtimex": (159, 171), "arch_prctl": (158, None), "bind": (49, 200),
    "bpf": (321, 280), "cachestat": (451, 451), "capset": (126, 91), "chroot": (161, 51), "clock_settime": (227, 112),
    "clone": (56, 220), "clone3": (435, 435), "connect": (42, 203), "delete_module": (176, 106), "dup3": (292, 24),
    "epoll_pwait2": (441, 441), "execveat": (322, 281), "exit": (60, 93), "fadvise64": (221, 223),
    "fanotify_init": (300, 262), "flock": (73, 32), "fsconfig": (431, 431), "fsopen": (430, 430),
    "fspick": (433, 433), "futex": (202, 98), "futex_wait": (455, 455), "futex_waitv": (449, 449),
    "futex_wake": (454, 454), "get_robust_list": (274, 100), "getcwd": (79, 17), "getitimer": (36, 102),
    "getpriority": (140, 141), "init_module": (175, 105), "inotify_init1": (294, 26), "io_uring_setup": (425, 425),
    "ioperm": (173, None), "iopl": (172, None), "ioprio_get": (252, 31), "ioprio_set": (251, 30), "kcmp": (312, 272),
    "kexec_load": (246, 104), "keyctl": (250, 219), "landlock_add_rule": (445, 445),
    "landlock_create_ruleset": (444, 444), "lsm_get_self_attr": (459, 459), "mbind": (237, 235),
    "membarrier": (324, 283), "memfd_create": (319, 279), "memfd_secret": (447, 447), "migrate_pages": (256, 238),
    "mincore": (27, 232), "mlock": (149, 228), "mlockall": (151, 230), "modify_ldt": (154, None), "mount": (165, 40),
    "mount_setattr": (442, 442), "move_pages": (279, 239), "mq_open": (240, 180), "mq_unlink": (241, 181),
    "mseal": (462, 462), "msgget": (68, 186), "name_to_handle_at": (303, 264), "newfstatat": (262, 79),
    "open_by_handle_at": (304, 265), "open_tree": (428, 428), "openat2": (437, 437), "perf_event_open": (298, 241),
    "personality": (135, 92), "pidfd_getfd": (438, 438), "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424),
    "pivot_root": (155, 41), "pkey_alloc": (330, 289), "prctl": (157, 167), "preadv2": (327, 286),
    "prlimit64": (302, 261), "process_madvise": (440, 440), "process_mrelease": (448, 448),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "ptrace": (101, 117), "quotactl": (179, 60),
    "quotactl_fd": (443, 443), "reboot": (169, 142), "request_key": (249, 218), "rseq": (334, 293),
    "rt_sigqueueinfo": (129, 138), "sched_getattr": (315, 275), "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274), "seccomp": (317, 277), "semget": (64, 190), "set_mempolicy": (238, 237),
    "set_mempolicy_home_node": (450, 450), "set_tid_address": (218, 96), "setdomainname": (171, 162),
    "setfsuid": (122, 151), "sethostname": (170, 161), "setns": (308, 268), "setrlimit": (160, 164),
    "settimeofday": (164, 170), "shmat": (30, 196), "shmget": (29, 194), "signalfd4": (289, 74),
    "statmount": (457, 457), "statx": (332, 291), "swapoff": (168, 225), "swapon": (167, 224), "sync": (162, 81),
    "sync_file_range": (277, 84), "sysinfo": (99, 179), "syslog": (103, 116), "tee": (276, 77), "tgkill": (234, 131),
    "timer_create": (222, 107), "timerfd_create": (283, 85), "tkill": (200, 130), "umount2": (166, 39),
    "uname": (63, 160), "unshare": (272, 97), "userfaultfd": (323, 282), "vhangup": (153, 58), "vmsplice": (278, 75),
    "waitid": (247, 95),
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
