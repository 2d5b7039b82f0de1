"""Three figures, measured in the service itself, on the host and the database that ran the pipelines."""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any, Final

from cloister.loader import Host, WorkerCode

BOOTS: Final = 30
CALLS: Final = 500
STEPS: Final = 300
SPARES: Final = 4
TENANTS: Final = "figures/"
"""What the ids of the measured tenants begin with."""

_SOURCE: Final = """
from workers import WorkerEntrypoint, WorkflowEntrypoint

class Default(WorkerEntrypoint):
    async def answer(self):
        return TENANT

class TenantWorkflow(WorkflowEntrypoint):
    async def run(self, event, step):
        for number in range(event.payload.steps):
            await step.do(f"step {number}", lambda: number)
        return event.payload.steps
"""


def code(tenant_id: str) -> WorkerCode:
    """A small program; no two tenants have the same one."""
    return WorkerCode(main_module="main.py", modules={"main.py": f"TENANT = {tenant_id!r}\n{_SOURCE}"})


async def measure(host: Host) -> dict[str, Any]:
    """Boot and hop in seconds, steps a second."""
    return {
        "boot": statistics.median([await _boot(host, number) for number in range(BOOTS)]),
        "hop": statistics.median(await _hops(host)),
        "steps": await _steps(host),
        "layers": host.loader.statistics().layers,
    }


async def _boot(host: Host, number: int) -> float:
    """From the id of a tenant that was never seen to its first answer, with all spares ready and none being made."""
    while host.loader.statistics().spares < SPARES:  # noqa: ASYNC110 - the loader announces no spares
        await asyncio.sleep(0.002)
    began = time.perf_counter()
    await host.tenant(f"{TENANTS}{number}").answer()
    return time.perf_counter() - began


async def _hops(host: Host) -> list[float]:
    """Calls to a warm tenant, there and back, one after the other."""
    entrypoint = host.tenant(f"{TENANTS}0")
    samples = []
    for _ in range(CALLS // 10 + CALLS):
        began = time.perf_counter()
        await entrypoint.answer()
        samples.append(time.perf_counter() - began)
    return samples[CALLS // 10 :]


async def _steps(host: Host) -> float:
    """One workflow, one step after the other, each on disk before the next begins."""
    began = time.perf_counter()
    instance = await host.workflows(f"{TENANTS}0").create(params={"steps": STEPS})
    await instance.result()
    return STEPS / (time.perf_counter() - began)
