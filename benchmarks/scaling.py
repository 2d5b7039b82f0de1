"""What an operation costs against how much there is: tenants asleep, instances that run, steps and bytes of a history.

Each is to be flat, or grow as a logarithm. A figure is CPU time of this process for one operation, the least of some
rounds, so that it is comparable on a busy machine. Of the tenants asleep all but the first are copies of its rows.
"""

from __future__ import annotations

import asyncio
import gc
import math
import random
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

from harness import draw, listing, main, options, say

from cloister.engine import Engine, PinnedCode, Workflow, WorkflowEntrypoint
from cloister.loader import Host, WorkerCode
from cloister.loader.config import LoaderConfig

ROUNDS, SEED = 5, 1
FLAT, STEEP = 1.3, 1.3
"""How many times as much is as good as the same; and how many times what a logarithm would make of it still is one."""
CALLS = 1_000
"""A sandbox may have not many more calls to the host in flight, of which a step is one."""
Work = Callable[[int], Awaitable[object]]
Costs = dict[str, dict[int, float]]
"""Microseconds for each operation, by the size it was measured at."""


class Program(WorkflowEntrypoint):
    """What its params say, one after the other: so many steps of so many bytes; steps side by side; sleeps."""

    async def run(self, event: Any, step: Any) -> None:
        """The workflow."""
        asked = event.payload
        data = "x" * asked.get("bytes", 0)
        for _ in range(asked.get("steps", 0)):
            await step.do("step", lambda: data)
        await asyncio.gather(*(step.do("step", lambda: data) for _ in range(asked.get("wide", 0))))
        if asked.get("held"):
            await self.env.wait()
        if asked.get("sleep"):
            await step.sleep("night", asked["sleep"])
            await step.do("awake", lambda: None)


SOURCE = """
import asyncio
from workers import WorkflowEntrypoint

class TenantWorkflow(WorkflowEntrypoint):
    async def run(self, event, step):
        asked = event.payload
        data = "x" * asked.get("bytes", 0)
        for _ in range(asked.get("steps", 0)):
            await step.do("step", lambda: data)
        await asyncio.gather(*(step.do("step", lambda: data) for _ in range(asked.get("wide", 0))))
        if asked.get("sleep"):
            await step.sleep("night", asked["sleep"])
"""


async def cost(
    count: int, work: Work, *, at_once: int = 16, rounds: int = ROUNDS, cpu: Callable[[], float] = time.process_time
) -> float:
    """Microseconds of CPU for one of `count`, which are numbered; the least of the rounds after one."""
    found = []
    for _ in range(rounds + 1):
        left = iter(range(count))

        async def work_some(left: Any = left) -> None:
            for number in left:
                await work(number)

        gc.collect()
        used = cpu()
        await asyncio.gather(*(work_some() for _ in range(min(at_once, count))))
        found.append((cpu() - used) / count * 1e6)
    return min(found[1:])


@asynccontextmanager
async def opened(path: Path, env: Any = None, **more: Any) -> AsyncIterator[Workflow]:
    """An engine with the workflow."""
    async with Engine(path, linger=0.005) as engine:
        yield engine.workflow("w", Program, env=env, **more)


# Tenants that are asleep


async def asleep(folder: Path, most: int) -> Costs:
    """Operations beside ten times as many sleepers each time."""
    path, costs, there = folder / "asleep.db", Costs(), 1
    async with opened(path) as workflow:
        code = PinnedCode(b"0" * 32, b"code")
        await workflow.create_each([("t-0", {"id": "x", "params": {"steps": 1, "sleep": "300 days"}}, code)])
        while (await (await workflow.get("x", scope="t-0")).status())["status"] != "waiting":
            await asyncio.sleep(0.01)
    for size in sizes(1_000, most):
        multiply(path, there, size)
        there = size
        for name, found in (await beside(path, size)).items():
            costs.setdefault(f"{name}, against tenants asleep", {})[size] = found
    return costs


