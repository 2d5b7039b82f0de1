"""What a host costs that has them all, and nothing to do, all its shards together: beside it one of no tenants."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cloister.loader import Shards

from .bar import bar
from .site import Site, cpu_seconds, rss_mib
from .tenants import idling

SETTLED_SECONDS = 1.0
"""With so long no commit, what a host does when it begins is done."""


async def idle(site: Site) -> dict[str, Any]:
    """Open, look for a minute, close."""
    os.sync()  # what the phases before have left to be written is not this host's doing
    nobody = replace(site, folder=str(Path(site.folder, "nobody")), tenants=0)
    Path(nobody.folder).mkdir(exist_ok=True)
    nobody.save()
    empty = await _look(nobody, 3)
    found = await _look(site, site.idle_seconds)
    return {**found, "disk_bytes_each": site.disk_bytes() / site.tenants, "empty": empty}


async def _look(site: Site, seconds: int) -> dict[str, Any]:
    began = time.perf_counter()
    async with Shards(site.folder_of_shards, idling, count=site.shards) as idler:
        pids = [os.getpid(), *(each["pid"] for each in await idler.statistics())]
        opened = time.perf_counter() - began
        last, since = -1, time.perf_counter()
        while time.perf_counter() - since < SETTLED_SECONDS:
            if (commits := sum(each["engine"]["commits"] for each in await idler.statistics())) != last:
                last, since = commits, time.perf_counter()
            await asyncio.sleep(0.05)
        settling, used_to_open = since - began - opened, cpu_seconds(pids)
        await asyncio.sleep(2)  # the spares that were forked are looked at once
        began, used = time.perf_counter(), cpu_seconds(pids)
        with bar("idle, seconds", seconds) as move:
            for second in range(seconds):
                await asyncio.sleep(1)
                move(second + 1)
        found = {
            "open_seconds": opened, "settled_seconds": max(settling, 0), "cpu_seconds_to_open": used_to_open,
            "cpu_share": (cpu_seconds(pids) - used) / (time.perf_counter() - began), "processes": len(pids),
            "rss_mib": sum(map(rss_mib, pids)), "descriptors": _entries(pids, "fd"), "threads": _entries(pids, "task"),
        }  # fmt: skip
        began = time.perf_counter()
    return {**found, "close_seconds": time.perf_counter() - began}


def _entries(pids: Sequence[int], what: str) -> int:
    return sum(1 for pid in pids for _ in Path(f"/proc/{pid}/{what}").iterdir())
