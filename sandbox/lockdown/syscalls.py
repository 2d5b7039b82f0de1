"""Numbers of the system calls that the filter names, by machine. A machine that is not here cannot be confined."""

from __future__ import annotations

from typing import Final

NUMBERS: Final[dict[str, dict[str, int]]] = {
    "x86_64": {
        "accept4": 288, "access": 21, "acct": 163, "add_key": 248, "bpf": 321, "brk": 12, "chdir": 80,
        "chroot": 161, "clock_getres": 229, "clock_gettime": 228, "clock_nanosleep": 230, "clone": 56,
        "clone3": 435, "close": 3, "delete_module": 176, "dup": 32, "epoll_create1": 291, "epoll_ctl": 233,
        "epoll_pwait": 281, "epoll_pwait2": 441, "epoll_wait": 232, "eventfd2": 290, "exit": 60,
        "exit_group": 231, "faccessat": 269, "faccessat2": 439, "fcntl": 72, "finit_module": 313,
        "fsmount": 432, "fsopen": 430, "fstat": 5, "futex": 202, "getdents64": 217, "getegid": 108,
        "geteuid": 107, "getgid": 104, "getpeername": 52, "getpid": 39, "getppid": 110, "getrandom": 318,
        "getrusage": 98, "getsockname": 51, "getsockopt": 55, "gettid": 186, "gettimeofday": 96,
        "getuid": 102, "init_module": 175, "ioctl": 16, "ioperm": 173, "iopl": 172, "kexec_file_load": 320,
        "kexec_load": 246, "keyctl": 250, "lseek": 8, "lstat": 6, "madvise": 28, "mmap": 9, "mount": 165,
        "move_mount": 429, "mprotect": 10, "mremap": 25, "munmap": 11, "nanosleep": 35, "newfstatat": 262,
        "open": 2, "open_tree": 428, "openat": 257, "openat2": 437, "perf_event_open": 298, "pipe2": 293,
        "pivot_root": 155, "poll": 7, "ppoll": 271, "prctl": 157, "prlimit64": 302, "process_vm_readv": 310,
        "process_vm_writev": 311, "pselect6": 270, "ptrace": 101, "read": 0, "readlink": 89,
        "readlinkat": 267, "readv": 19, "reboot": 169, "recvfrom": 45, "request_key": 249,
        "restart_syscall": 219, "rseq": 334, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15,
        "sched_getaffinity": 204, "sched_yield": 24, "select": 23, "sendto": 44, "set_robust_list": 273,
        "setns": 308, "setrlimit": 160, "setsockopt": 54, "shutdown": 48, "sigaltstack": 131,
        "socketpair": 53, "stat": 4, "statx": 332, "swapoff": 168, "swapon": 167, "tgkill": 234, "time": 201,
        "times": 100, "umask": 95, "umount2": 166, "unshare": 272, "userfaultfd": 323, "write": 1,
        "writev": 20,
    },
    "aarch64": {
        "accept4": 242, "acct": 89, "add_key": 217, "bpf": 280, "brk": 214, "chdir": 49, "chroot": 51,
        "clock_getres": 114, "clock_gettime": 113, "clock_nanosleep": 115, "clone": 220, "clone3": 435,
        "close": 57, "delete_module": 106, "dup": 23, "epoll_create1": 20, "epoll_ctl": 21, "epoll_pwait": 22,
        "epoll_pwait2": 441, "eventfd2": 19, "exit": 93, "exit_group": 94, "faccessat": 48, "faccessat2": 439,
        "fcntl": 25, "finit_module": 273, "fsmount": 432, "fsopen": 430, "fstat": 80, "futex": 98,
        "getdents64": 61, "getegid": 177, "geteuid": 175, "getgid": 176, "getpeername": 205, "getpid": 172,
        "getppid": 173, "getrandom": 278, "getrusage": 165, "getsockname": 204, "getsockopt": 209,
        "gettid": 178, "gettimeofday": 169, "getuid": 174, "init_module": 105, "ioctl": 29,
        "kexec_file_load": 294, "kexec_load": 104, "keyctl": 219, "lseek": 62, "madvise": 233, "mmap": 222,
        "mount": 40, "move_mount": 429, "mprotect": 226, "mremap": 216, "munmap": 215, "nanosleep": 101,
        "newfstatat": 79, "open_tree": 428, "openat": 56, "openat2": 437, "perf_event_open": 241, "pipe2": 59,
        "pivot_root": 41, "ppoll": 73, "prctl": 167, "prlimit64": 261, "process_vm_readv": 270,
        "process_vm_writev": 271, "pselect6": 72, "ptrace": 117, "read": 63, "readlinkat": 78, "readv": 65,
        "reboot": 142, "recvfrom": 207, "request_key": 218, "restart_syscall": 128, "rseq": 293,
        "rt_sigaction": 134, "rt_sigprocmask": 135, "rt_sigreturn": 139, "sched_getaffinity": 123,
        "sched_yield": 124, "sendto": 206, "set_robust_list": 99, "setns": 268, "setrlimit": 164,
        "setsockopt": 208, "shutdown": 210, "sigaltstack": 132, "socketpair": 199, "statx": 291,
        "swapoff": 225, "swapon": 224, "tgkill": 131, "times": 153, "umask": 166, "umount2": 39,
        "unshare": 97, "userfaultfd": 282, "write": 64, "writev": 66,
    },
}  # fmt: skip
