"""What an operator may change: a new instance from the middle of a history, and an outcome that is replaced."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from cloister.engine import (
    Engine,
    InstanceAlreadyExists,
    InstanceFinished,
    StepNotFound,
    WorkflowEntrypoint,
)

if TYPE_CHECKING:
    from cloister.engine.testing import VirtualClock

OpenEngine = Callable[..., Engine]
Body = Callable[[Any, Any], Awaitable[Any]]


def workflow_of(body: Body) -> type[WorkflowEntrypoint]:
    class Written(WorkflowEntrypoint):
        async def run(self, event: Any, step: Any) -> Any:
            return await body(event, step)

    return Written


class Story:
    """Steps a, b and c with a night before c; what each returns can be changed, and how often it ran is known."""

    def __init__(self) -> None:
        self.says = {"a": "A", "b": "B", "c": "C"}
        self.ran: list[str] = []

    def body(self, name: str) -> Callable[[], str]:
        def body() -> str:
            self.ran.append(name)
            return self.says[name]

        return body

    async def run(self, event: Any, step: Any) -> Any:
        def pieces() -> Iterator[bytes]:
            yield event.payload["word"].encode()

        stream = await step.do("stream", pieces)
        words = [await step.do(name, self.body(name)) for name in ("a", "b")]
        await step.sleep("night", "8 hours")
        when = event.timestamp.isoformat()
        return [await stream.read(), *words, await step.do("c", self.body("c")), when]


async def test_a_fork_goes_on_from_a_step_and_leaves_the_first_one_alone(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """Same params and time of creation, streams included; what began before the step is not run again."""
    story = Story()
    async with open_engine() as engine:
        first = await engine.workflow("w", workflow_of(story.run)).create(params={"word": "x"}, scope="s")
        await clock.advance(9 * 3600)
        before = await first.status()
        story.says["b"] = "other"
        second = await first.fork(id="second", from_step="b", labels={"of": "first"})
        await clock.advance(9 * 3600)
        when = (await first.result())[-1]
        assert await first.result() == [b"x", "A", "B", "C", when]
        assert await second.result() == [b"x", "A", "other", "C", when]
        assert await first.status() == before
        assert second.scope == "s"
        assert story.ran == ["a", "b", "c", "b", "c"]


async def test_a_fork_is_tied_to_the_code_of_the_first_one(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """What is recorded was recorded by that code."""
    digests: list[bytes | None] = []

    async def run(event: Any, step: Any) -> None:
        digests.append(step.journal.code_digest)
        if step.journal.code_digest is None:
            step.journal.pin(b"digest", b"code")
        await step.do("a", lambda: 1)
        await step.sleep("night", "8 hours")

    async with open_engine() as engine:
        first = await engine.workflow("w", workflow_of(run)).create()
        await clock.advance(3600)
        await first.fork()
        await clock.advance(60)
    assert digests == [None, b"digest"]


async def test_a_fork_of_a_sleeper_has_all_that_has_ended(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """It sleeps its own night; a step that nobody knows and an id that is taken are refused."""
    story = Story()
    async with open_engine() as engine:
        first = await engine.workflow("w", workflow_of(story.run)).create(id="i", params={"word": "x"})
        await clock.advance(4 * 3600)
        second = await first.fork()
        with pytest.raises(StepNotFound, match="'nothing'"):
            await first.fork(from_step="nothing")
        with pytest.raises(InstanceAlreadyExists):
            await first.fork(id="i")
        with pytest.raises(TypeError, match="params"):
            await first.fork(params={})
        await clock.advance(5 * 3600)
        assert (await first.status())["status"] == "complete"
        assert (await second.status())["status"] == "waiting"
        await clock.advance(4 * 3600)
        assert (await second.result())[1:4] == ["A", "B", "C"]
        assert story.ran == ["a", "b", "c", "c"]


async def test_an_override_replaces_an_outcome_and_leaves_an_account(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """The instance goes on with it; who did it, why, and what was there before is told."""
    story = Story()
    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(story.run)).create(params={"word": "x"})
        await clock.advance(3600)
        await instance.override("a", result={"mended": 1}, author="Ann", reason="the supplier was wrong")
        await instance.override({"name": "stream"}, result=b"", author="Ann", reason="too large")
        at = clock.now()
        with pytest.raises(StepNotFound):
            await instance.override("c", result=1, author="Ann", reason="early")
        told = await instance.interventions()
        assert told[0] == {
            "at": at, "author": "Ann", "reason": "the supplier was wrong", "name": "a", "count": 1, "result": "A",
            "error": None,
        }  # fmt: skip
        assert len(told) == 2
        await clock.advance(8 * 3600)
        status = await instance.status()
        assert "'bytes' object has no attribute 'read'" in status["error"]["message"]
        assert story.ran == ["a", "b"]
        with pytest.raises(InstanceFinished):
            await instance.override("a", result=1, author="Ann", reason="late")


async def test_an_override_mends_a_step_that_keeps_failing(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """Between two attempts it gets the result that it cannot get by itself; an error can be given as well."""
    calls: list[int] = []

    async def body(event: Any, step: Any) -> Any:
        def broken() -> None:
            calls.append(1)
            raise ConnectionError("down")

        retries = {"retries": {"limit": 9, "delay": "1 hour", "backoff": "constant"}}
        try:
            return await step.do("broken", retries, broken)
        except LookupError as error:
            return f"caught {error}"

    async with open_engine() as engine:
        workflow = engine.workflow("w", workflow_of(body))
        for outcome, expected in (({"result": "mended"}, "mended"), ({"error": ("LookupError", "k")}, None)):
            instance = await workflow.create()
            await clock.advance(600)
            await instance.override("broken", author="Ann", reason="it is down for good", **outcome)
            await clock.advance(1)
            status = await instance.status()
            assert status["status"] == "complete"
            assert status["output"] == (expected or "caught k")
            assert (await instance.interventions())[0]["error"] == {"name": "ConnectionError", "message": "down"}
        with pytest.raises(TypeError, match="either"):
            await instance.override("broken", author="Ann", reason="nothing")
    assert len(calls) == 2


@pytest.mark.parametrize("failed", [1, 2])
async def test_an_override_is_the_end_of_a_step_and_of_no_attempt_that_was_told_of(
    open_engine: OpenEngine, clock: VirtualClock, failed: int
) -> None:
    """Nobody hears twice that the step begins, nor that an attempt succeeds which had failed, wherever he goes on."""

    async def body(event: Any, step: Any) -> Any:
        def broken() -> None:
            raise ConnectionError("down")

        retries = {"retries": {"limit": 9, "delay": "1 hour", "backoff": "constant"}}
        return await step.do("broken", retries, broken)

    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(body)).create()
        await clock.advance(600 + 3600 * (failed - 1))
        await instance.override("broken", author="Ann", reason="it is down for good", result="mended")
        await clock.advance(1)
        events = [event async for event in instance.subscribe()]
        told = [event.type for event in events if event.name == "broken"]
        assert told == ["step_started", *["attempt_started", "attempt_errored"] * failed, "step_completed"]
        for number, event in enumerate(events, 1):
            assert [later async for later in instance.subscribe(event.id)] == events[number:]


async def test_an_override_stops_a_run_that_is_under_way_and_keeps_a_pause(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """It goes on from the records; a paused instance stays paused."""
    seen: list[Any] = []

    async def body(event: Any, step: Any) -> Any:
        seen.append(await step.do("first", lambda: 1))
        await step.do("slow", lambda: clock.sleep(500))
        return seen[-1]

    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(body)).create()
        await clock.advance(60)
        await instance.override("first", result=2, author="Ann", reason="a slip")
        await clock.advance(1)
        assert seen == [1, 2]
        await instance.pause()
        await instance.override("first", result=3, author="Ann", reason="another")
        await clock.advance(7200)
        assert (await instance.status())["status"] == "paused"
        await instance.resume()
        await clock.advance(7200)
        assert await instance.result() == 3
