"""What a host costs that has them all, and nothing to do: beside it one of an empty database."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from cloister.engine.clock import SystemClock

from .bar import bar
from .site import Site, rss_mib
from .tenants import descriptors, host

SETTLED_SECONDS = 1.0
"""With so long no commit, what a host does when it begins is done."""


async def idle(site: Site) -> dict[str, Any]:
    """Open, look for a minute, close."""
    os.sync()  # what the phases before have left to be written is not this host's doing
    nobody = replace(site, folder=str(Path(site.folder, "nobody")), tenants=0)
    Path(nobody.folder).mkdir(exist_ok=True)
    empty = await _look(nobody, 3)
    found = await _look(site, site.idle_seconds)
    return {**found, "disk_bytes_each": site.disk_bytes() / site.tenants, "empty": empty}


async def _look(site: Site, seconds: int) -> dict[str, Any]:
    began, used = time.perf_counter(), time.process_time()
    async with host(site, SystemClock()) as idler:
        await idler.workflows("newcomer").list()
        opened = time.perf_counter() - began
        last, since = -1, time.perf_counter()
        while time.perf_counter() - since < SETTLED_SECONDS:
            if (commits := idler.engine.statistics().commits) != last:
                last, since = commits, time.perf_counter()
            await asyncio.sleep(0.05)
        settling, used_to_open = since - began - opened, time.process_time() - used
        await asyncio.sleep(2)  # the spares that were forked are looked at once
        began, used = time.perf_counter(), time.process_time()
        with bar("idle, seconds", seconds) as move:
            for second in range(seconds):
                await asyncio.sleep(1)
                move(second + 1)
        cpu = (time.process_time() - used) / (time.perf_counter() - began)
        found = {
            "open_seconds": opened, "settled_seconds": max(settling, 0), "cpu_seconds_to_open": used_to_open,
            "rss_mib": rss_mib(), "descriptors": descriptors(), "threads": threading.active_count(), "cpu_share": cpu,
        }  # fmt: skip
        began = time.perf_counter()
    return {**found, "close_seconds": time.perf_counter() - began}
