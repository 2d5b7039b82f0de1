"""A program that catches what it was refused, and goes on, comes to the same end however often it is replayed."""

from __future__ import annotations

from typing import Any

import pytest

from cloister.engine import WorkflowEntrypoint, WorkflowLimits
from cloister.engine.store import usage
from cloister.loader import wrap_workflow_binding
from cloister.loader.dispatch import create_dynamic_workflow_entrypoint

PROGRAM = """
import asyncio
from workers import WorkflowEntrypoint
class TenantWorkflow(WorkflowEntrypoint):
    async def run(self, event, step):
        said = []
        async def attempt(work):
            try:
                said.append(await work())
            except Exception as error:
                said.append(f"{type(error).__name__} {str(error).partition(':')[0]}")
            await self.env.LEDGER.note(f"{len(said)} {said[-1]}")
        for number in range(4):
            await attempt(lambda: ASK)
        await step.GO_ON
        said.append("went on")
        await step.END
        return said
"""


def bound(stage: Any, source: str, **limits: Any) -> Any:
    """The tenant's binding for a workflow with limits."""
    stage.source = source
    stub = stage.loader.get(stage.name, stage.code).get_entrypoint
    entrypoint = create_dynamic_workflow_entrypoint(lambda _: stub("TenantWorkflow"))
    workflow = stage.engine.workflow("w", entrypoint, **limits)
    return wrap_workflow_binding(workflow, {"tenant_id": stage.name})


class Once(WorkflowEntrypoint):
    """A child that is done at once."""

    async def run(self, event: Any, step: Any) -> int:
        return 1


CASES = {
    "do": ("step.do('a', lambda: number)", "sleep('b', '1 second')", "StepLimitExceeded"),
    "sleep": ("step.sleep('a', '1 second')", "do('b', lambda: 1)", "StepLimitExceeded"),
    "wait": ("step.wait_for_event('a', type='a', timeout='1 second')", "do('b', lambda: 1)", "StepLimitExceeded"),
    "value": ("step.random()", "do('b', lambda: 1)", "StepLimitExceeded"),
    "child": ("step.child('a', self.env.AGAIN, params=None)", "do('b', lambda: 1)", "StepLimitExceeded"),
    "large": ("step.do('a', lambda: 'x' * 40_000)", "sleep('b', '1 second')", "QuotaExceeded"),
}


@pytest.mark.parametrize("case", CASES)
async def test_what_is_beyond_a_limit_is_beyond_it_again(stage: Any, case: str) -> None:
    """An eviction after each step that was recorded."""
    ask, go_on, refusal = CASES[case]
    end = "sleep('end', '1 hour')" if case == "wait" else "wait_for_event('end', type='end')"
    source = PROGRAM.replace("ASK", ask).replace("GO_ON", go_on).replace("END", end)
    limits = WorkflowLimits(bytes_per_scope=100_000) if refusal == "QuotaExceeded" else WorkflowLimits(steps=2)
    if case == "child":
        stage.env = {**stage.env, "AGAIN": wrap_workflow_binding(stage.engine.workflow("c", Once), {}, scope="c")}
    binding = bound(stage, source, limits=limits)
    instance = await binding.create()

    async def rests_at_the_end() -> bool:
        status = await instance.status()
        begun = any(record["name"] == "end" for record in status["steps"])
        return bool(status["error"]) or (status["status"] == "waiting" and begun)

    await stage.until(rests_at_the_end, step=2.0)
    for _ in range(2):
        stage.evict()
        await stage.clock.advance(1)
    if case != "wait":
        await instance.send_event(type="end", payload=None)
    said = await stage.outcome(instance)
    assert isinstance(said, list), said
    assert said[4:] == ["went on"]
    assert [refusal in str(what) for what in said[:4]] == [False, False, True, True]
    lines = set(stage.ledger.entries)
    assert len(lines) == 4, lines
    assert stage.ledger.entries.count(min(lines)) >= 2


CROWDED = """
import asyncio
from workers import WorkflowEntrypoint
class TenantWorkflow(WorkflowEntrypoint):
    async def run(self, event, step):
        first = []
        for name in "ab":
            first.append(asyncio.ensure_future(step.child(name, self.env.FEW)))
            await step.sleep("until it has begun", "2 seconds")
        said = []
        try:
            said.append(await step.child("c", self.env.FEW))
        except Exception as error:
            said.append(f"{type(error).__name__} {error}".partition(":")[0])
        await self.env.LEDGER.note(said[0])
        said += await asyncio.gather(*first)
        await step.sleep("rest", "1 hour")
        return said
"""