def multiply(path: Path, have: int, size: int) -> None:
    """Make it so many sleepers: copies of the first, each with a tenant and code of its own."""
    with closing(sqlite3.connect(path)) as base, base:
        first, ahead = base.execute("SELECT min(number), (SELECT value FROM counter) FROM instances").fetchone()
        base.execute("CREATE TEMP TABLE copies AS WITH RECURSIVE n(n) AS (SELECT ? UNION ALL SELECT n + 1 FROM n"
                     " WHERE n < ? - 1) SELECT n FROM n", (have, size))  # fmt: skip
        for table, replaced in {
            "codes": {"number": "? + n", "digest": "randomblob(32)"},
            "instances": {"number": "? + n", "scope": "'t-' || n", "code": "? + n"},
            "steps": {"instance": "? + n"},
            "changes": {"instance": "? + n"},
        }.items():
            columns = [row[1] for row in base.execute(f"PRAGMA table_info({table})")]
            row = ", ".join(replaced.get(column, column).replace("?", str(ahead)) for column in columns)
            key = "instance" if "instance" in columns else "number"
            own = first if table != "codes" else base.execute("SELECT min(number) FROM codes").fetchone()[0]
            base.execute(f"INSERT INTO {table} SELECT {row} FROM copies, {table} WHERE {table}.{key} = ?", (own,))
        base.execute("UPDATE counter SET value = value + ?", (size,))


async def beside(path: Path, size: int) -> dict[str, float]:
    """What each operation costs there."""
    chance, found = random.Random(SEED), dict[str, float]()

    async def open_and_ask(_: int) -> None:
        async with opened(path) as workflow:
            await workflow.get("x", scope=f"t-{size - 1}")

    found["open, ask, close"] = await cost(1, open_and_ask)
    async with opened(path) as workflow:
        await settled(workflow)

        async def anybody() -> Any:
            return await workflow.get("x", scope=f"t-{chance.randrange(size)}")

        async def look(_: int) -> None:
            await (await anybody()).status()

        async def send(_: int) -> None:
            await (await anybody()).send_event(type="e", payload=1)

        async def pause(_: int) -> None:
            instance = await anybody()
            await instance.pause()
            await instance.resume()

        async def create(number: int, params: Any = None) -> Any:
            return await workflow.create(params=params or {}, scope=f"new-{number}")

        async def create_and_run(number: int) -> None:
            await (await create(number, {"steps": 1})).result()

        async def sleep_and_wake(number: int) -> None:
            await (await create(number, {"steps": 1, "sleep": 40})).result()

        async def page(_: int) -> None:
            await workflow.list(scope=f"t-{chance.randrange(size)}")

        for name, work in {
            "look at one": look, "send an event": send, "pause and resume": pause, "list a tenant's": page,
            "run one step": create_and_run, "fall asleep and wake up": sleep_and_wake,
        }.items():  # fmt: skip
            found[name] = await cost(300, work)
    return found


async def settled(workflow: Workflow) -> None:
    """Wait until what a host does when it begins is done: until nothing is written any more."""
    writer, before = workflow._scheduler.writer, -1
    while before != writer.commits:
        before = writer.commits
        await asyncio.sleep(1)


# Instances that run


async def running(folder: Path, most: int) -> Costs:
    """A new one's life beside so many that run at once."""
    costs: Costs = {}
    for size in sizes(10, most):
        gate = asyncio.Event()
        async with opened(folder / f"running-{size}.db", env=gate, concurrency=size + 100) as workflow:
            for start in range(0, size, 100):
                alike = [{"params": {"held": True}}] * min(100, size - start)
                await workflow.create_batch(alike, scope=f"t-{start // 100 % 50}")
            while len(workflow._scheduler.active) < size:
                await asyncio.sleep(0.02)

            async def create_and_run(number: int, workflow: Workflow = workflow) -> None:
                await (await workflow.create(params={"steps": 1}, scope=f"new-{number}")).result()

            costs.setdefault("run one step, against instances that run", {})[size] = await cost(300, create_and_run)
            gate.set()
    return costs


# Steps and bytes of one instance


async def histories(folder: Path, most: int) -> Costs:
    """Of the host's own code, and of a tenant's in its sandbox, whose CPU time counts there."""
    async with Engine(folder / "own.db", linger=0.005) as engine:
        costs = await of_steps(engine, engine.workflow("w", Program), "", most)
    code = WorkerCode(main_module="main.py", modules={"main.py": SOURCE})
    engine = Engine(folder / "tenant.db", linger=0.005)
    config = LoaderConfig(sandboxes_per_tenant=1)
    async with Host(folder / "tenant.db", get_code=lambda _: code, engine=engine, config=config) as host:

        def cpu() -> float:
            guests = host.loader.statistics(detail=True).sandboxes
            return time.process_time() + sum(guest.cpu_ms for guest in guests) / 1000

        return costs | await of_steps(engine, host.workflows("t"), " in a sandbox", most, cpu)


