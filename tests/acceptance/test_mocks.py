"""A tenant's workflow under test: outcomes that are decided, evictions after every step, crashes after every commit."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from cloister.engine import Engine, InstanceAlreadyExists, InstanceFinished
from cloister.engine.testing import Mocks, VirtualClock, crash_after_every_commit
from cloister.loader import wrap_workflow_binding
from cloister.loader.dispatch import create_dynamic_workflow_entrypoint

SOURCE = """
    import asyncio
    from workers import WorkflowEntrypoint
    class TenantWorkflow(WorkflowEntrypoint):
        async def run(self, event, step):
            def body(name):
                async def work(ctx):
                    await self.env.LEDGER.note(name)
                    if name == "flaky" and ctx.attempt == 1:
                        raise ValueError
                    return name
                return work
            retries = {"retries": {"limit": 2, "delay": "1 hour"}}
            first = await step.do("first", body("first"))
            await step.sleep("night", "8 hours")
            pair = await asyncio.gather(step.do("left", body("left")), step.do("right", body("right")))
            flaky = await step.do("flaky", retries, body("flaky"))
            heard = await step.wait_for_event("w", "t")
            number = await step.random()
            same = number == await step.do("number", lambda: number)
            return [first, *pair, flaky, heard.payload, same]
"""


async def play(stage: Any, path: Any, mocks: Mocks | None) -> tuple[Any, int]:
    """The program on an engine with these mocks: its output, and how many runs that took."""
    stage.source = SOURCE
    async with Engine(path, clock=stage.clock, mocks=mocks) as engine:
        entrypoint = create_dynamic_workflow_entrypoint(
            lambda _: stage.loader.get(stage.name, stage.code).get_entrypoint("TenantWorkflow")
        )
        binding = wrap_workflow_binding(engine.workflow("w", entrypoint), {"tenant_id": stage.name})
        instance = await binding.create()
        if mocks is None or mocks.evict:
            await instance.send_event(type="t", payload="news")
        return await stage.outcome(instance), engine.statistics().started


async def test_a_tenants_steps_end_as_the_test_decides(stage: Any, path: Any) -> None:
    """Results, errors, timeouts and events, without sleeping and without running what is decided."""
    mocks = Mocks(skip_sleeps=True, skip_retry_delays=True)
    mocks.step_result("first", {"mocked": True})
    mocks.step_error("flaky", ConnectionError("mocked"), times=1)
    mocks.step_timeout("flaky", times=1)
    mocks.event("t", "mocked news")
    output, _ = await play(stage, path.with_name("mocked.db"), mocks)
    assert output == [{"mocked": True}, "left", "right", "flaky", "mocked news", True]
    assert sorted(stage.ledger.entries) == ["flaky", "left", "right"]


@pytest.mark.parametrize("evict", [False, True])
async def test_with_an_eviction_after_every_step_the_end_is_the_same(stage: Any, path: Any, evict: bool) -> None:
    """Bodies run for outcomes that are not recorded, and for no others."""
    output, runs = await play(stage, path.with_name("evicted.db"), Mocks(evict=True) if evict else None)
    assert output == ["first", "left", "right", "flaky", "news", True]
    assert runs > 8 if evict else runs <= 8
    alone = [entry for entry in stage.ledger.entries if entry not in {"left", "right"}]
    assert alone == ["first", "flaky", "flaky"]


STORY = """
    import asyncio
    from workers import WorkflowEntrypoint
    class TenantWorkflow(WorkflowEntrypoint):
        async def run(self, event, step):
            async def flaky(ctx):
                if ctx.attempt == 1:
                    raise ValueError
                return "flaky"
            async def stream():
                yield b"x" * 300_000
            pair = await asyncio.gather(step.do("left", lambda: "left"), step.do("right", lambda: "right"))
            size = (await step.do("stream", stream)).size
            flaky = await step.do("flaky", {"retries": {"limit": 2, "delay": "1 hour"}}, flaky)
            heard = (await step.wait_for_event("w", "t")).payload
            await step.sleep("night", "8 hours")
            number = await step.random()
            try:
                await step.do("fails", {"retries": {"limit": 0, "delay": 0}}, lambda: 1 / 0)
            except Exception as error:
                failure = type(error).__name__
            return [*pair, size, flaky, heard, number == await step.do("same", lambda: number), failure]
"""


def story_on(stage: Any) -> Any:
    """What plays it on an engine: its output, its error, and how often each step was tried."""
    stage.source = STORY

    async def play(engine: Engine, clock: VirtualClock) -> Any:
        entrypoint = create_dynamic_workflow_entrypoint(
            lambda _: stage.loader.get(stage.name, stage.code).get_entrypoint("TenantWorkflow")
        )
        binding = wrap_workflow_binding(engine.workflow("w", entrypoint), {"tenant_id": stage.name})
        try:
            instance = await binding.create(id="i")
        except InstanceAlreadyExists:
            instance = await binding.get("i")
        with contextlib.suppress(InstanceFinished):
            await instance.send_event(type="t", payload="news", id="one")
        while (await instance.status())["status"] not in {"complete", "errored"}:
            await clock.advance(600)
            await asyncio.sleep(0.001)
        status = await instance.status()
        return status["output"], status["error"], [(each["name"], each["attempts"]) for each in status["steps"]]

    return play


@pytest.mark.parametrize("evict", [False, True])
async def test_a_tenants_story_ends_the_same_after_a_crash_at_any_commit(
    stage: Any, tmp_path: Path, evict: bool
) -> None:
    """In its own sandbox, which knows nothing of the hosts that come and go; put aside after each step or not."""
    folder = tmp_path / "copies"
    folder.mkdir()
    output, error, steps = await crash_after_every_commit(folder, story_on(stage), mocks=Mocks(evict=evict))
    assert (output, error) == (["left", "right", 300_000, "flaky", "news", True, "ZeroDivisionError"], None)
    assert ("flaky", 2) in steps
    assert len(list(folder.glob("*.db"))) > 15, "there were as many crashes"
