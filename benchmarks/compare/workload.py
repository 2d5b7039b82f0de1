"""What every peer is asked to do, and how a driver answers: a program that prints one line of JSON and ends.

A driver is started anew for each workload, on a store of its own, as `driver WORKLOAD FOLDER`. It is given what it
needs to do the same as the others, and nothing to decide. Imported by drivers in environments of their own: the
standard library and nothing else.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

ALONE, TOGETHER, CROWD, SECONDS, STEPS, SLEEPERS, RUNS, STEPS_EACH = 100, 64, 256, 5.0, 500, 1000, 100, 10
SLEEP_S = 10 * 3600
SETTLED = 5.0
"""Seconds after which a system is at rest, and is looked at for what it keeps."""

Run = Callable[[int], Awaitable[object]]
"""Have a workflow of so many steps run, from its creation to its result."""


def say(**found: object) -> None:
    """What was measured."""
    print(json.dumps(found), flush=True)


async def alone(run: Run) -> None:
    """One workflow of one step after the other: milliseconds, lowest first."""
    samples = []
    for number in range(ALONE + 10):
        began = time.perf_counter()
        await run(1)
        if number >= 10:
            samples.append(1000 * (time.perf_counter() - began))
    say(ms=sorted(samples))


async def together(run: Run, at_once: int = TOGETHER) -> None:
    """As many as can be, so many at once, for some seconds."""
    ended = 0

    async def one(until: float) -> None:
        nonlocal ended
        while time.perf_counter() < until:
            await run(1)
            ended += 1

    await asyncio.gather(*(one(time.perf_counter() + 1) for _ in range(at_once)))
    ended, began = 0, time.perf_counter()
    await asyncio.gather(*(one(began + SECONDS) for _ in range(at_once)))
    say(per_s=ended / (time.perf_counter() - began))


async def crowd(run: Run) -> None:
    """The same, more of them at once."""
    await together(run, CROWD)


async def steps(run: Run) -> None:
    """One workflow of many steps, one after the other."""
    await run(1)
    began = time.perf_counter()
    await run(STEPS)
    say(per_s=STEPS / (time.perf_counter() - began))


def note(path: Path | str, *words: object) -> None:
    """One line for the comparison, in one write: it may be that nothing follows."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.write(descriptor, (" ".join(map(str, words)) + "\n").encode())
    os.close(descriptor)


def resident(pids: list[int]) -> int:
    """Bytes of memory that these processes hold, shared ones divided."""
    total = 0
    for pid in pids:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        total += sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


def stored(folder: Path) -> int:
    """Bytes of disk under a folder."""
    return sum(512 * path.stat().st_blocks for path in folder.rglob("*") if path.is_file())


def descendants(pid: int) -> list[int]:
    """A process and all below it."""
    below = [pid]
    for each in below:
        for task in Path(f"/proc/{each}/task").glob("*/children"):
            below += map(int, task.read_text().split())
    return below


def asked() -> tuple[str, Path]:
    """What a driver is to do, and where."""
    return sys.argv[1], Path(sys.argv[2])
