"""How long until a tenant that was never seen gives its first answer, where the time goes, and what it weighs then.

The limit is a bare `os.fork` of an interpreter that has imported as much, up to one byte from the child, and what such
a child weighs when there are as many of them.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import weigh
from harness import ROUNDS, Row, draw, main, options, report, say, stacked, tenant

from cloister.loader import Loader, Policy, WorkerCode
from cloister.loader.loader import Key

SPARES = 4
WARM = 256  # what a loader keeps by default
LIMIT = "limit: bare fork"
_numbers = itertools.count()


def heavy(number: int) -> WorkerCode:
    """A program that uses packages of the host's, which take an interpreter a fifth of a second to import."""
    source = f"""
import sqlite_utils
from rich.table import Table
from workers import WorkerEntrypoint

class Default(WorkerEntrypoint):
    async def greet(self, name):
        table = Table(title=f"Hello {{name}} from tenant {number}")
        return str(table.title)
"""
    return WorkerCode(main_module="main.py", modules={"main.py": source})


@dataclass(frozen=True)
class Case:
    """One way to boot: how many spares are kept, under which policy, and the program that is booted."""

    name: str
    spares: int
    policy: Policy = field(default_factory=lambda: Policy(most_spares=SPARES))
    program: Callable[[int], WorkerCode] = tenant


CASES = (
    Case("cold boot from a spare, to the first answer", SPARES),
    Case("cold boot without a spare", 0),
    Case(
        "the first, with packages that are preloaded",
        SPARES,
        Policy(preload=("rich.table", "sqlite_utils"), most_spares=SPARES),
        heavy,
    ),
)


@dataclass(frozen=True)
class Boot:
    """One boot: seconds from a tenant's id to its answer, microseconds of each part, and of a spare's own start."""

    seconds: float
    parts: dict[str, float]
    ahead: dict[str, float]


async def boot(loader: Loader, case: Case) -> Boot:
    """One tenant that was never seen."""
    number = next(_numbers)
    began = time.perf_counter()
    await loader.get(f"tenant-{number}", lambda: case.program(number)).get_entrypoint().greet("Alice")
    seconds = time.perf_counter() - began
    worker = loader.warm(Key(f"tenant-{number}"))
    assert worker is not None
    while not worker.boot_ms:  # the answer came with the word that the code was imported, which is read next
        await asyncio.sleep(0)
    phases = worker.sandbox.phases
    start = {phase.name: float(getattr(phases, phase.name)) for phase in fields(phases)}
    parts = {**({} if case.spares else start), "import": worker.boot_ms * 1000}
    return Boot(seconds, {**parts, "all else": seconds * 1e6 - sum(parts.values())}, start if case.spares else {})


async def boots(loader: Loader, case: Case, count: int) -> list[Boot]:
    """One boot after the other; with the spares complete before each, or with none."""
    found = []
    for _ in range(count):
        while loader.statistics().spares < case.spares:
            await asyncio.sleep(0.002)
        found.append(await boot(loader, case))
    return found


def medians(parts: list[dict[str, float]]) -> dict[str, float]:
    """The median of each part."""
    return {name: statistics.median(each[name] for each in parts) for name in parts[0]}


def weigh_tenants(loader: Loader) -> str:
    """What a warm tenant takes, with everything that is shared divided among all."""
    workers = [loader.warm(Key(f"tenant-{number}")) for number in range(next(_numbers))]
    pids = [worker.sandbox.pid for worker in workers if worker is not None]
    try:
        tenants = weigh.mean(pids)
    except PermissionError as error:
        return f"memory of a warm tenant: {error}"
    with weigh.bare_forks(len(pids), keep=True) as forks:
        bare = weigh.mean([fork.pid for fork in forks])
    mib = 2**20
    return (
        f"memory of a warm tenant, {len(pids)} of them: {tenants.pss / mib:.2f} MiB (PSS) and "
        f"{(tenants.stacks + tenants.tables) / mib:.2f} MiB of the kernel's;\n"
        f"of a bare forked interpreter, as many: {bare.pss / mib:.2f} and {(bare.stacks + bare.tables) / mib:.2f} MiB "
        f"(x {tenants.total / bare.total:.1f})"
    )


async def benchmark(*, count: int, plot: str | None) -> None:
    """Every case, in rounds."""
    samples: dict[str, list[list[float]]] = {name: [] for name in (*(case.name for case in CASES), LIMIT)}
    parts: dict[str, list[dict[str, float]]] = {}
    weight = ""
    for _ in range(ROUNDS):
        for case in CASES:
            async with Loader(max_sandboxes=WARM, spares=case.spares, policy=case.policy) as loader:
                await boots(loader, case, 2 * count if case.spares else count)
                found = await boots(loader, case, count)
                samples[case.name].append([each.seconds for each in found])
                parts.setdefault(case.name, []).extend(each.parts for each in found)
                if case.spares:
                    parts.setdefault("a spare's own start, beforehand", []).extend(each.ahead for each in found)
                if case is CASES[0]:
                    weight = weigh_tenants(loader)
        with weigh.bare_forks(count) as forks:
            samples[LIMIT].append([fork.first_byte for fork in forks])
    report("boot", [Row(name, found) for name, found in samples.items()], limit=LIMIT)
    bars = {name: medians(found) for name, found in parts.items()}
    bars[LIMIT] = {"fork": statistics.median(itertools.chain(*samples[LIMIT])) * 1e6}
    say("medians of each part, in µs")
    stacked(bars, unit="µs")
    say(weight)
    draw(plot, lambda axes: paint(axes, bars), title="cold boot: where the time goes", size=(10, 3.5))


def paint(axes: Any, bars: dict[str, dict[str, float]]) -> None:
    """The same bars on a figure."""
    names = max(bars.values(), key=len)
    rows = list(bars)[::-1]
    left = [0.0] * len(rows)
    for name in names:
        sizes = [bars[row].get(name, 0.0) for row in rows]
        axes.barh(rows, sizes, left=left, label=name)
        left = [start + size for start, size in zip(left, sizes, strict=True)]
    axes.set_xlabel("µs")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))


if __name__ == "__main__":
    asked = options(__doc__, drawn=True, boots=100)
    main(lambda: benchmark(count=asked.boots, plot=asked.plot))
