"""Sees from outside when a sandbox crosses a limit and when it ends: a process of its own, which asks the kernel alone.

What the host believes does not come into it. It looks each half millisecond, which is how exact it is.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any, NamedTuple, Self

PROGRAM = """
import json, os, select, sys, time

def cpu(pid, seconds):
    "Its CPU clock has reached that."
    clock = (~pid << 3) | 2
    return lambda: time.clock_gettime(clock) >= seconds

def strayed(pid, seconds, uncounted):
    "The same, but for that part of a core all the time; rest is no credit."
    clock = (~pid << 3) | 2
    seen, at, left = time.clock_gettime(clock), time.monotonic(), seconds
    left -= seen
    allowed = left
    def over():
        nonlocal seen, at, left
        used, now = time.clock_gettime(clock), time.monotonic()
        left = min(left + (now - at) * uncounted, allowed) - (used - seen)
        seen, at = used, now
        return left <= 0
    return over

def written(pid, rate, most, weight, kept):
    "What it has written beyond what is kept, counting that much, is more than may come at once and since."
    file = os.open(f"/proc/{pid}/io", os.O_RDONLY)
    def count():
        return int(os.pread(file, 4096, 0).split()[3])
    first, began = count(), time.monotonic()
    return lambda: (count() - first - kept) * weight > most + rate * (time.monotonic() - began)

def charged(pid, file, size):
    "Its control group is charged with as much."
    file = os.open(file, os.O_RDONLY)
    return lambda: int(os.pread(file, 100, 0)) >= size

def closed(pid, number):
    "It has that descriptor no longer."
    return lambda: not os.path.lexists(f"/proc/{pid}/fd/{number}")

def never(pid):
    "Nothing that can be seen."
    return lambda: False

for line in sys.stdin:
    pid, kind, arguments = json.loads(line)
    crossed = None
    try:
        handle = os.pidfd_open(pid)
        poll = select.epoll()
        poll.register(handle, select.EPOLLIN)
        over = globals()[kind](pid, *arguments)
        print("{}", flush=True)
        while not poll.poll(0.0005):
            if crossed is None:
                try:
                    if over():
                        crossed = time.monotonic()
                except (OSError, IndexError, ValueError):
                    pass
        ended = time.monotonic()
        poll.close()
        os.close(handle)
    except OSError:
        print("{}", flush=True)
        ended = time.monotonic()
    print(json.dumps([crossed, ended]), flush=True)
"""


class Seen(NamedTuple):
    """When a limit was crossed, if that could be seen, and when the process ended; both as `time.monotonic` has it."""

    crossed: float | None
    ended: float


class Observer:
    """One process that is watched after the other."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def open(cls) -> Self:
        """Start it."""
        command = [sys.executable, "-I", "-S", "-u", "-c", PROGRAM]
        pipe = asyncio.subprocess.PIPE
        return cls(await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe))

    async def watch(self, pid: int, kind: str, *arguments: float | str) -> None:
        """Watch a process for crossing a limit of a kind, and for its end."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{json.dumps([pid, kind, arguments])}\n".encode())
        await self._read()

    async def seen(self) -> Seen:
        """What became of it, when it has ended."""
        return Seen(*await self._read())

    async def close(self) -> None:
        """End it."""
        self._process.kill()
        await self._process.wait()

    async def _read(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(await self._process.stdout.readline())
