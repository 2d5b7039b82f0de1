"""Ten thousand timers of a hundred tenants, due at the same moment, in real sandboxes: whether one is early, how late
they are, and whether a tenant has to wait for the others.

All are put to sleep until a moment a year ahead; then the engine's clock is set forward to a little before it. The
limit is the same number of timers of a bare event loop.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from harness import listing, main, options, percentile, say

from cloister.engine import Engine
from cloister.engine.clock import SystemClock
from cloister.loader import Host, RpcTarget, WorkerCode

YEAR_MS, AHEAD_MS = 365 * 86_400_000 - 3_600_000, 3_000
SOURCE = """
from workers import WorkflowEntrypoint

class TenantWorkflow(WorkflowEntrypoint):
    async def run(self, event, step):
        await step.sleep_until("due", event.payload.due)
        await step.do("ring", lambda: self.env.BELL.ring(event.payload.due))
"""


class Clock(SystemClock):
    """Real time, and set forward when somebody says so."""

    ahead = 0

    def now(self) -> int:
        """Wall time in milliseconds."""
        return super().now() + self.ahead


class Bell(RpcTarget):
    """What a tenant's step rings once it is awake."""

    def __init__(self, clock: Clock, rung: list[int]) -> None:
        self._clock, self._rung = clock, rung

    def ring(self, due: int) -> None:
        """One timer's step runs."""
        self._rung.append(self._clock.now() - due)


async def ring_all(path: Path, timers: int, tenants: int) -> tuple[dict[str, list[int]], int, float]:
    """How late each tenant's timers were, in ms; how many were recorded before their moment; seconds to the end."""
    clock, rung = Clock(), defaultdict[str, list[int]](list)

    def code(tenant: str) -> WorkerCode:
        bell = Bell(clock, rung[tenant])
        return WorkerCode(main_module="main.py", modules={"main.py": SOURCE}, env={"BELL": bell})

    engine = Engine(path, clock=clock, linger=0.005)
    async with Host(path, get_code=code, engine=engine, max_sandboxes=tenants) as host:
        due = clock.now() + YEAR_MS
        for start in range(0, timers, 100):
            await host.workflows(f"t-{start // 100 % tenants}").create_batch([{"params": {"due": due}}] * 100)
        while engine.statistics().parked < timers:
            await asyncio.sleep(0.05)
        clock.ahead = YEAR_MS - AHEAD_MS - (clock.now() - (due - YEAR_MS))
        began = time.perf_counter() + AHEAD_MS / 1000
        while engine.statistics().finished < timers:
            await asyncio.sleep(0.05)
        lasted = time.perf_counter() - began
        assert engine._writer is not None
        early = await engine._writer.submit(
            lambda store: store.execute("SELECT count(*) FROM steps WHERE kind = 'sleep' AND ended < due").fetchone()[0]
        )
    return rung, early, lasted


async def bare(timers: int) -> list[float]:
    """How late an event loop's own timers are, in ms, when so many are due at once."""
    loop, late = asyncio.get_running_loop(), list[float]()
    due = loop.time() + 0.5
    for _ in range(timers):
        loop.call_at(due, lambda: late.append((loop.time() - due) * 1000))
    while len(late) < timers:
        await asyncio.sleep(0.01)
    return late


async def benchmark() -> None:
    """Once; and the limit."""
    asked = options(__doc__, timers=10_000, tenants=100)
    timers = asked.timers // 100 * 100
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCHMARK_FOLDER")) as name:
        rung, early, lasted = await ring_all(Path(name, "timers.db"), timers, asked.tenants)
    late = [each for tenant in rung.values() for each in tenant]
    limit = await bare(timers)
    ahead = sum(each < 0 for each in late)
    say(
        f"{timers:,} timers of {len(rung)} tenants, due at once: {len(late):,} rang, {ahead} early"
        f" ({early} recorded early)"
    )
    means = sorted(statistics.fmean(tenant) for tenant in rung.values())
    last = sorted(max(tenant) for tenant in rung.values())
    listing(
        "timers",
        ["late by, ms", "p50", "p99", "most"],
        [
            ["a timer", *(f"{percentile(late, percent):,.0f}" for percent in (50, 99, 100))],
            ["a tenant's on average", *(f"{percentile(means, percent):,.0f}" for percent in (50, 99, 100))],
            ["a tenant's last", *(f"{percentile(last, percent):,.0f}" for percent in (50, 99, 100))],
            ["limit: a bare event loop's", *(f"{percentile(limit, percent):,.1f}" for percent in (50, 99, 100))],
        ],
    )
    say(f"all had ended after {lasted:.1f} s, {timers / lasted:,.0f} a second")


if __name__ == "__main__":
    main(benchmark)
