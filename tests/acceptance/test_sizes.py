"""A value of exactly as many bytes as may be stored is stored, wherever it comes from; one of one more is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cloister.engine import PayloadTooLarge, Schedule
from cloister.engine.rules import MAX_PAYLOAD
from cloister.ipc import values
from cloister.loader import wrap_workflow_binding

FORMS: dict[str, Callable[[int], Any]] = {
    "ASCII": lambda n: "x" * n,
    "two bytes each": lambda n: "é" * (n // 2) + "x" * (n % 2),
    "four bytes each": lambda n: "\U0001f600" * (n // 4) + "x" * (n % 4),
    "bytes": bytes,
    "nested": lambda n: {"a": [{"b": "x" * n}]},
}
PROGRAM = """
from workers import WorkflowEntrypoint
class TenantWorkflow(WorkflowEntrypoint):
    async def run(self, event, step):
        match event.payload:
            case {"hand on": size}:
                value = await step.do("result", lambda: "x" * size)
                return len(await step.child("of ours", self.env.WORKFLOWS, {"params": value}))
            case {"wait": kind}:
                return (await step.wait_for_event("wait", kind)).payload
            case value:
                return value
"""


def sized(form: str, size: int) -> Any:
    """A value that takes so many bytes when it is encoded."""
    make = FORMS[form]
    around = len(values.dumps(make(MAX_PAYLOAD))) - MAX_PAYLOAD
    value = make(size - around)
    assert len(values.dumps(value)) == size
    return value


@pytest.mark.parametrize("form", FORMS)
async def test_params_may_be_as_large_as_it_is_said(stage: Any, form: str) -> None:
    """What the host puts around them is not theirs, and a tenant is told of its own bytes only."""
    binding = stage.bind(PROGRAM)
    value = sized(form, MAX_PAYLOAD)
    assert await stage.outcome(await binding.create(params=value)) == value
    with pytest.raises(PayloadTooLarge, match="the params takes 1,048,577 bytes; at most 1,048,576 are stored"):
        await binding.create(params=sized(form, MAX_PAYLOAD + 1))


async def test_a_tenant_may_hand_on_a_result_that_may_be_stored(stage: Any) -> None:
    """To an instance that it awaits, whose output is as large."""
    stage.env["WORKFLOWS"] = binding = stage.bind(PROGRAM)
    size = len(sized("ASCII", MAX_PAYLOAD))
    assert await stage.outcome(await binding.create(params={"hand on": size})) == size
    error = await stage.outcome(await binding.create(params={"hand on": size + 1}))
    assert error["message"].startswith("the result of step 'result' takes 1,048,577 bytes")


@pytest.mark.parametrize("form", FORMS)
async def test_an_event_may_be_as_large_as_it_is_said(stage: Any, form: str) -> None:
    """Sent before the wait or after; and so may the output of the run that it is."""
    instance = await stage.bind(PROGRAM).create(params={"wait": "go"})
    with pytest.raises(PayloadTooLarge, match="the payload of the event takes 1,048,577 bytes"):
        await instance.send_event(type="go", payload=sized(form, MAX_PAYLOAD + 1))
    await instance.send_event(type="go", payload=(value := sized(form, MAX_PAYLOAD)))
    assert await stage.outcome(instance) == value


async def test_a_schedule_may_have_such_params_too(stage: Any) -> None:
    """Today, and when it has been stored and read again."""
    binding = stage.bind(PROGRAM)
    await binding.add_schedule(Schedule("0 0 * * *", params=sized("ASCII", MAX_PAYLOAD)))
    with pytest.raises(PayloadTooLarge, match="1,048,577"):
        await binding.add_schedule(Schedule("0 1 * * *", params=sized("ASCII", MAX_PAYLOAD + 1)))
    (kept,) = await binding.schedules()
    assert len(kept.creation(0, 1000 * 86_400_000).params) > MAX_PAYLOAD


def test_metadata_is_bounded_by_itself() -> None:
    """It is stored with every instance."""
    with pytest.raises(ValueError, match="metadata takes"):
        wrap_workflow_binding(lambda: pytest.fail("asked"), {"tenant_id": "t", "more": "x" * MAX_PAYLOAD})
