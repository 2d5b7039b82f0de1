"""What dividing tenants among processes brings, and what it costs: the same work on one host, and on shards.

One host is the limit that they are held against: on one core no number of them would beat it, and each call to a shard
is a hop more. The configurations take turns, round by round.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from harness import ROUNDS, listing, main, options, percentile, tenant, timed

from cloister.loader import Host, Shard, Shards, WorkerCode

TENANTS, SPARES = 16, 4
EACH = 1_000
"""Tenants that are registered in one batch."""


def make_host(shard: Shard) -> Host:
    """Of one shard, as of all."""
    return host(shard.path)


def host(path: Path) -> Host:
    """One that runs whatever is given to it, but for those that are only registered."""
    return Host(path, get_code=code, spares=SPARES)


async def code(tenant_id: str) -> WorkerCode:
    """Of who is registered there is none to be had, so that nothing of theirs runs."""
    if tenant_id.startswith("registered"):
        await asyncio.get_running_loop().create_future()
    return tenant(int(tenant_id.removeprefix("t-")))


@asynccontextmanager
async def opened(shards: int) -> AsyncIterator[Any]:
    """So many shards; with none, one host in this process."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCHMARK_FOLDER")) as folder:
        opening: Any = Shards(folder, make_host, count=shards) if shards else host(Path(folder, "one.db"))
        async with opening as found:
            for number in range(TENANTS):
                await found.tenant(f"t-{number}").greet("Alice")
            yield found


async def workflows(found: Any, at_once: int, steps: int, count: int) -> float:
    """Workflows a second, from create to result, so many at once."""
    left = iter(range(count))

    async def some(number: int) -> None:
        for _ in left:
            instance = await found.workflows(f"t-{number % TENANTS}").create(params={"steps": steps})
            await instance.result()

    began = time.perf_counter()
    await asyncio.gather(*map(some, range(at_once)))
    return count / (time.perf_counter() - began)


async def registered(found: Any, batches: int) -> float:
    """Tenants a second, each with its code and an instance, three batches at a time for each shard."""
    left, began = iter(range(batches)), time.perf_counter()

    async def some() -> None:
        for batch in left:
            numbers = range(batch * EACH, (batch + 1) * EACH)
            await found.begin_each([(f"registered-{number}", tenant(number), {"id": "order"}) for number in numbers])

    await asyncio.gather(*(some() for _ in range(6)))
    return batches * EACH / (time.perf_counter() - began)


async def once(shards: int, batches: int) -> dict[str, float]:
    """Each figure, once."""
    async with opened(shards) as found:
        await workflows(found, 64, 1, 200)
        calls = await timed(1_000, lambda: found.tenant("t-0").greet("Alice"))
        return {
            "a warm call, p50, µs": percentile(calls, 50) * 1e6,
            "workflows/s of one step, 64 at once": await workflows(found, 64, 1, 4_000),
            "the same, 256 at once": await workflows(found, 256, 1, 6_000),
            "workflows/s of ten steps, 256 at once": await workflows(found, 256, 10, 1_500),
            "tenants registered a second": await registered(found, batches),
        }


async def benchmark() -> None:
    """In rounds."""
    cores = len(os.sched_getaffinity(0))
    given = options(__doc__, shards=max(cores, 2), batches=10)
    tried = [0, *(count for count in (1, 2, 4, 8, 16, 32, 64) if count < given.shards), given.shards]
    found: dict[int, list[dict[str, float]]] = {shards: [] for shards in tried}
    for _ in range(ROUNDS):
        for shards in tried:
            found[shards].append(await once(shards, given.batches))
    rows = []
    for figure in found[0][0]:
        middles = [statistics.median(each[figure] for each in found[shards]) for shards in tried]
        ratios = ["" if not place else f" ({middle / middles[0]:.2f}x)" for place, middle in enumerate(middles)]
        rows.append([figure, *(f"{middle:,.0f}{ratio}" for middle, ratio in zip(middles, ratios, strict=True))])
    listing("shards: in brackets, as a multiple of one host", ["figure", "one host", *map(_named, tried[1:])], rows)


def _named(shards: int) -> str:
    return f"{shards} shard{'s' if shards > 1 else ''}"


if __name__ == "__main__":
    main(benchmark)
