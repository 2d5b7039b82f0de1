"""The first phases: every tenant is registered with its code and an instance, and then falls asleep."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from cloister.engine import Engine, Workflow
from cloister.loader import wrap_workflow_binding

from .bar import bar
from .site import WORKFLOW, Ahead, Site, rss_mib
from .tenants import INSTANCE, Held, StandIn, code, host, name

BATCH, AT_ONCE = 1_000, 3
ASLEEP = "SELECT count(*) FROM instances INDEXED BY instances_due WHERE workflow = 1 AND status = 'waiting'"


async def register(site: Site) -> dict[str, Any]:
    """Batches of a thousand tenants, each with its code, in one transaction each: as fast as it goes."""
    done = first = site.ask("SELECT count(*) FROM instances")
    growth: list[tuple[int, int, float]] = []
    began, used, writing = time.perf_counter(), time.process_time(), set[asyncio.Task[list[bool]]]()
    async with Engine(site.path) as engine:
        workflow = engine.workflow(WORKFLOW, Held, concurrency=1, retention="forever")
        with bar("registered", site.tenants, first) as move:
            for start in range(first, site.tenants, BATCH):
                writing.add(asyncio.create_task(_begin(site, workflow, start)))
                await asyncio.sleep(0)
                if len(writing) < AT_ONCE:
                    continue
                written, writing = await asyncio.wait(writing, return_when=asyncio.FIRST_COMPLETED)
                done += sum(len(batch.result()) for batch in written)
                move(done)
                if not growth or done >= 1.2 * growth[-1][0]:
                    growth.append((done, site.disk_bytes(), rss_mib()))
            await asyncio.gather(*writing)
            move(site.tenants)
        took, cpu = time.perf_counter() - began, time.process_time() - used
    new = site.tenants - first
    return {"registered": new, "per_second": new / took, "cpu_us_each": cpu / max(new, 1) * 1e6, "growth": growth}


async def _begin(site: Site, workflow: Workflow, start: int) -> list[bool]:
    entries = []
    for number in range(start, min(start + BATCH, site.tenants)):
        binding = wrap_workflow_binding(workflow, {"tenant_id": name(number)})
        options = binding.wrapped({"id": INSTANCE, "params": {"due": site.due(site.group(number))}})
        entries.append((name(number), options, code(number).pinned()))
    return await workflow.create_each(entries)


async def sleep(site: Site) -> dict[str, Any]:
    """Each takes its first step and falls asleep."""
    first, growth = site.ask(ASLEEP), list[tuple[int, int, float]]()
    began = time.perf_counter()
    with bar("fallen asleep", site.tenants, first) as move:
        if site.own_first_step:
            async with host(site, Ahead(site, "")) as own:
                await _all_asleep(site, own.engine, first, move, growth)
        else:
            async with Engine(site.path, linger=0.001) as engine:
                engine.workflow(WORKFLOW, StandIn, concurrency=1_000, retention="forever")
                await _all_asleep(site, engine, first, move, growth)
    took, new = time.perf_counter() - began, site.tenants - first
    return {
        "by": "the tenants' own code" if site.own_first_step else "the host in their place",
        "per_second": new / took, "growth": growth, "disk_bytes_each": site.disk_bytes() / site.tenants,
        "asleep": site.ask(ASLEEP),
    }  # fmt: skip


async def _all_asleep(site: Site, engine: Engine, first: int, move: Any, growth: list[tuple[int, int, float]]) -> None:
    while (done := first + engine.statistics().parked) < site.tenants:
        move(done)
        if not growth or done >= growth[-1][0] + site.tenants // 20:
            growth.append((done, site.disk_bytes(), rss_mib()))
        await asyncio.sleep(0.1)
    move(done)
