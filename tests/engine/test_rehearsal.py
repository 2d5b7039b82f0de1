"""A history is replayed against code before the code is let loose on it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest

from cloister.engine import Engine, WorkflowEntrypoint

if TYPE_CHECKING:
    from pathlib import Path

    from cloister.engine.testing import VirtualClock

OpenEngine = Callable[..., Engine]
Body = Callable[[Any, Any], Awaitable[Any]]
ran: list[str] = []


def workflow_of(body: Body) -> type[WorkflowEntrypoint]:
    class Written(WorkflowEntrypoint):
        async def run(self, event: Any, step: Any) -> Any:
            return await body(event, step)

    return Written


def does(name: str) -> Callable[[], str]:
    def body() -> str:
        ran.append(name)
        return name

    return body


async def first(event: Any, step: Any) -> Any:
    """What the instance was begun with."""
    await step.do("collect", does("collect"))
    await step.random()
    await step.sleep("night", "8 hours")
    return await step.do("report", does("report"))


async def longer(event: Any, step: Any) -> Any:
    """Something new after what is recorded."""
    await step.do("collect", does("collect"))
    await step.random()
    await step.do("new", {"retries": {"limit": 1, "delay": 0}}, does("new"), rollback=does("back"))


async def renamed(event: Any, step: Any) -> Any:
    await step.random()
    await step.do("gather", does("gather"))


async def shorter(event: Any, step: Any) -> Any:
    return "nothing"


async def broken(event: Any, step: Any) -> Any:
    await step.do("collect", does("collect"), rollback=does("back"))
    await step.random()
    raise ValueError("broken")


@pytest.mark.parametrize(
    ("code", "fits", "words"),
    [
        (first, True, "it asks for something new"),
        (longer, True, "it asks for something new"),
        (broken, True, "it ends with ValueError: broken"),
        (renamed, False, "it does not come to do 'collect' number 1, which is recorded (1 such)"),
        (shorter, False, "it does not come to do 'collect' number 1, which is recorded (2 such)"),
    ],
)
async def test_a_rehearsal_says_whether_an_instance_can_go_on_with_other_code(
    open_engine: OpenEngine, clock: VirtualClock, path: Path, code: Body, fits: bool, words: str
) -> None:
    """No step runs, nothing is recorded, nothing is taken back; the instance goes on as if nothing had been."""
    ran.clear()
    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(first)).create()
        await clock.advance(60)
        before = await instance.status()
        rehearsal = await instance.rehearse(workflow_of(code))
        assert (rehearsal.fits, rehearsal.words) == (fits, words)
        assert rehearsal.ended == (code in (shorter, broken))
        assert await instance.status() == before
        assert ran == ["collect"]
        await clock.advance(9 * 3600)
        assert await instance.result() == "report"


async def test_a_rehearsal_of_what_has_ended_or_not_begun_is_one_too(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """The registered class is the default, and fits its own histories."""
    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(first)).create()
        assert (await instance.rehearse()).fits
        await clock.advance(9 * 3600)
        rehearsal = await instance.rehearse()
        assert (rehearsal.fits, rehearsal.ended, rehearsal.error) == (True, True, None)
