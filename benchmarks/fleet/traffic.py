"""Calls to tenants drawn by Zipf's law over all of them, against a cache of 256."""

from __future__ import annotations

import asyncio
import random
import time
from array import array
from bisect import bisect
from itertools import accumulate
from typing import Any

from harness import percentile

from cloister.engine.clock import SystemClock
from cloister.loader.loader import Key

from .bar import Course, bar
from .site import Site, name
from .storm import shares
from .tenants import host

SKEW, CALLERS, SEED = 1.1, 8, 1


def drawing(site: Site) -> Any:
    """A function that draws a tenant of this shard's: among all, the one of rank r as often as r ** -SKEW says. Ranks
    are dealt out at random."""
    weights = array("d", accumulate(1 / rank**SKEW for rank in range(1, site.tenants + 1)))
    chance = random.Random(SEED)
    dealt = list(range(site.tenants))
    chance.shuffle(dealt)

    def draw() -> int:
        while not site.has(number := dealt[bisect(weights, chance.random() * weights[-1])]):
            pass
        return number

    return draw


async def traffic(site: Site) -> dict[str, Any]:
    """For so many seconds; those of the first quarter fill the cache and do not count."""
    draw, hits, misses, boots = drawing(site), list[float](), list[float](), Course()
    failed = 0
    async with host(site, SystemClock()) as serving:
        loader = serving.loader
        began = time.perf_counter()
        counted, over = began + site.traffic_seconds / 4, began + site.traffic_seconds * 5 / 4

        async def call_some() -> None:
            nonlocal failed
            while (asked := time.perf_counter()) < over:
                number = draw()
                warm = loader.warm(Key(name(number))) is not None
                try:
                    if await serving.tenant(name(number)).greet("Alice") != f"Hello Alice from tenant {number}":
                        failed += 1
                except Exception:  # noqa: BLE001 - whatever it is, it is the figure
                    failed += 1
                    continue
                if asked >= counted:
                    (hits if warm else misses).append(time.perf_counter() - asked)

        async def watch() -> None:
            with bar("calls by Zipf", int(over - began)) as move:
                while (now := time.perf_counter()) < over:
                    move(int(now - began))
                    boots.note(loader.statistics().boots)
                    await asyncio.sleep(0.1)

        await asyncio.gather(watch(), *(call_some() for _ in range(site.share(CALLERS))))
    calls, seconds = len(hits) + len(misses), over - counted
    return {
        "calls": calls, "calls_per_second": calls / seconds, "hit_rate": len(hits) / max(calls, 1), "failed": failed,
        "boots_per_second": len(misses) / seconds, "boots_course": boots.points,
        **{f"{kind}_p{percent}_ms": percentile(samples, percent) * 1000
           for kind, samples in (("hit", hits), ("miss", misses)) for percent in (50, 99) if samples},
        "hit_s": shares(hits), "miss_s": shares(misses),
    }  # fmt: skip
