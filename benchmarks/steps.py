"""Durable steps a second at `synchronous=FULL`, in real sandboxes: one workflow alone, and 64 at once; and creating.

The limit, on the same disk in the same run: one-row transactions in SQLite, and the same with ten rows each.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import tempfile
import time
from pathlib import Path
from typing import Any

from harness import ROUNDS, Row, main, options, rates, report, rounds, tenant

from cloister.engine import Engine, WorkflowEntrypoint
from cloister.loader import Host

STEPS = 500
TOGETHER = 64
TENANTS = 8
EACH = 10
LONGER, SHORTER = 32, 96
"""Workflows one after the other, of ten steps and of one, in each place: that takes a second and more, so that the
beginning and the end of a round, when fewer are under way, count little."""
BATCHES = 50


def commits(folder: Path, rows: int) -> list[float]:
    """How long each of a thousand transactions takes, of so many rows."""
    base = sqlite3.connect(folder / f"bare-{rows}-{time.monotonic_ns()}.db", isolation_level=None)
    base.executescript(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE step (number INTEGER, value BLOB);"
    )
    samples = []
    for number in range(1000):
        began = time.perf_counter()
        base.execute("BEGIN IMMEDIATE")
        base.executemany("INSERT INTO step VALUES (?, ?)", [(number, b"value")] * rows)
        base.execute("COMMIT")
        samples.append(time.perf_counter() - began)
    base.close()
    return samples


async def one_step(host: Host) -> None:
    """One workflow of one step, from its creation to its result."""
    instance = await host.workflows("tenant-0").create(params={"steps": 1})
    await instance.result()


async def sequential(host: Host) -> float:
    """Steps a second of one workflow, one step after the other."""
    instance = await host.workflows("tenant-0").create(params={"steps": STEPS})
    began = time.perf_counter()
    await instance.result()
    return STEPS / (time.perf_counter() - began)


async def together(host: Host, steps: int, batches: int) -> float:
    """Workflows a second, so many at once, each of so many steps."""

    async def one(number: int) -> None:
        for _ in range(batches):
            instance = await host.workflows(f"tenant-{number % TENANTS}").create(params={"steps": steps})
            await instance.result()

    began = time.perf_counter()
    await asyncio.gather(*(one(number) for number in range(TOGETHER)))
    return TOGETHER * batches / (time.perf_counter() - began)


class Occupied(WorkflowEntrypoint):
    """Holds the one slot, so that what is created stays in the queue."""

    async def run(self, event: Any, step: Any) -> None:
        """Never ends by itself."""
        await asyncio.Event().wait()


async def creates(path: Path) -> float:
    """Instances a second, created in batches of a hundred, four at a time; none of them runs."""
    async with Engine(path) as engine:
        workflow = engine.workflow("creates", Occupied, concurrency=1)
        await workflow.create()
        began = time.perf_counter()

        async def one(number: int) -> None:
            for _ in range(BATCHES):
                await workflow.create_batch([{"params": {"order": 1}}] * 100, scope=f"tenant-{number}")

        await asyncio.gather(*(one(number) for number in range(4)))
        return 4 * BATCHES * 100 / (time.perf_counter() - began)


async def benchmark() -> None:
    """Everything above, in rounds."""
    options(__doc__)
    found: dict[str, list[float]] = {}
    bare: list[list[float]] = []
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCHMARK_FOLDER")) as name:
        folder = Path(name)
        async with Host(folder / "steps.db", get_code=lambda _: tenant(0), spares=TENANTS) as host:
            await together(host, 1, 2)
            alone = await rounds(200, lambda: one_step(host))
            for _ in range(ROUNDS):
                found.setdefault("steps/s, one sequential workflow", []).append(await sequential(host))
                found.setdefault(f"steps/s, {TOGETHER} workflows of {EACH} at once", []).append(
                    EACH * await together(host, EACH, LONGER)
                )
                found.setdefault(f"workflows/s of one step, {TOGETHER} at once", []).append(
                    await together(host, 1, SHORTER)
                )
                created = await creates(folder / f"creates-{time.monotonic_ns()}.db")
                found.setdefault("creates/s, batches of 100", []).append(created)
                bare.append(commits(folder, 1))
                tens = commits(folder, 10)
                found.setdefault("limit: bare commits of one row", []).append(len(bare[-1]) / sum(bare[-1]))
                found.setdefault("limit: rows/s in commits of ten", []).append(10 * len(tens) / sum(tens))
    rows = [Row("one-step workflow, create to result, one at a time", alone), Row("limit: bare commit", bare)]
    report("steps: latency", rows, limit="limit: bare commit")
    rates("steps: throughput, synchronous=FULL", list(found.items()), limit="limit: bare commits of one row")


if __name__ == "__main__":
    main(benchmark)
