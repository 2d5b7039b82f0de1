"""What a warm tenant costs while nobody calls it: memory, the kernel's part of it, descriptors, host memory, and CPU.

The same at each number of tenants. The limit is a bare forked interpreter that has imported as much, weighed in the
same way with as many of them alive.
"""

from __future__ import annotations

import asyncio
import gc
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import weigh
from harness import draw, listing, main, options, percentile, say, tenant

from cloister.loader import Loader, Policy
from cloister.loader.loader import Key

LEVELS = (10, 100, 1_000, 5_000)
TOGETHER = 8  # boots in flight
SPARES = 4  # as many at the end as at the beginning: one that goes would take its CPU time along
MIB, KIB = 2**20, 2**10


@dataclass(frozen=True)
class Host:
    """What the host's process holds, and what the kernel says that the machine uses for itself, in bytes."""

    resident: int
    descriptors: int
    tables: int
    stacks: int
    slab: int

    @classmethod
    def now(cls) -> Host:
        """At this moment."""
        gc.collect()
        told = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        machine = (int(told[name].split()[0]) * KIB for name in ("PageTables", "KernelStack", "Slab"))
        return cls(weigh.resident(0), weigh.descriptors(), *machine)


@dataclass(frozen=True)
class Level:
    """So many warm tenants: what each costs in the mean, and how it went to get there."""

    tenants: int
    each: weigh.Weight
    bare: weigh.Weight
    before: Host
    after: Host
    boots_per_second: float
    first_call_ms: float
    idle_host: float
    idle_sandboxes: float

    def grown(self, name: str) -> float:
        """How much something of the host's or the machine's has grown for each tenant."""
        return float(getattr(self.after, name) - getattr(self.before, name)) / self.tenants


def cpu_seconds(pids: list[int]) -> float:
    """CPU time of processes so far."""
    return sum(time.clock_gettime((~pid << 3) | 2) for pid in pids)


async def grow(loader: Loader, start: int, end: int) -> float:
    """Boot and call tenants up to a number; seconds it took."""
    numbers = iter(range(start, end))

    async def boot_some() -> None:
        for number in numbers:
            await loader.get(f"tenant-{number}", lambda number=number: tenant(number)).get_entrypoint().greet("Alice")  # type: ignore[misc]

    began = time.perf_counter()
    await asyncio.gather(*(boot_some() for _ in range(TOGETHER)))
    return time.perf_counter() - began


async def call_each(loader: Loader, tenants: int) -> float:
    """Whether all of them still answer: the median in milliseconds of a call to one that was idle."""
    samples = []
    for number in range(0, tenants, max(tenants // 500, 1)):
        began = time.perf_counter()
        await loader.get(f"tenant-{number}", lambda: tenant(-1)).get_entrypoint().greet("Alice")
        samples.append(time.perf_counter() - began)
    return percentile(samples, 50) * 1000


async def level(loader: Loader, tenants: int, already: int, before: Host, seconds: int) -> Level:
    """Everything at one number of tenants."""
    with weigh.bare_forks(tenants, keep=True) as forks:
        bare = weigh.mean([fork.pid for fork in forks])
    took = await grow(loader, already, tenants)
    workers = [loader.warm(Key(f"tenant-{number}")) for number in range(tenants)]
    pids = [worker.sandbox.pid for worker in workers if worker is not None and not worker.gone]
    if len(pids) < tenants or loader.statistics().deaths:
        say(f"of {tenants:,} tenants only {len(pids):,} are warm; {loader.statistics()}")
    after = Host.now()
    first_call = await call_each(loader, tenants)
    everybody = weigh.descendants()
    await asyncio.sleep(4)  # until what the boots left behind has settled
    host, others = time.process_time(), cpu_seconds(everybody)
    began = time.perf_counter()
    await asyncio.sleep(seconds)
    passed = time.perf_counter() - began
    idle = (time.process_time() - host) / passed, (cpu_seconds(everybody) - others) / passed
    each = weigh.mean(pids)
    return Level(tenants, each, bare, before, after, (tenants - already) / took, first_call, *idle)


async def benchmark(*, most: int, seconds: int, plot: str | None) -> None:
    """Level after level, in one loader."""
    found: list[Level] = []
    broken = ""
    levels = sorted({*(each for each in LEVELS if each < most), most})
    async with Loader(max_sandboxes=most, spares=SPARES, policy=Policy(most_spares=SPARES)) as loader:
        await asyncio.sleep(0.5)
        before = Host.now()
        for tenants in levels:
            already = found[-1].tenants if found else 0
            try:
                found.append(await level(loader, tenants, already, before, seconds))
            except Exception as error:  # noqa: BLE001 - what breaks is a finding
                warm = loader.statistics().warm
                broken = f"on the way to {tenants:,} tenants, with {warm:,} warm: {type(error).__name__}: {error}"
                break
    if broken:  # told only now: there may have been no descriptor left to tell it with
        say(broken)
    if found:
        tell(found)
        draw(plot, lambda axes: paint(axes, found), title="what a warm tenant costs", size=(8, 4.5))


def tell(found: list[Level]) -> None:
    """The tables."""
    rows = [
        [
            f"{each.tenants:,}", f"{each.each.pss / MIB:.2f}", f"{each.each.private / MIB:.2f}",
            f"{each.each.stacks / KIB:.0f}", f"{each.each.tables / KIB:.0f}",
            f"{each.each.group / KIB:.0f}" if each.each.group else "?",
            f"{each.each.total / MIB:.2f}", f"{each.bare.total / MIB:.2f}", f"{each.each.total / each.bare.total:.1f}",
        ]
        for each in found
    ]  # fmt: skip
    header = ["tenants", "PSS MiB", "private", "stacks KiB", "tables KiB", "group KiB", "sum MiB", "limit", "x limit"]
    listing("idle: memory of one warm tenant (sum: PSS, kernel stacks, page tables)", header, rows)
    rows = [
        [
            f"{each.tenants:,}", f"{each.grown('resident') / KIB:.1f}", f"{each.grown('descriptors'):.2f}",
            f"{(each.grown('tables') + each.grown('stacks')) / KIB:.0f}", f"{each.grown('slab') / KIB:.0f}",
            f"{each.boots_per_second:,.0f}", f"{each.first_call_ms:.2f}",
            f"{each.idle_host:.2%}", f"{each.idle_sandboxes:.2%}",
        ]
        for each in found
    ]  # fmt: skip
    header = ["tenants", "RSS KiB", "fds", "tables KiB", "slab KiB", "boots/s", "call ms", "host CPU", "other CPU"]
    listing("idle: what host (RSS, fds) and kernel (tables, stacks; slab) hold for each; CPU while idle", header, rows)


def paint(axes: Any, found: list[Level]) -> None:
    """Parts of the memory over the number of tenants."""
    names = [f"{each.tenants:,}" for each in found]
    bottom = [0.0] * len(found)
    for label, part in (("PSS", "pss"), ("page tables", "tables"), ("kernel stacks", "stacks")):
        sizes = [getattr(each.each, part) / MIB for each in found]
        axes.bar(names, sizes, bottom=bottom, label=label, width=0.5)
        bottom = [low + size for low, size in zip(bottom, sizes, strict=True)]
    axes.plot(names, [each.bare.total / MIB for each in found], "k--o", label="limit: bare forked interpreter")
    axes.set_xlabel("warm tenants")
    axes.set_ylabel("MiB each")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))


if __name__ == "__main__":
    asked = options(__doc__, drawn=True, tenants=LEVELS[-1], seconds=10)
    main(lambda: benchmark(most=asked.tenants, seconds=asked.seconds, plot=asked.plot))
