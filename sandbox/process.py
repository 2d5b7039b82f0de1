"""One sandboxed process as the host holds it: a pidfd, a way to end it, and words for how it ended.

Signals go through the pidfd and never to a number, which could be somebody else's by then. The number is used to read,
and to say when and where its threads run, just after it was seen alive.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import resource
import select
import signal
import time
from typing import Final, NamedTuple

import psutil

from .errors import SandboxUnavailable
from .exits import CUT_OFF, NOT_CONFINED, OUT_OF_MEMORY
from .lockdown import identity, kernel
from .lockdown.shares import Rank

_PID: Final = re.compile(rb"^Pid:\s*(\d+)$", re.MULTILINE)
_TABLES: Final = re.compile(rb"^VmPTE:\s*(\d+) kB$", re.MULTILINE)
FROM_OUTSIDE: Final = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})
"""Signals that are sent, mostly by somebody else, and do not come of what a process does."""
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_GIVES_WAY: Final = 10
"""Its nice value: a tenth of the time of those with 0, when there is not enough for all."""


_ASLEEP: Final = 0.0005
"""Seconds of CPU that a process with many threads uses before they are all looked at again: it may have them sleep."""
_CORE: Final = 36
"""Which word of its `stat`, after its name, is the core that it is on."""
_FLAGS: Final = 6
"""Which word of it there are the flags of a thread."""
_EXITING: Final = 4
"""Among these: it is on its way out, and the kernel lets go of what it had (`PF_EXITING`)."""
_ROUNDS: Final = 8
"""How often at most its threads are told where to be, those that were made meanwhile by others not told yet: an honest
process has hardly any, and the others would make some for ever."""
_NICE_FOR_ALL: Final = 20
"""From which limit on everybody may have a nice value of 0 again; below 0 there is none."""


def require_handles() -> None:
    """`SandboxUnavailable` where a process cannot be held by a descriptor: nothing could be ended for certain."""
    try:
        pidfd = os.pidfd_open(os.getpid())
        try:
            signal.pidfd_send_signal(pidfd, 0)
        finally:
            os.close(pidfd)
    except OSError as error:
        if error.errno not in {errno.ENOSYS, errno.EPERM}:
            raise
        raise SandboxUnavailable(
            f"a process cannot be held by a descriptor here ({error.strerror}): none could be ended for certain; it "
            "takes a kernel of 5.3 or newer, and in a container a seccomp profile that lets pidfd_open and "
            "pidfd_send_signal through"
        ) from error


@functools.cache
def _rules_priorities() -> bool:
    return identity.rules_priorities()


class Share(NamedTuple):
    """What the first thread of a process has had of a core, so far: the one on whose loop it answers."""

    had: float
    """Seconds of CPU."""
    lacked: float
    """Seconds for which it could have gone on, and had to wait for a core."""
    wants: bool
    """Whether it goes on now, or waits so: for how long is known only when it has one."""
    beside: float = 0.0
    """Seconds of CPU that the other threads of the process had."""


class Process:
    """A process that the zygote has forked."""

    def __init__(self, pidfd: int) -> None:
        self._pidfd = pidfd
        found = _PID.search(kernel.read(f"/proc/self/fdinfo/{pidfd}"))
        self.pid = int(found[1]) if found else 0
        self._cpu_clock = (~self.pid << 3) | 2
        self._waits: dict[str, int] = {}
        self._waited = 0
        self._waits_at = 0.0
        self._cores: set[int] = set()  # it may use, when it is not told to stay on one

    def kill(self) -> None:
        """End it now. Harmless when it has ended, or is closed."""
        if self._pidfd >= 0:
            try:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            except ProcessLookupError:
                return

    def rank(self, rank: Rank) -> None:
        """Let everybody else go first, all its threads; or no longer, which only root may undo. For a host that has no
        control groups for it."""
        if self.alive():  # then its number is its own, and the group it leads is its own too
            nice = 0 if rank is Rank.FIRST else _GIVES_WAY
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PGRP, self.pid, nice)
            with contextlib.suppress(OSError):  # where each session has its share, the session has to give way too
                kernel.write(f"/proc/{self.pid}/autogroup", b"%d" % nice)

    def stay(self, stays: bool) -> None:
        """Keep all its threads on the core where the first one is, and those that these make; or let them go where
        there is room again. One that is being made just then may be missed until the next time."""
        if not self.alive():  # see `rank`
            return
        with contextlib.suppress(OSError, IndexError, ValueError):
            if not self._cores:
                self._cores = os.sched_getaffinity(self.pid)
            cores = self._cores
            if stays:
                cores = {int(kernel.read(f"/proc/{self.pid}/stat").rpartition(b") ")[2].split()[_CORE])}
            told: set[str] = set()
            for _ in range(_ROUNDS):
                if not (untold := set(self._threads()) - told):
                    return
                for thread in untold:
                    with contextlib.suppress(OSError):
                        os.sched_setaffinity(int(thread), cores)
                told |= untold

    @staticmethod
    def may_rise() -> bool:
        """Whether a nice value can be taken back."""
        limit, _ = resource.getrlimit(resource.RLIMIT_NICE)
        return _rules_priorities() or not 0 <= limit < _NICE_FOR_ALL

    def alive(self) -> bool:
        """Whether the kernel says that it lives."""
        if self._pidfd < 0:
            return False
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return not poll.poll(0)

    def is_over(self) -> bool:
        """Whether it has ended, or all its threads are on their way out: nothing changes any longer of what. One has
        left them all before its end of a connection is gone, and on a busy machine long before it has ended."""
        try:
            threads = self._threads()
            words = [kernel.read(f"/proc/{self.pid}/task/{each}/stat").rpartition(b") ")[2] for each in threads]
            over = bool(words) and all(int(found.split()[_FLAGS]) & _EXITING for found in words)
            over = over and set(threads).issuperset(self._threads())  # else the last one of them has made another
        except (OSError, ValueError, IndexError):  # one has just ended, or nobody may look
            over = False
        return over or not self.alive()

    def cpu_seconds(self) -> float:
        """CPU time of all its threads since it was forked; 0 when it has ended."""
        try:
            return time.clock_gettime(self._cpu_clock)
        except OSError:
            return 0.0

    def wanted_seconds(self) -> float:
        """The same, and the time for which its threads could have gone on and had to wait for a core. 0 when it has
        ended."""
        cpu = self.cpu_seconds()
        if cpu and cpu == self._waits_at:  # no thread has had a core since, and a wait is counted when it ends with one
            return cpu + self._waited / 1e9
        threads = self.threads()
        if threads > 1 and abs(cpu - self._waits_at) < _ASLEEP:
            return cpu + self._waited / 1e9
        self._waits_at = cpu
        waits: dict[str, int] = {}
        for thread in self._threads(threads):
            with contextlib.suppress(OSError, IndexError):
                waits[thread] = int(kernel.read(f"/proc/{self.pid}/task/{thread}/schedstat").split()[1])
                self._waited += waits[thread] - self._waits.get(thread, 0)
        self._waits = waits  # of those that have ended it is not taken off again
        return cpu + self._waited / 1e9 if waits else 0.0

    def waits(self) -> bool:
        """Whether a thread of its could go on now, if it had a core or since it has one."""
        for thread in self._threads():
            with contextlib.suppress(OSError):
                if kernel.read(f"/proc/{self.pid}/task/{thread}/stat").rpartition(b") ")[2].startswith(b"R"):
                    return True
        return False

    def share(self) -> Share:
        """Of whether something takes it long because of itself, or because the machine is busy. All nothing where the
        kernel does not say."""
        try:
            had, lacked, _ = kernel.read(f"/proc/{self.pid}/schedstat").split()
            state = kernel.read(f"/proc/{self.pid}/stat").rpartition(b") ")[2]
            had_s = int(had) / 1e9
            beside = max(self.cpu_seconds() - had_s, 0.0)
            return Share(had_s, int(lacked) / 1e9, state.startswith(b"R"), beside)
        except (OSError, ValueError):
            return Share(0.0, 0.0, False)

    def _threads(self, count: int | None = None) -> list[str]:
        """Their numbers; `count` says how many there are, if that was just seen."""
        if (self.threads() if count is None else count) == 1:  # most have no other, and this is asked often
            return [str(self.pid)]
        try:
            return os.listdir(f"/proc/{self.pid}/task")  # noqa: PTH208 - looked at often
        except OSError:
            return []

    def threads(self) -> int:
        """How many it has, 0 when it has ended."""
        try:
            return os.stat(f"/proc/{self.pid}/task").st_nlink - 2  # noqa: PTH116 - looked at often
        except OSError:
            return 0

    def table_bytes(self) -> int:
        """What the kernel takes to know which page of its is where; 0 when it has ended."""
        try:
            found = _TABLES.search(kernel.read(f"/proc/{self.pid}/status"))
        except OSError:
            return 0
        return int(found[1]) << 10 if found else 0

    def memory_bytes(self) -> int:
        """Its proportional share of memory, 0 when it has ended or may not be looked at."""
        try:
            return int(psutil.Process(self.pid).memory_full_info().pss)
        except (psutil.Error, OSError):
            return 0

    def resident_bytes(self) -> int:
        """What it has in memory, shared or not, which everybody may look at; 0 when it has ended."""
        try:
            return int(kernel.read(f"/proc/{self.pid}/statm").split()[1]) * _PAGE
        except (OSError, IndexError):
            return 0

    def close(self) -> None:
        """Let go of the pidfd."""
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


def describe(status: int, *, memory_bytes: int, killed_for_memory: bool, confined: bool = True) -> str:
    """How a process ended, in words. `status` is the exit code, or minus the signal."""
    if killed_for_memory:
        return f"exceeded {memory_bytes >> 20:,} MiB of memory"
    if status == NOT_CONFINED and not confined:
        return "could not be confined, and was ended before it knew anything"
    if status == OUT_OF_MEMORY:
        return f"had no memory left to answer with; it may use {memory_bytes >> 20:,} MiB"
    if status == CUT_OFF:
        return "closed its connection"
    if status >= 0:
        return f"exited with {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"was killed by {name}" + (": it made a system call that nothing needs" if name == "SIGSYS" else "")
