"""Eviction at every place where it could hurt: the outcome is the one of a run that was left alone."""

from __future__ import annotations

import asyncio
import textwrap
from collections import Counter
from typing import Any

import pytest

from cloister.engine import Engine
from cloister.loader import Host, WorkerCode

PROGRAM = """
    import asyncio
    from workers import WorkflowEntrypoint
    class TenantWorkflow(WorkflowEntrypoint):
        async def run(self, event, step):
            seen = []
            for number in range(3):
                async def body(ctx):
                    await self.env.LEDGER.note(f"{self.env.NAME} loop {number}")
                    return [number, ctx.attempt]
                seen.append(await step.do("loop", body))
                await step.sleep("apart", event.payload.apart)
            @step.do()
            async def left():
                await self.env.LEDGER.note(f"{self.env.NAME} left")
                return "l"
            @step.do()
            async def right():
                await self.env.LEDGER.note(f"{self.env.NAME} right")
                return "r"
            @step.do(concurrent=True)
            async def both(left, right):
                await self.env.LEDGER.note(f"{self.env.NAME} both")
                return left + right
            seen.append(await both())
            async def flaky(ctx):
                await self.env.LEDGER.note(f"{self.env.NAME} flaky {ctx.attempt}")
                if ctx.attempt == 1:
                    raise LookupError("the first time")
                return ctx.attempt
            seen.append(await step.do("flaky", {"retries": {"limit": 1, "delay": event.payload.apart}}, flaky))
            got = await step.wait_for_event("word", "word")
            return [*seen, got.payload]
"""
OUTPUT = [[0, 1], [1, 1], [2, 1], "lr", 2, "the word"]
BODIES = ["loop 0", "loop 1", "loop 2", "left", "right", "both", "flaky 1", "flaky 2"]


def code(name: str, ledger: Any, source: str = PROGRAM) -> WorkerCode:
    modules = {"main.py": textwrap.dedent(source)}
    return WorkerCode(main_module="main.py", modules=modules, env={"LEDGER": ledger, "NAME": name})


async def test_a_run_that_is_left_alone_runs_each_body_once(path: Any, ledger: Any) -> None:
    """What all others are held against."""
    async with Host(path, get_code=lambda name: code(name, ledger)) as host:
        instance = await host.workflows("calm").create(params={"apart": 0})
        await instance.send_event(type="word", payload="the word")
        assert await instance.result() == OUTPUT
    assert Counter(ledger.entries) == Counter(f"calm {body}" for body in BODIES)


async def test_an_eviction_in_the_middle_of_each_body_changes_nothing(path: Any, ledger: Any) -> None:
    """Each body begins again, once, since its outcome was not on record; nothing that was on record does."""
    async with Host(path, get_code=lambda name: code(name, ledger), spares=3) as host:
        evicted: list[str] = []

        def evict(entry: str) -> None:
            if entry not in evicted:
                evicted.append(entry)
                assert host.loader.evict("harried")

        ledger.on_entry = evict
        instance = await host.workflows("harried").create(params={"apart": 0})
        await instance.send_event(type="word", payload="the word")
        assert await instance.result() == OUTPUT
        steps = (await instance.status())["steps"]
    assert {step["name"]: step["attempts"] for step in steps if step["kind"] == "do"} == {
        "loop": 1, "left": 1, "right": 1, "both": 1, "flaky": 2,
    }  # fmt: skip
    counts = Counter(entry.removeprefix("harried ") for entry in ledger.entries)
    assert counts.keys() == set(BODIES)
    sequential = set(BODIES) - {"left", "right"}  # these two are in one sandbox: evicting one takes the other along
    assert all(counts[body] == 2 for body in sequential), counts
    assert all(2 <= counts[body] <= 3 for body in ("left", "right")), counts


