"""What a process weighs, its part of the kernel's memory included; and a bare forked interpreter to hold it against.

The kernel keeps more for a process than its proportional set size says: a stack of its own for each thread, and the
page tables that map what it uses. Both are counted here for each process. Where the process has a control group, what
the kernel has charged to that since it joined is read as well: the same and more (descriptors, sockets, the process
itself), but without what was made before it joined, such as its first page tables.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import fmean

from cloister.sandbox.guest import library, native

KIB = 1024
KERNEL_STACK = 16 * KIB  # on x86-64 and arm64

FORKER = """
import gc, importlib, os, sys, time
sys.modules.update(dict.fromkeys(sys.argv[3].split()))
for name in sys.argv[2].split():
    try:
        importlib.import_module(name)
    except ImportError:
        pass
gc.collect(); gc.freeze()
print("ready", flush=True)
children = []
for _ in range(int(sys.argv[1])):
    read, write = os.pipe()
    began = time.perf_counter()
    child = os.fork()
    if child == 0:
        os.write(write, b"1")
        os.close(read); os.close(write)
        if sys.argv[4] == "keep":
            sys.stdin.buffer.raw.read(1)
        os._exit(0)
    os.read(read, 1)
    taken = time.perf_counter() - began
    os.close(read); os.close(write)
    if sys.argv[4] == "keep":
        children.append(child)
    else:
        os.waitpid(child, 0)
    print(taken, time.perf_counter() - began, child)
print("all", flush=True)
sys.stdin.buffer.raw.read(1)
for child in children:
    os.kill(child, 9)
    os.waitpid(child, 0)
"""
"""Forks an interpreter that has imported as much as a zygote has, up to one byte from each child."""


@dataclass(frozen=True)
class Weight:
    """What one process takes, in bytes. `group` is 0 where no control group counts the kernel's memory."""

    pss: float
    private: float
    stacks: float
    tables: float
    group: float

    @property
    def total(self) -> float:
        """What it costs the machine: its share of pages, and what the kernel keeps for it alone."""
        return self.pss + self.stacks + self.tables


@dataclass(frozen=True)
class Fork:
    """One fork: seconds to the child's first byte, seconds until it was reaped (if it was), and the child."""

    first_byte: float
    whole: float
    pid: int


def weigh(pid: int) -> Weight | None:
    """One process; None if it is gone. `PermissionError` if it is a sandbox, and this is not root."""
    try:
        rollup = _fields(f"/proc/{pid}/smaps_rollup")
        status = _fields(f"/proc/{pid}/status")
        private = rollup["Private_Clean"] + rollup["Private_Dirty"]
        return Weight(
            rollup["Pss"] * KIB, private * KIB, status["Threads"] * KERNEL_STACK, status["VmPTE"] * KIB, _charged(pid)
        )
    except PermissionError as error:
        raise PermissionError("only root may weigh sandboxes, whose processes are closed to others") from error
    except (OSError, KeyError):
        return None


def mean(pids: list[int], *, most: int = 200) -> Weight:
    """The mean of many, or of so many of them, evenly spread."""
    found = [weight for pid in pids[:: max(len(pids) // most, 1)] if (weight := weigh(pid)) is not None]
    return Weight(**{part.name: fmean(getattr(each, part.name) for each in found) for part in fields(Weight)})


def resident(pid: int) -> int:
    """The resident memory of a process in bytes; 0 is this one."""
    return int(Path(f"/proc/{pid or 'self'}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def children(pid: int) -> list[int]:
    """The processes that a process has made and not yet reaped."""
    found: list[int] = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            found += map(int, (thread / "children").read_text().split())
    return found


def descendants() -> list[int]:
    """The processes of this one, and theirs: zygotes and what they have forked."""
    found = children(os.getpid())
    for pid in found:  # which grows meanwhile
        with contextlib.suppress(OSError):
            found += children(pid)
    return found


def descriptors(pid: int | str = "self") -> int:
    """How many descriptors a process holds."""
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - the names alone, and quickly


@contextlib.contextmanager
def bare_forks(count: int, *, keep: bool = False) -> Iterator[list[Fork]]:
    """So many forks of a bare interpreter; with `keep`, all are alive inside the block."""
    imports = " ".join((*library.EAGER, *native.names(), "msgpack"))
    command = [sys.executable, "-I", "-c", FORKER, str(count), imports, " ".join(native.ABSENT), "keep" * keep]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as forker:
        assert forker.stdout is not None
        assert forker.stdin is not None
        assert forker.stdout.readline() == "ready\n"
        found = []
        while (line := forker.stdout.readline()) not in {"all\n", ""}:
            first_byte, whole, pid = line.split()
            found.append(Fork(float(first_byte), float(whole), int(pid)))
        if len(found) < count:
            raise RuntimeError(f"the bare interpreter was forked {len(found)} times and no more")
        yield found
        forker.stdin.close()


def _fields(path: str) -> dict[str, int]:
    """The numbers of a file of the kernel's, by name."""
    return {name: int(number) for name, number in re.findall(r"^(\w+):\s+(\d+)", Path(path).read_text(), re.MULTILINE)}


def _charged(pid: int) -> float:
    """What the kernel has charged for itself to the control group of a process, whichever version counts memory."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        with contextlib.suppress(OSError):
            if "memory" in controllers.split(","):
                place = Path("/sys/fs/cgroup/memory", path.lstrip("/"), "memory.kmem.usage_in_bytes")
                return float(place.read_text())
            if not controllers:
                told = Path("/sys/fs/cgroup", path.lstrip("/"), "memory.stat").read_text()
                return float(dict(line.split() for line in told.splitlines())["kernel"])
    return 0.0
