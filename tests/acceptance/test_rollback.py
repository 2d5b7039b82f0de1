"""A tenant's steps are taken back, across evictions and replays, as a trusted workflow's are."""

from __future__ import annotations

from typing import Any

import pytest

TRIP = """
    from workers import WorkflowEntrypoint
    class TenantWorkflow(WorkflowEntrypoint):
        async def book(self, step, part):
            async def body():
                await self.env.LEDGER.note(f"book {part}")
                if part.startswith("no "):
                    raise LookupError(part)
                return part.upper()
            async def cancel(output, error, step_name):
                tries = await self.env.LEDGER.note(f"cancel {step_name} {output} for {error.name}")
                if tries <= FAILURES:
                    raise ConnectionError("try later")
            retries = {"retries": {"limit": 2, "delay": "1 minute", "backoff": "constant"}}
            once = {"retries": {"limit": 0, "delay": 0}}
            return await step.do(part, once, body, rollback=cancel, rollback_config=retries)
        async def run(self, event, step):
            await self.book(step, "flight")
            PROGRAM
"""


def trip(program: str, failures: int = 0) -> str:
    return TRIP.replace("PROGRAM", program).replace("FAILURES", str(failures))


async def test_a_run_that_fails_takes_its_steps_back_with_retries_and_in_another_sandbox(stage: Any) -> None:
    """The last one first, the one that failed without an output; what was taken back is not taken back again."""
    binding = stage.bind(trip("""await self.book(step, "no hotel")""", failures=1))
    instance = await binding.create()
    await stage.rests(instance)
    assert (await instance.status())["rollback"] == "running"
    assert stage.evict()
    error = await stage.outcome(instance)
    status = await instance.status()
    assert (status["status"], status["rollback"]) == ("errored", "complete")
    assert error == {"name": "LookupError", "message": "no hotel"}
    assert stage.ledger.entries == [
        "book flight",
        "book no hotel",
        *["cancel no hotel None for LookupError"] * 2,
        *["cancel flight FLIGHT for LookupError"] * 2,
    ]


@pytest.mark.parametrize("evicted", [True, False])
async def test_terminate_with_rollback_replays_a_sleeper_for_its_handlers(stage: Any, evicted: bool) -> None:
    """Nothing runs again, nothing new begins."""
    program = """await step.sleep("until then", "30 days")\n            await self.book(step, "taxi")"""
    binding = stage.bind(trip(program))
    instance = await binding.create()
    await stage.rests(instance)
    if evicted:
        assert stage.evict()
    await instance.terminate(rollback=True)
    error = await stage.outcome(instance, step=1)
    status = await instance.status()
    assert (status["status"], status["rollback"], error["name"]) == ("terminated", "complete", "Terminated")
    assert stage.ledger.entries == ["book flight", "cancel flight FLIGHT for Terminated"]


async def test_a_step_in_flight_is_stopped_and_taken_back_too(stage: Any, eventually: Any) -> None:
    """It may have done something, so its handler runs."""
    program = """
            import asyncio
            async def slow():
                await self.env.LEDGER.note("slow")
                await asyncio.sleep(3600)
            await step.do("slow", slow, rollback=lambda: self.env.LEDGER.note("slow back"))
            await step.do("never", slow, rollback=lambda: self.env.LEDGER.note("never back"))"""
    binding = stage.bind(trip(program))
    instance = await binding.create()
    await eventually(lambda: "slow" in stage.ledger.entries)
    await instance.terminate(rollback=True)
    await stage.outcome(instance, step=1)
    assert (await instance.status())["rollback"] == "complete"
    assert stage.ledger.entries == ["book flight", "slow", "slow back", "cancel flight FLIGHT for Terminated"]


async def test_the_first_handler_that_fails_for_good_ends_it(stage: Any) -> None:
    """What was not taken back is in the status."""
    binding = stage.bind(trip("""raise ValueError("enough")""", failures=9))
    instance = await binding.create()
    error = await stage.outcome(instance)
    status = await instance.status()
    assert error == {"name": "ValueError", "message": "enough"}
    assert status["rollback"] == "step 'flight' number 1 was not taken back: ConnectionError: try later"
    assert stage.ledger.entries.count("cancel flight FLIGHT for ValueError") == 3


async def test_a_step_in_the_body_of_another_one_is_taken_back_by_that(stage: Any) -> None:
    """No replay would know how to: its own handler is refused before it has done anything, and at once."""
    program = """
            async def outer():
                return await self.book(step, "inner")
            async def cancel():
                await self.env.LEDGER.note("cancel outer")
            await step.do("outer", outer, rollback=cancel)
    """
    instance = await stage.bind(trip(program.strip())).create()
    error = await stage.outcome(instance)
    assert error["name"] == "NonRetryableError"
    assert "give `rollback` to that one" in error["message"]
    assert stage.ledger.entries == ["book flight", "cancel outer", "cancel flight FLIGHT for NonRetryableError"]