class Slow(WorkflowEntrypoint):
    """A child that takes its time."""

    async def run(self, event: Any, step: Any) -> int:
        await step.do("work", lambda: self.env.sleep(60))
        return 1


async def test_a_child_that_found_the_queue_full_is_not_created_when_there_is_room(stage: Any) -> None:
    """One runs, one is queued, and the third is refused for good."""
    few = stage.engine.workflow("c", Slow, env=stage.clock, concurrency=1, limits=WorkflowLimits(queued_per_scope=1))
    stage.env = {**stage.env, "FEW": wrap_workflow_binding(few, {}, scope="c")}
    instance = await bound(stage, CROWDED).create()

    async def refused() -> bool:
        return bool(stage.ledger.entries)

    await stage.until(refused, step=0.5)
    stage.evict()
    said = await stage.outcome(instance, step=20.0)
    assert isinstance(said, list), said
    assert "QueueFull" in said[0]
    assert said[1:] == [1, 1]
    assert len(set(stage.ledger.entries)) == 1
    assert len(stage.ledger.entries) >= 2


FULL = """
import asyncio
from workers import WorkflowEntrypoint
class TenantWorkflow(WorkflowEntrypoint):
    async def run(self, event, step):
        if "ballast" in event["payload"]:
            return
        rest, said = step.sleep("rest", "1 hour"), []
        await asyncio.sleep(0)
        number, refused = 0, 0
        while refused < event["payload"]["times"]:
            number += 1
            try:
                await ASK
                said.append("done")
            except Exception as error:
                said.append(f"{type(error).__name__} {error}")
                refused += any(name in said[-1] for name in ("Quota", "TooFar"))
        await self.env.LEDGER.note("|".join(said))
        await rest
        return said
"""
LACKS = {
    "sleep": "step.sleep(f's{number}', '1 second')",
    "moment": "step.sleep_until(f's{number}', NOW + (number % 2) * 366 * 86_400_000)",
    "wait": "step.wait_for_event(f's{number}', type='none', timeout='1 second')",
    "value": "step.random()",
    "child": "step.child(f's{number}', self.env.AGAIN, params=None)",
}
"""What a program asks for, again and again."""


@pytest.mark.parametrize("case", LACKS)
async def test_what_was_refused_once_is_refused_again_when_it_would_not_be(
    stage: Any, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the same words and the same class, whatever has been deleted meanwhile, and however late it is."""
    monkeypatch.setattr(usage, "SPARE", 4_000)
    again = wrap_workflow_binding(stage.engine.workflow("c", Once), {}, scope="c")
    stage.env = {**stage.env, "AGAIN": again}
    source = FULL.replace("ASK", LACKS[case]).replace("NOW", str(stage.clock.now()))
    binding = bound(stage, source, limits=WorkflowLimits(bytes_per_scope=3_000))
    ballast = await binding.create(params={"ballast": "x" * 1_500})
    await stage.outcome(ballast)
    instance = await binding.create(params={"times": 3})

    async def rests_at_the_end() -> bool:
        status = await instance.status()
        return bool(status["error"]) or bool(stage.ledger.entries and status["status"] == "waiting")

    await stage.until(rests_at_the_end, step=1.0)
    await ballast.delete()
    stage.evict()
    await stage.clock.advance(86_400 * 2)
    said = await stage.outcome(instance)
    assert isinstance(said, list), said
    assert len(said) > 3 or case == "moment"
    assert "QuotaExceeded" in said[-1] or "MomentTooFar" in said[-1]
    assert len(stage.ledger.entries) >= 2
    assert set(stage.ledger.entries) == {"|".join(said)}


async def test_a_run_that_there_is_no_room_for_at_all_ends_with_that(
    stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it catches: it would have to be told the same in every replay."""
    monkeypatch.setattr(usage, "SPARE", 4_000)
    source = FULL.replace("ASK", LACKS["sleep"])
    instance = await bound(stage, source, limits=WorkflowLimits(bytes_per_scope=3_000)).create(params={"times": 300})
    end = await stage.outcome(instance, step=10.0)
    assert end["name"] == "QuotaExceeded"
    assert stage.ledger.entries == []
