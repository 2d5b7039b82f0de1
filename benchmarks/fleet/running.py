"""Fifty thousand instances that run at the same time, each inside a step that awaits a binding of the host's.

Beside them others are created, one at a time, as fast as it goes.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from cloister.engine import Engine
from cloister.loader import Host, RpcTarget, WorkerCode
from cloister.loader.config import LoaderConfig

from .bar import bar
from .site import Site, name, rss_mib

SOURCE = """\
from workers import WorkflowEntrypoint

class TenantWorkflow(WorkflowEntrypoint):
    async def run(self, event, step):
        return await step.do("held", lambda: self.env.GATE.wait({number}))
"""
CALLERS, SECONDS, BATCH = 64, 5.0, 50


class Gate(RpcTarget):
    """Lets nobody through until it is opened."""

    def __init__(self) -> None:
        self.inside = 0
        self.opened = asyncio.Event()

    async def wait(self, number: int) -> int:
        """Return once it is open."""
        self.inside += 1
        await self.opened.wait()
        return number


async def running(site: Site) -> dict[str, Any]:
    """Fill it, create beside it, open the gate, and see all of them to their end."""
    gate, tenants = Gate(), range(site.share(site.running_tenants))
    each = site.share(site.running) // len(tenants)
    count = each * len(tenants)

    def code(tenant: str) -> WorkerCode:
        modules = {"main.py": SOURCE.format(number=tenant.removeprefix("t-"))}
        return WorkerCode(main_module="main.py", modules=modules, env={"GATE": gate})

    path = site.beside("running.db")
    _remove(path)
    config = LoaderConfig(max_sandboxes=len(tenants), sandboxes_per_tenant=1, calls_per_sandbox=each)
    before = rss_mib()
    async with Host(path, get_code=code, engine=Engine(path), config=config, concurrency=count) as host:
        began = time.perf_counter()
        for start in range(0, each, BATCH):
            entries: list[dict[str, Any]] = [{}] * min(BATCH, each - start)
            await asyncio.gather(*(host.workflows(name(number)).create_batch(entries) for number in tenants))
        with bar("inside a step", count) as move:
            while gate.inside < count:
                move(gate.inside)
                await asyncio.sleep(0.1)
            move(gate.inside)
        filled, rss = time.perf_counter() - began, rss_mib()
        guests = sum(host.loader.memory().values()) / 2**20
        made, took = await _create_beside(host, tenants, site.share(CALLERS))
        beside, now = rss_mib(), host.engine.statistics().running
        gate.opened.set()
        began, finished = time.perf_counter(), 0
        with bar("run to completion", count) as move:
            while (finished := host.engine.statistics().finished) < count:
                move(finished)
                await asyncio.sleep(0.1)
        ended, told, rest = time.perf_counter() - began, host.engine.statistics(), host.loader.statistics()
    _remove(path)
    return {
        "inside": count, "tenants": len(tenants), "running_then": now, "fill_seconds": filled,
        "begun_per_second": count / filled, "rss_before_mib": before, "rss_mib": max(rss, beside),
        "kib_each": (rss - before) * 1024 / count, "sandboxes_mib": guests, "creates_beside_per_second": made / took,
        "created_beside": made, "ended_per_second": finished / ended, "lost": told.lost, "postponed": told.postponed,
        "deaths": rest.deaths,
    }  # fmt: skip


def _remove(path: Path) -> None:
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()


async def _create_beside(host: Host, tenants: range, callers: int) -> tuple[int, float]:
    """Single creates by so many callers, for so many seconds."""
    made, began = 0, time.perf_counter()

    async def create_some(caller: int) -> None:
        nonlocal made
        binding = host.workflows(name(tenants[caller % len(tenants)]))
        while time.perf_counter() < began + SECONDS:
            await binding.create()
            made += 1

    await asyncio.gather(*map(create_some, range(callers)))
    return made, time.perf_counter() - began
