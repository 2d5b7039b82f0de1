"""cloister, as its README has one use it: each tenant's code in confined sandboxes, ten tenants."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

import workload
from workload import RUNS, SETTLED, SLEEPERS, STEPS_EACH, asked, descendants, note, resident, say, stored

from cloister.loader import Host, Policy, WorkerCode

TENANTS, BOOTS, WARM, SPARES = 10, 300, 256, 8
PROGRAM = """
from workers import WorkerEntrypoint, WorkflowEntrypoint

class Default(WorkerEntrypoint):
    def answer(self):
        return 42

class TenantWorkflow(WorkflowEntrypoint):
    async def run(self, event, step):
        if event.payload.get("sleep"):
            await step.do("before", lambda: 0)
            await step.sleep("night", "10 hours")
        total = 0
        for number in range(event.payload.get("steps", 0)):
            async def body(number=number):
                if run := event.payload.get("run"):
                    await self.env.NOTE(run, number)
                return number
            total += await step.do(f"step {number}", body)
        return total
"""

what, folder = asked()
turns = itertools.count()


def code(tenant_id: str) -> WorkerCode:
    """One program for all, and yet another one for each: nobody shares it."""
    return WorkerCode(
        main_module="main.py",
        modules={"main.py": f"# {tenant_id}\n{PROGRAM}"},
        env={"NOTE": lambda run, number: note(folder / "bodies", run, number)},
    )


async def boot(host: Host) -> None:
    """New tenants, one at a time: until each has answered for the first time."""
    samples = []
    for number in range(BOOTS):
        began = time.perf_counter()
        await host.tenant(f"new-{number}").answer()
        samples.append(1000 * (time.perf_counter() - began))
        await asyncio.sleep(0.02)  # for the next spare, as for whatever the peers do between
    say(ms=sorted(samples))


async def memory(host: Host) -> None:
    """What one more warm tenant takes, the host's share included, with as many spares before as after."""

    async def held() -> int:
        while host.loader.statistics().spares < SPARES:
            await asyncio.sleep(0.01)
        return resident(descendants(os.getpid()))

    await host.tenant("first").answer()
    before = await held()
    for number in range(WARM):
        await host.tenant(f"warm-{number}").answer()
    await asyncio.sleep(SETTLED)
    say(bytes=(await held() - before) / WARM)


async def sleepers(host: Host) -> None:
    """Begin them, and see what they cost when all are asleep."""
    before = resident([os.getpid()]), stored(folder)
    began = time.perf_counter()
    instances = [
        await host.workflows(f"tenant-{number % TENANTS}").create(params={"sleep": True}) for number in range(SLEEPERS)
    ]
    seconds = time.perf_counter() - began
    while (await instances[-1].status())["status"] != "waiting":
        await asyncio.sleep(0.05)
    await asyncio.sleep(SETTLED)
    after = resident([os.getpid()]), stored(folder)
    say(per_s=SLEEPERS / seconds, bytes=(after[0] - before[0]) / SLEEPERS, disk=(after[1] - before[1]) / SLEEPERS)


async def crash(host: Host) -> None:
    """Begin many, until somebody ends this process."""
    for number in range(RUNS):
        await host.workflows(f"tenant-{number % TENANTS}").create(
            id=f"r{number}", params={"steps": STEPS_EACH, "run": f"r{number}"}
        )
    note(folder / "created", RUNS)
    await asyncio.sleep(3600)


async def recover(host: Host) -> None:
    """Wait for all that was begun."""
    ended = 0
    for number in range(RUNS):
        instance = await host.workflows(f"tenant-{number % TENANTS}").get(f"r{number}")
        ended += await instance.result() == sum(range(STEPS_EACH))
    say(ended=ended)


async def main() -> None:
    """One workload."""
    policy = Policy(most_spares=SPARES) if what == "memory" else None
    host = Host(folder / "cloister.db", get_code=code, policy=policy, spares=SPARES, max_sandboxes=WARM + 32)
    async with host:

        async def run(count: int) -> Any:
            tenant = f"tenant-{next(turns) % TENANTS}"
            return await (await host.workflows(tenant).create(params={"steps": count})).result()

        general: dict[str, Callable[[workload.Run], Awaitable[None]]] = {
            "alone": workload.alone, "together": workload.together, "crowd": workload.crowd, "steps": workload.steps,
        }  # fmt: skip
        own: dict[str, Callable[[Host], Awaitable[None]]] = {
            "boot": boot, "memory": memory, "sleepers": sleepers, "crash": crash, "recover": recover,
        }  # fmt: skip
        if what in own:
            await own[what](host)
        else:
            for _ in range(TENANTS):
                await run(1)
            await general[what](run)


asyncio.run(main())
