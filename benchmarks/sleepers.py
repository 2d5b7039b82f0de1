"""What instances cost that only sleep: bytes on disk, the host's memory, and the time that a host needs to begin.

The limit is a bare table with one row for each, with ids of the same kind and an index on them. Then time passes and
all of them are due at once: how many end a second, and how long one of another tenant's takes in the midst of it.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import psutil
from harness import listing, main, options, say

from cloister.engine import Engine, WorkflowEntrypoint
from cloister.engine.clock import SystemClock

TENANTS = 100
MIB = 2**20


class Sleeper(WorkflowEntrypoint):
    """Sleeps for thirty days, unless its params say otherwise."""

    async def run(self, event: Any, step: Any) -> None:
        """The workflow."""
        if event.payload["sleep"]:
            await step.sleep("a long night", "30 days")
        await step.do("awake", lambda: None)


class Shifted(SystemClock):
    """Real time, some days later."""

    def __init__(self, days: int) -> None:
        self._shift = days * 86_400_000

    def now(self) -> int:
        """Wall time in milliseconds."""
        return super().now() + self._shift


def resident() -> float:
    """What this process holds, in MiB."""
    return float(psutil.Process().memory_info().rss) / MIB


async def put_to_sleep(path: Path, count: int) -> float:
    """Create so many and see them parked; how many a second."""
    async with Engine(path, linger=0.005) as engine:
        workflow = engine.workflow("sleepers", Sleeper, concurrency=1_000)
        began = time.perf_counter()
        for start in range(0, count, 100):
            entries = [{"params": {"sleep": True}}] * 100
            await workflow.create_batch(entries, scope=f"tenant-{start // 100 % TENANTS}")
            while start - engine.statistics().parked > 5_000:
                await asyncio.sleep(0.01)
        while engine.statistics().parked < count:
            await asyncio.sleep(0.01)
        return count / (time.perf_counter() - began)


async def begin_with_them(path: Path) -> tuple[float, float, float]:
    """Seconds to open the engine and to the first instance's end; and by how much the process grew, in MiB."""
    before, began = resident(), time.perf_counter()
    async with Engine(path) as engine:
        workflow = engine.workflow("sleepers", Sleeper)
        opened = time.perf_counter() - began
        await (await workflow.create(params={"sleep": False}, scope="newcomer")).result()
        return opened, time.perf_counter() - began, resident() - before


async def wake_them(path: Path, count: int) -> tuple[float, float]:
    """All are due: seconds until the last one has ended, and the longest that a newcomer took meanwhile."""
    async with Engine(path, clock=Shifted(31)) as engine:
        began = time.perf_counter()
        workflow = engine.workflow("sleepers", Sleeper)
        longest = 0.0
        while engine.statistics().finished < count:
            asked = time.perf_counter()
            await (await workflow.create(params={"sleep": False}, scope="newcomer")).result()
            longest = max(longest, time.perf_counter() - asked)
            await asyncio.sleep(0.05)
        return time.perf_counter() - began, longest


def bare(path: Path, count: int) -> tuple[float, float]:
    """The limit: bytes for a row with an id, and seconds to open such a file and find one."""
    base = sqlite3.connect(path)
    base.execute("CREATE TABLE sleeper (id TEXT PRIMARY KEY, wake INTEGER)")
    with base:
        base.executemany("INSERT INTO sleeper VALUES (?, ?)", ((str(uuid.uuid4()), n) for n in range(count)))
    base.close()
    began = time.perf_counter()
    base = sqlite3.connect(path)
    base.execute("SELECT * FROM sleeper WHERE id = 'nobody'").fetchall()
    base.close()
    return path.stat().st_size / count, time.perf_counter() - began


async def benchmark() -> None:
    """Everything above, one after the other."""
    count = options(__doc__, sleepers=100_000).sleepers // 100 * 100
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCHMARK_FOLDER")) as name:
        path = Path(name, "sleepers.db")
        parked = await put_to_sleep(path, count)
        size = path.stat().st_size / count
        opened, first, grown = await begin_with_them(path)
        whole = resident()
        row, found = bare(Path(name, "bare.db"), count)
        lasted, longest = await wake_them(path, count)
    say(f"{count:,} sleepers")
    listing(
        "sleepers",
        ["figure", "result", "limit"],
        [
            ["put to sleep, a second", f"{parked:,.0f}", ""],
            ["bytes on disk, each", f"{size:,.0f}", f"{row:,.0f}"],
            ["opened, ms", f"{opened * 1000:,.0f}", f"{found * 1000:,.1f}"],
            ["first instance ended, ms", f"{first * 1000:,.0f}", ""],
            ["the host grew by, MiB", f"{grown:,.1f}", ""],
            ["the host as a whole, MiB", f"{whole:,.1f}", ""],
            ["all due at once: ended, a second", f"{count / lasted:,.0f}", ""],
            ["meanwhile, a newcomer at the longest, ms", f"{longest * 1000:,.0f}", ""],
        ],
    )


if __name__ == "__main__":
    main(benchmark)