async def of_steps(
    engine: Engine, binding: Any, where: str, most: int, cpu: Callable[[], float] = time.process_time
) -> Costs:
    """A step of an instance that has so many, one after the other and side by side; and of its replay."""
    costs: Costs = {}

    def life(**params: int) -> Work:
        async def create_and_run(_: int) -> None:
            await (await binding.create(params=params)).result()

        return create_and_run

    async def record(name: str, size: int, work: Work) -> None:
        costs.setdefault(f"{name}{where}", {})[size] = await cost(1, work, rounds=3, cpu=cpu) / size

    for size in sizes(10, most):
        await record("a step, against steps before it", size, life(steps=size))
        if not where or size <= CALLS:
            await record("a step, against steps beside it", size, life(wide=size))
        await record("replay a step, against steps", size, replaying(engine, binding, {"steps": size}))
    for size in sizes(100, most * 10):
        of_bytes = {"steps": 10, "bytes": size // 10}
        await record("replay a byte, against bytes of history", size, replaying(engine, binding, of_bytes))
    return costs


def replaying(engine: Engine, binding: Any, params: dict[str, Any]) -> Work:
    """Put an instance to sleep behind such a history; then have it woken, and fall asleep again, by a restart."""
    asleep: list[Any] = []

    async def replay(_: int) -> None:
        before = engine.statistics().parked
        if not asleep:
            asleep.append(await binding.create(params={**params, "sleep": "300 days"}))
        else:
            await asleep[0].restart(from_step={"name": "night", "type": "sleep"})
        while engine.statistics().parked == before or engine.statistics().running:
            await asyncio.sleep(0.002)

    return replay


# What comes of it


def sizes(least: int, most: int) -> list[int]:
    """Ten times as much each time."""
    return [least * 10**power for power in range(9) if least * 10**power <= most]


def verdict(costs: dict[int, float]) -> str:
    """How it grew with the last tenfold, and in all: what costs less in the end than in the beginning is flat."""
    if len(costs) < 2:
        return ""
    *_, before, last = sorted(costs)
    grown, overall = costs[last] / costs[before], costs[last] / costs[min(costs)]
    logarithm = math.log(last) / math.log(before)
    kind = "flat" if grown <= FLAT else "logarithm" if grown <= STEEP * logarithm else "grows"
    return f"{kind} ({grown:.1f}; {overall:.1f})"


def paint(axes: Any, costs: Costs) -> None:
    """Each operation against its sizes."""
    for number, (name, found) in enumerate(costs.items()):
        line = "-" if number < 10 else "--"  # there are ten colours
        axes.plot(list(found), list(found.values()), marker="o", linestyle=line, label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("so many there are")
    axes.set_ylabel("µs of CPU")
    axes.legend(fontsize=6, loc="center left", bbox_to_anchor=(1, 0.5))


async def benchmark(*, tenants: int, runs: int, steps: int, plot: str | None) -> None:
    """All of them."""
    costs: Costs = {}
    for measure, most in ((histories, steps), (running, runs), (asleep, tenants)):
        with tempfile.TemporaryDirectory() as name:
            costs |= await measure(Path(name), most)
    columns = sorted({size for found in costs.values() for size in found})
    listing(
        "scaling: µs of CPU for each",
        ["operation", *(f"{size:,}" for size in columns), "at last; in all"],
        [[name, *(f"{found[size]:,.3g}" if size in found else "" for size in columns), verdict(found)]
         for name, found in costs.items()],
    )  # fmt: skip
    steep = [name for name, found in costs.items() if verdict(found).startswith("grows")]
    say(f"neither flat nor a logarithm: {', '.join(steep) or 'none'}")
    draw(plot, lambda axes: paint(axes, costs), title="cost against size", size=(11, 6))


if __name__ == "__main__":
    asked = options(__doc__, drawn=True, tenants=1_000_000, runs=10_000, steps=10_000)
    main(lambda: benchmark(**vars(asked)))
