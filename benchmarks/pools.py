"""What many tenants cost each other: calls at once over 32 of them, a small cache under a long tail, a greedy one.

The limits, in the same run: one call at a time; the cold boot of a tenant that was never seen, in the same loader; and
the same 99 calls without the greedy tenant beside them.
"""

from __future__ import annotations

import asyncio
import random
import resource
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from harness import ROUNDS, Row, draw, main, options, percentile, rates, report, rounds, say, tenant

from cloister.loader import Loader, LoaderConfig

TOGETHER = 32
SKEW = 1.1
CALLERS = 8
MODEST = 99


def entrypoint(loader: Loader, number: int) -> Any:
    """The default entrypoint of a tenant of that number."""
    return loader.get(f"tenant-{number}", partial(tenant, number)).get_entrypoint()


async def at_once(calls: int) -> tuple[list[float], list[float], list[float]]:
    """Calls a second, one at a time and 32 at once, and microseconds of the host's CPU time for each of the latter."""
    together, cpu = [], []
    async with Loader(spares=2) as loader:
        callees = [entrypoint(loader, number) for number in range(TOGETHER)]
        await asyncio.gather(*(callee.greet("warm") for callee in callees))
        alone = [len(found) / sum(found) for found in await rounds(calls // 8, lambda: callees[0].greet("Alice"))]

        async def call_again(callee: Any) -> None:
            for _ in range(calls // TOGETHER):
                await callee.greet("Alice")

        for _ in range(ROUNDS):
            began, used = time.perf_counter(), host_cpu()
            await asyncio.gather(*map(call_again, callees))
            together.append(calls / (time.perf_counter() - began))
            cpu.append((host_cpu() - used) / calls * 1e6)
    return alone, together, cpu


async def long_tail(calls: int, tenants: int, warm: int) -> tuple[list[float], list[float], list[float], int]:
    """Seconds of calls to what was warm, to what was not, and to tenants that nobody has ever seen; and how many
    calls failed. Tenants are drawn by Zipf's law."""
    hits: list[float] = []
    misses: list[float] = []
    failed = 0
    weights = [1 / rank**SKEW for rank in range(1, tenants + 1)]
    drawn = iter(random.Random(1).choices(range(tenants), weights, k=calls))

    async def call(loader: Loader, number: int) -> tuple[bool, float]:
        boots, began = loader.statistics().boots, time.perf_counter()
        await entrypoint(loader, number).greet("Alice")
        return loader.statistics().boots > boots, time.perf_counter() - began

    async def call_some(loader: Loader, numbers: Iterator[int]) -> None:
        nonlocal failed
        for number in numbers:
            was_warm = f"tenant-{number}" in warm_now(loader)
            try:
                _, took = await call(loader, number)
            except Exception:  # noqa: BLE001 - whatever it is, it is the figure
                failed += 1
            else:
                (hits if was_warm else misses).append(took)

    async with Loader(max_sandboxes=warm) as loader:
        never_seen = iter(range(1_000_000, 1_000_000 + 10 * warm))
        boots: list[float] = []

        async def boot_some() -> None:
            for number in never_seen:
                boots.append((await call(loader, number))[1])

        await asyncio.gather(*(boot_some() for _ in range(CALLERS)))
        await asyncio.gather(*(call_some(loader, drawn) for _ in range(CALLERS)))
    return hits, misses, boots, failed


def warm_now(loader: Loader) -> set[str]:
    """The tenants that have a sandbox."""
    return {key.tenant_id for key in loader._house.pools}


async def greedy(queued: int) -> tuple[list[list[float]], list[list[float]], list[float], int]:
    """Seconds until each of 99 calls is answered, one for each of so many tenants: alone, and beside one that has
    10,000 queued; the ratio of the times until the last of them is; and how many of the 10,000 were left by then."""
    alone, beside, ratios, left = [], [], [], 0
    async with Loader(config=LoaderConfig(max_sandboxes=160)) as loader:
        callees = [entrypoint(loader, number) for number in range(MODEST)]
        hog = entrypoint(loader, MODEST)
        await asyncio.gather(*(callee.greet("warm") for callee in (*callees, hog)))
        for _ in range(ROUNDS):
            found, took = await once_each(callees)
            waiting = [asyncio.ensure_future(hog.greet("Bob")) for _ in range(queued)]
            while not loader.statistics().queued:
                await asyncio.sleep(0)
            await waiting[0]
            found_beside, took_beside = await once_each(callees)
            left = sum(not call.done() for call in waiting)
            await asyncio.gather(*waiting)
            again, took_again = await once_each(callees)
            alone.append(found + again)
            beside.append(found_beside)
            ratios.append(took_beside / ((took + took_again) / 2))
    return alone, beside, ratios, left


async def once_each(callees: list[Any]) -> tuple[list[float], float]:
    """One call to each, all at once: seconds until each is answered, and until the last is."""
    began = time.perf_counter()

    async def call(callee: Any) -> float:
        await callee.greet("Alice")
        return time.perf_counter() - began

    found = await asyncio.gather(*map(call, callees))
    return found, time.perf_counter() - began


def host_cpu() -> float:
    """Seconds of CPU time that this process has used."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def benchmark(*, calls: int, tenants: int, warm: int, queued: int, plot: str | None) -> None:
    """All three, one after the other."""
    alone, together, cpu = await at_once(calls)
    rates(
        f"pools: {TOGETHER} tenants, {TOGETHER} calls at once",
        [(f"{TOGETHER} at once", together), ("limit: one at a time", alone)],
        limit="limit: one at a time",
    )
    say(f"{sorted(cpu)[len(cpu) // 2]:.0f} µs of the host's CPU time for each call")
    hits, misses, boots, failed = await long_tail(calls, tenants, warm)
    limit = "limit: boot of a tenant never seen"
    rows = [Row("warm", [hits]), Row("not warm", [misses]), Row(limit, [boots])]
    report(f"pools: {tenants:,} tenants by Zipf({SKEW}), {warm} sandboxes, {CALLERS} callers", rows, limit=limit)
    share = len(hits) / max(len(hits) + len(misses), 1)
    say(f"{calls:,} calls, of which {share:.0%} met a warm sandbox and {failed} failed")
    quiet, beside, ratios, left = await greedy(queued)
    limit = "limit: alone"
    report(f"pools: {MODEST} tenants with one call each", [
        Row(f"beside one with {queued:,} queued", beside), Row(limit, quiet),
    ], limit=limit)  # fmt: skip
    say(f"until the last of them: {percentile(ratios, 50):.2f} times what it takes alone; {left:,} still queued")
    draw(plot, lambda axes: paint(axes, hits, misses, boots), title="calls under a long tail", size=(9, 4))


def paint(axes: Any, hits: list[float], misses: list[float], boots: list[float]) -> None:
    """How many calls were answered within a time, for each kind."""
    for name, found in (("warm", hits), ("not warm", misses), ("never seen", boots)):
        axes.plot([percentile(found, percent) * 1000 for percent in range(100)], range(100), label=name)
    axes.set_xscale("log")
    axes.set_xlabel("ms to the answer")
    axes.set_ylabel("per cent answered")
    axes.legend()


if __name__ == "__main__":
    asked = options(__doc__, drawn=True, calls=8_000, tenants=10_000, warm=64, queued=10_000)
    main(lambda: benchmark(**vars(asked)))