async def test_two_tenants_that_push_each_other_out_between_their_steps_come_to_the_same_end(
    path: Any, ledger: Any, clock: Any
) -> None:
    """In a cache of one each step of the one evicts the other; each body still runs once."""
    engine = Engine(path, clock=clock, linger=0.001)
    async with Host(path, get_code=lambda name: code(name, ledger), max_sandboxes=1, spares=1, engine=engine) as host:
        instances = [await host.workflows(name).create(params={"apart": 3_600_000}) for name in ("ann", "bob")]
        for instance in instances:
            await instance.send_event(type="word", payload="the word")
        results = asyncio.gather(*(instance.result() for instance in instances))
        while not results.done():  # the hours of the one are those of the other: then both want to go on
            await clock.advance(0.002 if engine.statistics().running else 3600)
            await asyncio.sleep(0.001)
        assert await results == [OUTPUT] * 2
        assert host.loader.statistics().evictions >= 6
        assert host.loader.statistics().warm <= 1
    assert Counter(ledger.entries) == Counter(f"{name} {body}" for name in ("ann", "bob") for body in BODIES)


async def test_no_number_of_evictions_of_one_step_ends_an_instance(path: Any, ledger: Any) -> None:
    """Thirty in a row without any progress: the host's doing, and never held against the tenant."""
    source = """
        from workers import WorkflowEntrypoint
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                return await step.do("long", lambda: self.env.LEDGER.note("begun"))
    """
    async with Host(path, get_code=lambda name: code(name, ledger, source), spares=3) as host:
        evictions = 30

        def evict(_: str) -> None:
            nonlocal evictions
            if evictions:
                evictions -= 1
                host.loader.evict("t")

        ledger.on_entry = evict
        instance = await host.workflows("t").create()
        assert await instance.result() == 31
        (step,) = (await instance.status())["steps"]
    assert (step["status"], step["attempts"]) == ("done", 1)


@pytest.mark.parametrize("moment", ["booting", "importing", "replaying"])
async def test_an_eviction_before_the_first_step_costs_nothing(
    path: Any, ledger: Any, eventually: Any, moment: str
) -> None:
    """While code is fetched, while it is imported, or while recorded steps are answered."""
    slow = "import time\ntime.sleep(0.2)\n" if moment == "importing" else ""
    program = slow + textwrap.dedent("""
        from workers import WorkflowEntrypoint
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                total = 0
                for number in range(200):
                    total += await step.do("add", lambda: 1)
                await step.sleep("apart", 3000)  # for less it would be kept
                return total
    """)
    fetching, fetched = asyncio.Event(), asyncio.Event()

    async def get_code(name: str) -> WorkerCode:
        if moment == "booting" and not fetching.is_set():
            fetching.set()
            await fetched.wait()
        return code(name, ledger, program)

    async with Host(path, get_code=get_code, spares=3) as host:
        events = host.loader.subscribe()
        instance = await host.workflows("t").create()
        if moment == "booting":
            await fetching.wait()
            assert host.loader.evict("t")
            fetched.set()
        else:
            assert (await anext(events)).kind == "boot"
            if moment == "replaying":

                async def waiting() -> bool:
                    return bool((await instance.status())["status"] == "waiting")

                await eventually(waiting)
                host.loader.evict("t")
                while (await anext(events)).kind != "boot":
                    pass
            assert host.loader.evict("t")
        assert await instance.result() == 200


async def test_direct_calls_and_runs_of_one_tenant_share_a_sandbox_and_its_fate(
    path: Any, ledger: Any, eventually: Any
) -> None:
    """The call in flight is told; the runs, of which there are ten, are not bothered."""
    source = """
        import asyncio
        from workers import WorkerEntrypoint, WorkflowEntrypoint
        class Default(WorkerEntrypoint):
            async def hold(self):
                await self.env.LEDGER.note("held")
                await asyncio.sleep(1000)
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                async def body():
                    if await self.env.LEDGER.note(f"body {event.payload}") == 1:
                        await asyncio.sleep(1000)
                    return event.payload
                return await step.do("body", body)
    """
    async with Host(path, get_code=lambda name: code(name, ledger, source), spares=3) as host:
        call = asyncio.ensure_future(host.tenant("t").hold())
        instances = [await host.workflows("t").create(params=number) for number in range(10)]
        await eventually(lambda: len(ledger.entries) == 11)
        assert host.loader.statistics().boots == 1
        assert host.loader.evict("t")
        with pytest.raises(Exception, match="evicted"):
            await call
        assert [await instance.result() for instance in instances] == list(range(10))
