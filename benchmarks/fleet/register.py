"""The first phases: every tenant is registered with its code and an instance, and then falls asleep."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from cloister.engine import Engine
from cloister.loader import Shards
from cloister.loader.shards.place import number_of

from .bar import bar
from .site import WORKFLOW, Ahead, Site, cpu_seconds, name, rss_mib
from .tenants import INSTANCE, StandIn, code, host, registering

BATCH, AT_ONCE = 1_000, 3
ASLEEP = "SELECT count(*) FROM instances INDEXED BY instances_due WHERE workflow = 1 AND status = 'waiting'"


async def register(site: Site) -> dict[str, Any]:
    """Batches of a thousand tenants, each with its code, in one transaction for each shard: as fast as it goes."""
    done = first = site.ask("SELECT count(*) FROM instances")
    growth: list[tuple[int, int, float]] = []
    began, writing = time.perf_counter(), set[asyncio.Task[list[bool]]]()
    async with Shards(site.folder_of_shards, registering, count=site.shards) as shards:
        pids = [os.getpid(), *(each["pid"] for each in await shards.statistics())]
        began, opened, used = time.perf_counter(), time.perf_counter() - began, cpu_seconds(pids)
        with bar("registered", site.tenants, first) as move:
            for start in range(_unfinished(site), site.tenants, BATCH):
                writing.add(asyncio.create_task(_begin(site, shards, start)))
                await asyncio.sleep(0)
                if len(writing) < AT_ONCE * site.shards:
                    continue
                written, writing = await asyncio.wait(writing, return_when=asyncio.FIRST_COMPLETED)
                done += sum(sum(batch.result()) for batch in written)
                move(done)
                if not growth or done >= 1.2 * growth[-1][0]:
                    growth.append((done, site.disk_bytes(), sum(map(rss_mib, pids))))
            await asyncio.gather(*writing)
            move(site.tenants)
        took, used = time.perf_counter() - began, cpu_seconds(pids) - used
    if (there := site.ask("SELECT count(*) FROM instances")) != site.tenants:
        raise SystemExit(f"{there:,} of {site.tenants:,} tenants are there")
    new = site.tenants - first
    return {
        "registered": new, "per_second": new / took, "shards": site.shards, "open_seconds": opened,
        "cpu_us_each": used / max(new, 1) * 1e6, "growth": growth,
    }  # fmt: skip


def _unfinished(site: Site) -> int:
    """Where the first batch begins that is not there, or not all of it. A shard has its tenants in their order; but one
    may have come further than another when a run was broken off."""
    left = [part.ask("SELECT count(*) FROM instances") for part in site.parts]
    for number in range(site.tenants):
        shard = number_of(name(number), site.shards)
        if not left[shard]:
            return number - number % BATCH
        left[shard] -= 1
    return site.tenants


async def _begin(site: Site, shards: Shards, start: int) -> list[bool]:
    numbers = range(start, min(start + BATCH, site.tenants))
    return await shards.begin_each(
        [
            (name(number), code(number), {"id": INSTANCE, "params": {"due": site.due(site.group(number))}})
            for number in numbers
        ]
    )


async def sleep(site: Site) -> dict[str, Any]:
    """Each takes its first step and falls asleep."""
    first, growth = site.ask(ASLEEP), list[tuple[int, int, float]]()
    all_of_them = site.ask("SELECT count(*) FROM instances")
    began = time.perf_counter()
    with bar("fallen asleep", all_of_them, first) as move:
        if site.own_first_step:
            async with host(site, Ahead(site, "")) as own:
                await _all_asleep(site, own.engine, (first, all_of_them), move, growth)
        else:
            async with Engine(site.path, linger=0.001) as engine:
                engine.workflow(WORKFLOW, StandIn, concurrency=1_000, retention="forever")
                await _all_asleep(site, engine, (first, all_of_them), move, growth)
    took, new = time.perf_counter() - began, all_of_them - first
    return {
        "by": "the tenants' own code" if site.own_first_step else "the host in their place",
        "per_second": new / took, "growth": growth, "disk_bytes": site.disk_bytes(), "asleep": site.ask(ASLEEP),
    }  # fmt: skip


async def _all_asleep(
    site: Site, engine: Engine, course: tuple[int, int], move: Any, growth: list[tuple[int, int, float]]
) -> None:
    first, last = course
    while (done := first + engine.statistics().parked) < last:
        move(done)
        if not growth or done >= growth[-1][0] + last // 20:
            growth.append((done, site.disk_bytes(), rss_mib()))
        await asyncio.sleep(0.1)
    move(done)
