"""Namespaces and the empty root: made once, for the zygote and all its children, except the PID namespace.

Network namespaces cost half a millisecond and long tails each, so one empty one is shared and `socket()` is refused by
the filter. Each child gets a PID namespace of its own: it is process 1 there, sees nobody and takes all down with it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

from . import kernel

NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = (
    0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
SHARED: Final = {"mount": NEWNS, "net": NEWNET, "ipc": NEWIPC, "uts": NEWUTS, "cgroup": NEWCGROUP}
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT, _MS_REC, _MS_PRIVATE = 1, 2, 4, 8, 32, 16384, 1 << 18
_MNT_DETACH = 2
_NS_GET_USERNS = 0xB701
_PIVOT_ROOT: Final = {"x86_64": 155, "aarch64": 41}


_WHY_NOT: Final = {
    errno.ENOSPC: "user namespaces are used up, or switched off by sysctl user.max_user_namespaces",
    errno.EPERM: "user namespaces are not permitted, by sysctl kernel.unprivileged_userns_clone, "
    "kernel.apparmor_restrict_unprivileged_userns, or the container's profile",
}


def enter_user() -> None:
    """Become root of a user namespace that maps one id: the way to all other namespaces without privileges."""
    if number := _try(_enter_user):
        raise OSError(number, _WHY_NOT.get(number, os.strerror(abs(number))))
    _enter_user()


def _try(attempt: Callable[[], None]) -> int:
    """Have a child try it first, since there is no way back from half way: 0, or the number of the error."""
    child = os.fork()
    if not child:
        try:
            attempt()
        except OSError as error:
            os._exit(error.errno or errno.EPERM)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _enter_user() -> None:
    uid, gid = os.getuid(), os.getgid()
    kernel.unshare(NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")


def may_return() -> bool:
    """Whether who has left its PID namespace may come back: not to one that a user namespace above its own has made.
    That is where somebody is root of a user namespace and of nothing else. Needs /proc."""
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.close(fcntl.ioctl(own, _NS_GET_USERNS))
    except OSError as error:  # of a system that does not tell, the layer of the processes finds out
        return not isinstance(error, PermissionError)
    finally:
        os.close(own)
    return True


def become_first_process() -> None:
    """Go on as process 1 of a new PID namespace; the process that called stays behind, waits, and ends the same way."""
    kernel.unshare(NEWPID)
    child = os.fork()
    if child:
        kernel.close_from(3)
        signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGKILL))
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0x7F)
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)


def enter_shared(kind: str) -> None:
    """Enter one of the namespaces that the zygote and its children share."""
    kernel.unshare(SHARED[kind])
    if kind == "uts":
        socket.sethostname("sandbox")


def empty_root() -> None:
    """Make an empty read-only directory the root of everything. Needs the mount namespace."""
    kernel.mount(None, b"/", None, _MS_REC | _MS_PRIVATE)
    place = b"/tmp"  # any directory will do: the empty one is mounted over it and then becomes the root
    flags = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    kernel.mount(b"none", place, b"tmpfs", flags, b"size=4k,nr_inodes=4,mode=0555")
    os.chdir(place)
    kernel.syscall(_PIVOT_ROOT[kernel.MACHINE], b".", b".")
    kernel.umount(b".", _MNT_DETACH)
    os.chdir("/")
    kernel.mount(None, b"/", None, flags | _MS_REMOUNT | _MS_RDONLY, b"size=4k,nr_inodes=4,mode=0555")


class PidNamespaces:
    """Forks children into PID namespaces of their own. Open it before the root is emptied: it needs /proc once."""

    def __init__(self) -> None:
        self._own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        if number := _try(self._go_and_return):
            os.close(self._own)
            raise OSError(number, os.strerror(abs(number)))

    def _go_and_return(self) -> None:
        if not (pid := self.fork()):
            os._exit(0)
        os.waitpid(pid, 0)

    def fork(self) -> int:
        """Like `os.fork`, and the child is process 1 of a new namespace."""
        self.leave()
        try:
            pid = os.fork()
        except OSError:
            self.return_home()
            raise
        if pid:  # it could not leave a second time before it has come home from the first
            self.return_home()
        return pid

    def leave(self) -> None:
        """Make a new namespace, for the next child."""
        kernel.unshare(NEWPID)

    def return_home(self) -> None:
        """Have the next child in our own namespace."""
        kernel.setns(self._own, NEWPID)


def fork(spaces: PidNamespaces | None) -> int:
    """Like `os.fork`, and the child is in a namespace of its own where there are such."""
    return os.fork() if spaces is None else spaces.fork()
