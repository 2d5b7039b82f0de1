"""A run may begin as many steps at once as it may have, of each kind, and none is refused."""

from __future__ import annotations

from typing import Any

import pytest

from cloister.loader import Limits, Loader, LoaderConfig

HEAD = "import asyncio\nfrom workers import WorkflowEntrypoint\n"
MOST = 9_999

DO = """
class TenantWorkflow(WorkflowEntrypoint):
    async def run(self, event, step):
        await self.env.LEDGER.note("run")
        async def body(n):
            await asyncio.sleep(0)
            return n
        many = event["payload"]
        found = await asyncio.gather(*(step.do(f"s{n % 7}", lambda n=n: body(n)) for n in range(many)))
        await step.sleep("rest", "1 hour")
        return [len(found), sum(found), found == list(range(many))]
"""
SLEEP = """
class TenantWorkflow(WorkflowEntrypoint):
    async def run(self, event, step):
        await self.env.LEDGER.note("run")
        many = event["payload"]
        await asyncio.gather(*(step.sleep(f"s{n % 7}", "2 hours") for n in range(many)))
        return many
"""
WAIT = """
class TenantWorkflow(WorkflowEntrypoint):
    async def run(self, event, step):
        await self.env.LEDGER.note("run")
        many = event["payload"]
        async def wait(n):
            try:
                return (await step.wait_for_event(f"w{n % 7}", f"t{n}", "2 hours"))["payload"]
            except Exception:
                return "late"
        found = await asyncio.gather(*(wait(n) for n in range(many)))
        return [found.count("late"), [n for n in found if isinstance(n, int)]]
"""
ALL = """
class TenantWorkflow(WorkflowEntrypoint):
    async def run(self, event, step):
        await self.env.LEDGER.note("run")
        async def body(n):
            await asyncio.sleep(0)
            return n
        async def wait(n):
            try:
                return (await step.wait_for_event(f"w{n % 7}", f"t{n}", "2 hours"))["payload"]
            except Exception:
                return None
        kinds = (lambda n: step.do(f"s{n % 7}", lambda: body(n)), lambda n: step.sleep(f"n{n % 7}", "2 hours"), wait)
        found = await asyncio.gather(*(kinds[n % 3](n) for n in range(event["payload"])))
        return [found[::3] == list(range(0, len(found), 3)), [n for n in found[2::3] if n is not None]]
"""
LONG = pytest.mark.long


@pytest.mark.parametrize(
    ("program", "told"),
    [
        pytest.param(DO, [MOST, MOST * (MOST - 1) // 2, True], id="do", marks=LONG),
        pytest.param(SLEEP, MOST, id="sleep", marks=LONG),
        pytest.param(WAIT, [MOST - 3, [2, 5000, 9998]], id="wait", marks=LONG),
        pytest.param(ALL, [True, [2, 5000, 9998]], id="all"),
    ],
)
async def test_as_many_steps_at_once_as_a_run_may_have(stage: Any, program: str, told: Any) -> None:
    """Replayed after its sandbox was taken away, too."""
    stage.options = {"limits": Limits(cpu_ms=60_000, memory_bytes=512 << 20)}
    binding = stage.bind(HEAD + program)
    instance = await binding.create(params=MOST)
    await stage.rests(instance)
    stage.evict()
    if program in (WAIT, ALL):
        for n in (2, 5000, 9998):
            await instance.send_event(type=f"t{n}", payload=n)
    assert await stage.outcome(instance) == told
    assert stage.ledger.entries.count("run") >= 2


NARROW = """
class TenantWorkflow(WorkflowEntrypoint):
    async def run(self, event, step):
        async def call(n):
            return await self.env.LEDGER.note(f"call {n}")
        found = await asyncio.gather(
            *(step.do(f"d{n}", lambda n=n: call(n) if n == 7 else bytes(200_000)) for n in range(100)),
            *(step.sleep(f"s{n}", "1 hour") for n in range(100)),
            *(asyncio.wait_for(step.sleep(f"late{n}", "300 days"), 0.05) for n in range(100)),
            return_exceptions=True,
        )
        return [found[7], [len(f) for f in found[:100] if isinstance(f, bytes)].count(200_000),
                [type(f).__name__ for f in found[200:]].count("TimeoutError")]
"""


async def test_a_sandbox_that_may_make_one_call_at_a_time_asks_as_much(stage: Any) -> None:
    """Also when who waited gives up, and when more is returned at once than is kept of questions."""
    stage.options = {"limits": Limits(calls_in_flight=1)}
    instance = await stage.bind(HEAD + NARROW).create()
    assert await stage.outcome(instance) == [1, 99, 100]


PAUSED = """
class TenantWorkflow(WorkflowEntrypoint):
    async def run(self, event, step):
        async def body(n):
            if await self.env.LEDGER.note("began") == 300:
                await self.env.LEDGER.note("all")
            await GO.wait()
            return n
        async def go():
            await step.wait_for_event("go", "go", "2 hours")
        found = await asyncio.gather(*(step.do(f"d{n}", lambda n=n: body(n)) for n in range(300)))
        return sum(found)

class Default(WorkerEntrypoint):
    async def go(self):
        GO.set()
GO = asyncio.Event()
"""


async def test_a_pause_waits_for_all_that_is_in_flight(stage: Any, eventually: Any) -> None:
    """The outcomes that it keeps back are in nobody's way."""
    one = LoaderConfig(sandboxes_per_tenant=1)  # who says that they may go on is to find them
    async with Loader(max_sandboxes=2, spares=1, config=one) as stage.loader:
        head = HEAD.replace("WorkflowEntrypoint", "WorkerEntrypoint, WorkflowEntrypoint")
        instance = await stage.bind(head + PAUSED).create()
        await eventually(lambda: "all" in stage.ledger.entries)
        pausing = await instance.pause()
        assert pausing is None
        await stage.loader.get(stage.name, stage.code).get_entrypoint().go()

        async def paused() -> bool:
            return bool((await instance.status())["status"] == "paused")

        await eventually(paused)
        await instance.resume()
        assert await stage.outcome(instance, step=0.1) == sum(range(300))  # no attempt's time runs out meanwhile
        assert stage.ledger.entries.count("began") == 300
