"""Who the process is: ids of its own where the host may give them, no capabilities and no way to gain any."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import struct
from pathlib import Path
from typing import Final

from . import kernel

_CAPSET: Final = {"x86_64": 126, "aarch64": 91}
_HEADER: Final = ctypes.create_string_buffer(struct.pack("=Ii", 0x20080522, 0))  # version 3, this thread
_NOTHING: Final = ctypes.create_string_buffer(24)
_SIGKILL: Final = int(signal.SIGKILL)
_SECURE: Final = 0b1110_1011
"""Each with its lock: uid 0 means nothing to execve, a change of ids drops what is held and nothing keeps it, and no
capability becomes ambient."""
SETGID, SETUID, SYS_ADMIN, SYS_NICE = 6, 7, 21, 23
_ALL_IDS: Final = ["0", "0", str(2**32 - 1)]
FIRST_ID, LAST_ID = 2_000_000_000, 2_100_000_000
"""Where the ids of sandboxes are taken from, for users and groups alike: nobody else has such."""


def capabilities_held() -> frozenset[int]:
    """What this process may do now: a root in a container may do little. Read before /proc is gone."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            bits = int(line.split()[1], 16)
            return frozenset(number for number in range(64) if bits >> number & 1)
    return frozenset()


def has_ids_to_give() -> bool:
    """Whether the ids that sandboxes get exist here: in most containers they end far below. Needs /proc."""
    for file in ("/proc/self/uid_map", "/proc/self/gid_map"):
        ranges = [tuple(map(int, line.split())) for line in Path(file).read_text().splitlines()]
        if not any(first <= FIRST_ID and first + count > LAST_ID for first, _, count in ranges):
            return False
    return True


def rules_priorities() -> bool:
    """Whether this process may let others go first again whom it has held back. The right to it counts only outside of
    user namespaces, and root of a container has it seldom."""
    return SYS_NICE in capabilities_held() and Path("/proc/self/uid_map").read_text().split() == _ALL_IDS


def last_capability() -> int:
    """The highest capability that this kernel knows. Read before /proc is gone."""
    return int(Path("/proc/sys/kernel/cap_last_cap").read_text())


def empty_bounding_set(last: int) -> None:
    """No capability can come back by executing a program, in this process or any that it forks."""
    kernel.prctl(kernel.PR_SET_SECUREBITS, _SECURE)
    for capability in range(last + 1):
        kernel.prctl(kernel.PR_CAPBSET_DROP, capability)


def drop_capabilities() -> None:
    """Give up every capability."""
    kernel.syscall(_CAPSET[kernel.MACHINE], _HEADER, _NOTHING)


def become(uid: int) -> None:
    """Take on a user and group id that nobody else has."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def die_with_parent(parent: int) -> None:
    """Be killed when the zygote goes. Asked for after the change of ids, which clears it.

    The zygote may have gone before that, and in a namespace of its own a process cannot see its parent: the zygote's
    pidfd tells. It is closed then.
    """
    kernel.prctl(kernel.PR_SET_PDEATHSIG, _SIGKILL)
    poll = select.poll()  # `select` would take three more pages of the stack
    poll.register(parent, select.POLLIN)
    if poll.poll(0):
        os._exit(1)
    os.close(parent)


def hide() -> None:
    """Not dumpable: no core, no ptrace, and /proc/<pid> closed to others of the same uid."""
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)


def renounce() -> None:
    """`no_new_privs`: no program that is executed can ever give more than there is."""
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
