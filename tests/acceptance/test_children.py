"""A tenant's step creates an instance and awaits it: across evictions, with its errors, while it is wanted."""

from __future__ import annotations

from typing import Any

PROGRAM = """
    import asyncio
    from workers import WorkflowEntrypoint
    class TenantWorkflow(WorkflowEntrypoint):
        async def run(self, event, step):
            if event.payload.get("hours"):
                await self.env.LEDGER.note(f"child {event.payload.hours}")
                await step.sleep("work", f"{event.payload.hours} hours")
                if event.payload.get("fails"):
                    raise LookupError("not found")
                return {"did": event.payload.hours}
            PARENT
"""


def family(stage: Any, parent: str) -> Any:
    binding = stage.bind(PROGRAM.replace("PARENT", parent))
    stage.env["WORKFLOWS"] = binding
    return binding


async def test_a_parent_awaits_its_child_across_evictions(stage: Any) -> None:
    """It is created once, whatever happens to the sandbox of either."""
    binding = family(stage, """
            first = await step.child("first", self.env.WORKFLOWS, {"params": {"hours": 10}})
            await step.sleep("rest", "1 hour")
            second = await step.child("second", self.env.WORKFLOWS, params={"hours": 2}, id="named")
            return [first, second]""")  # fmt: skip
    instance = await binding.create(params={})
    await stage.rests(instance)
    assert stage.evict()
    assert await stage.outcome(instance) == [{"did": 10}, {"did": 2}]
    assert set(stage.ledger.entries) == {"child 10", "child 2"}
    assert (await (await binding.get("named")).status())["output"] == {"did": 2}
    assert len((await binding.list()).instances) == 3


async def test_a_childs_error_is_the_parents_to_catch_in_every_replay(stage: Any) -> None:
    """With its class, if Python has one of that name."""
    binding = family(stage, """
            try:
                await step.child("c", self.env.WORKFLOWS, {"params": {"hours": 1, "fails": True}})
            except LookupError as error:
                caught = str(error)
            await step.sleep("rest", "1 hour")
            return caught""")  # fmt: skip
    instance = await binding.create(params={})
    assert await stage.outcome(instance) == "LookupError: not found"
    assert len((await binding.list()).instances) == 2


async def test_terminating_a_parent_or_giving_up_a_child_terminates_the_child(stage: Any) -> None:
    """So does a timeout of the step."""
    binding = family(stage, """
            if event.payload.get("gives up"):
                task = asyncio.ensure_future(step.child("c", self.env.WORKFLOWS, {"params": {"hours": 999}, "id": "b"}))
                await step.sleep("patience", "1 hour")
                task.cancel()
                return "gave up"
            options = {"params": {"hours": 8000}, "id": event.instanceId + "-child"}
            timeout = event.payload.get("timeout")
            await step.child("c", self.env.WORKFLOWS, options, timeout=timeout)""")  # fmt: skip
    for name, params in (("a", {}), ("late", {"timeout": "2 hours"})):
        instance = await binding.create(id=name, params=params)
        await stage.rests(instance)
        if name == "a":
            await instance.terminate()
        error = await stage.outcome(instance)
        assert error["name"] == ("Terminated" if name == "a" else "WorkflowTimeoutError")
        assert (await (await binding.get(f"{name}-child")).status())["status"] == "terminated"
    gone = await binding.create(id="g", params={"gives up": True})
    assert await stage.outcome(gone) == "gave up"
    assert (await (await binding.get("b")).status())["status"] == "terminated"


async def test_only_a_workflow_binding_makes_children(stage: Any) -> None:
    """Any other capability, and what is none, is refused with words."""
    binding = family(stage, """
            words = []
            for other in (self.env.LEDGER, {"create": 1}):
                try:
                    await step.child("c", other, {"params": {}})
                except Exception as error:
                    words.append(str(error))
            return words""")  # fmt: skip
    told = await stage.outcome(await binding.create(params={}))
    capability, plain = told
    assert "a workflow binding" in capability
    assert "takes a workflow binding" in plain
