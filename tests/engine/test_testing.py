"""The tools for testing workflows: outcomes that a test decides, evictions everywhere, and crashes everywhere."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest

from cloister.engine import (
    Engine,
    InstanceAlreadyExists,
    InstanceFinished,
    StepNotFound,
    WaitTimeout,
    WorkflowEntrypoint,
    observers,
    virtual_clock,
)
from cloister.engine.testing import Mocks, crash_after_every_commit, until_status, until_step

if TYPE_CHECKING:
    from pathlib import Path

    from cloister.engine.testing import VirtualClock

OpenEngine = Callable[..., Engine]
Body = Callable[[Any, Any], Awaitable[Any]]
RETRIES = {"retries": {"limit": 3, "delay": "1 hour", "backoff": "constant"}}


def workflow_of(body: Body) -> type[WorkflowEntrypoint]:
    class Written(WorkflowEntrypoint):
        async def run(self, event: Any, step: Any) -> Any:
            return await body(event, step)

    return Written


async def test_a_mocked_result_is_returned_and_recorded_without_running_the_step(open_engine: OpenEngine) -> None:
    """For each use of the name, or for one of them."""
    ran: list[str] = []

    async def body(event: Any, step: Any) -> Any:
        return [await step.do(name, lambda name=name: ran.append(name)) for name in ("a", "a", "b", "c")]

    mocks = Mocks()
    mocks.step_result("a", "second", count=2)
    mocks.step_result("b", {"any": "value"})
    async with open_engine(mocks=mocks) as engine:
        instance = await engine.workflow("w", workflow_of(body)).create()
        assert await instance.result() == [None, "second", {"any": "value"}, None]
        assert [step["status"] for step in (await instance.status())["steps"]] == ["done"] * 4
    assert ran == ["a", "c"]


async def test_mocked_errors_and_timeouts_spend_retries_as_real_ones_do(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """So many times, and then the step runs; without a number the step fails for good."""
    attempts: list[int] = []

    async def body(event: Any, step: Any) -> Any:
        def work(ctx: Any) -> int:
            attempts.append(ctx.attempt)
            return int(ctx.attempt)

        third = await step.do("flaky", RETRIES, work)
        try:
            await step.do("late", RETRIES, work)
        except Exception as error:  # noqa: BLE001 - which one it is, is what is tested
            return [third, str(error)]

    mocks = Mocks(skip_retry_delays=True)
    mocks.step_error("flaky", ValueError("mocked"), times=1)
    mocks.step_timeout("flaky", times=1)
    mocks.step_timeout("late")
    began = clock.now()
    async with open_engine(mocks=mocks) as engine:
        instance = await engine.workflow("w", workflow_of(body)).create()
        words = "WorkflowTimeoutError: Execution timed out after 600000ms"
        assert await instance.result() == [3, words]
        assert [step["attempts"] for step in (await instance.status())["steps"]] == [3, 4]
    assert attempts == [3]
    assert clock.now() == began


async def test_what_is_decided_is_not_decided_again() -> None:
    """A second result, or an error after a result, could never come about."""
    mocks = Mocks()
    mocks.step_result("a", 1)
    with pytest.raises(ValueError, match="decided already"):
        mocks.step_result("a", 2)
    with pytest.raises(ValueError, match="decided already"):
        mocks.step_error("a", ValueError())
    with pytest.raises(ValueError, match="decided already"):
        mocks.step_timeout("a")
    mocks.step_error("b", ValueError(), times=2)
    mocks.step_result("b", 1)


async def test_mocked_events_and_skipped_sleeps_take_no_time(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """In order for each type, and a wait that is to time out does so even if there is an event."""

    async def body(event: Any, step: Any) -> Any:
        await step.sleep("night", "8 hours")
        await step.sleep_until("later", clock.now() + 10**9)
        heard = [(await step.wait_for_event("w", type="t")).payload for _ in range(2)]
        try:
            await step.wait_for_event("deaf", type="t", timeout="1 hour")
        except WaitTimeout as error:
            return [*heard, error.message]

    mocks = Mocks(skip_sleeps=True)
    for payload in (1, 2, 3):
        mocks.event("t", payload)
    mocks.event_timeout("deaf")
    began = clock.now()
    async with open_engine(mocks=mocks) as engine:
        instance = await engine.workflow("w", workflow_of(body)).create()
        assert await instance.result() == [1, 2, "Execution timed out after 3600000ms"]
    assert clock.now() == began


async def story(event: Any, step: Any) -> Any:
    """A bit of everything, whose bodies are counted in `RAN`."""
    import asyncio

    def body(name: str) -> Callable[..., Any]:
        def work(ctx: Any) -> str:
            RAN.append(name)
            if name == "flaky" and ctx.attempt == 1:
                raise ValueError
            return name

        return work

    first = await step.do("first", body("first"))
    await step.sleep("night", "8 hours")
    pair = await asyncio.gather(step.do("left", body("left")), step.do("right", body("right")))
    flaky = await step.do("flaky", RETRIES, body("flaky"))
    heard = (await step.wait_for_event("w", type="t")).payload
    number = await step.random()
    return [first, *pair, flaky, heard, number == await step.do("number", lambda: number)]


RAN: list[str] = []
OUTPUT = ["first", "left", "right", "flaky", "news", True]


async def test_with_an_eviction_after_every_step_a_workflow_comes_to_the_same_end(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """Each outcome is followed by a replay, and no body runs for an outcome that is recorded."""
    counts = []
    for mocks in (None, Mocks(evict=True)):
        RAN.clear()
        async with open_engine(mocks=mocks) as engine:
            instance = await engine.workflow("w", workflow_of(story)).create()
            await instance.send_event(type="t", payload="news")
            await clock.advance(24 * 3600)
            assert await instance.result() == OUTPUT
            counts.append(engine.statistics().started)
            assert [name for name in RAN if name not in {"left", "right"}] == ["first", "flaky", "flaky"]
    assert counts[1] > counts[0] + 5


async def play(engine: Engine, clock: VirtualClock) -> Any:
    """The story, told so that it can be taken up anywhere."""
    workflow = engine.workflow("w", workflow_of(story))
    with contextlib.suppress(InstanceAlreadyExists):
        await workflow.create(id="i")
    instance = await workflow.get("i")
    with contextlib.suppress(InstanceFinished):
        await instance.send_event(type="t", payload="news", id="once")
    await clock.advance(30 * 3600)
    return await instance.result()


async def test_a_story_ends_the_same_after_a_crash_at_any_commit(tmp_path: Path) -> None:
    """And after another one at any commit of the recovery."""
    assert await crash_after_every_commit(tmp_path, play, depth=2) == OUTPUT


async def test_a_story_that_depends_on_who_tells_it_is_caught(tmp_path: Path) -> None:
    """What is kept in memory alone is lost with its host: the tool names the commit."""
    memory: list[Any] = []

    async def forgetful(event: Any, step: Any) -> Any:
        await step.do("remember", lambda: memory.append(1))
        await step.sleep("night", "8 hours")
        return len(memory)

    async def play(engine: Engine, clock: VirtualClock) -> Any:
        memory.clear()
        workflow = engine.workflow("w", workflow_of(forgetful))
        with contextlib.suppress(InstanceAlreadyExists):
            await workflow.create(id="i")
        await clock.advance(9 * 3600)
        return await (await workflow.get("i")).result()

    with pytest.raises(AssertionError, match=r"after commit \d+ comes to 0, and not to 1"):
        await crash_after_every_commit(tmp_path, play)


# What a test waits for


async def test_a_test_waits_for_a_status_and_for_a_step(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """Those that were over before it asked are found, and it does not wait for what cannot come."""

    class Night(WorkflowEntrypoint):
        async def run(self, event: Any, step: Any) -> None:
            await step.do("first", lambda: [1])
            await step.do("secret", {"sensitive": "output"}, lambda: "secret")
            stream = await step.do("stream", lambda: (b"x" * 200_000 for _ in range(2)))
            assert stream.size == 400_000
            with contextlib.suppress(LookupError):
                await step.do("fails", {"retries": {"limit": 0, "delay": 0}}, lambda: [][0])
            heard = await step.wait_for_event("w", type="t")
            await step.do("late", lambda: heard.payload)

    async with open_engine() as engine:
        instance = await engine.workflow("w", Night).create()
        waiting = asyncio.ensure_future(until_status(instance, "waiting", "complete"))
        late = asyncio.ensure_future(until_step(instance, "late"))
        await clock.advance(1)
        assert await waiting == "waiting"
        assert await until_step(instance, "first") == [1]
        assert await until_step(instance, "secret") == "[REDACTED]"
        assert await instance.step_result("stream") == b"x" * 400_000
        with pytest.raises(IndexError):
            await until_step(instance, "fails")
        with pytest.raises(StepNotFound, match="no outcome yet"):
            await instance.step_result({"name": "w", "type": "wait"})
        await instance.send_event(type="t", payload="news")
        await clock.advance(1)
        assert await late == "news"
        assert await instance.step_result({"name": "w", "type": "wait"}) == "news"
        with pytest.raises(AssertionError, match="has ended complete"):
            await until_status(instance, "paused")
        with pytest.raises(AssertionError, match="without coming to step"):
            await until_step(instance, "first", count=2)
        with pytest.raises(ValueError, match="no status"):
            await until_status(instance, "asleep")


async def test_a_mocked_stream_is_recorded_and_read_as_a_real_one(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """Of any size, without running the step, and in a replay."""
    mocks, data = Mocks(evict=True), bytes(range(256)) * 4_000
    mocks.step_stream("s", data)

    class Reader(WorkflowEntrypoint):
        async def run(self, event: Any, step: Any) -> Any:
            stream = await step.do("s", lambda: 1 / 0)
            await step.sleep("night", "8 hours")
            return [stream.size, await stream.read() == data]

    async with open_engine(mocks=mocks) as engine:
        instance = await engine.workflow("w", Reader).create()
        await clock.advance(9 * 3600)
        assert await instance.result() == [len(data), True]


async def test_a_test_that_forgets_to_advance_the_clock_is_told(
    open_engine: OpenEngine, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would wait for ever."""

    class Sleepy(WorkflowEntrypoint):
        async def run(self, event: Any, step: Any) -> None:
            await step.sleep("night", "8 hours")

    monkeypatch.setattr(observers, "STANDSTILL_SECONDS", 0.2)
    async with open_engine() as engine:
        instance = await engine.workflow("w", Sleepy).create()
        with pytest.raises(AssertionError, match="stands still until somebody advances it"):
            await until_status(instance, "complete")
        with pytest.raises(AssertionError, match="stands still"):
            await until_step(instance, "any")


async def test_time_passes_on_a_loop_that_does_not_show_what_it_has_to_do(
    open_engine: OpenEngine, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As uvloop's: a program that takes some turns from one step to the next is waited for there as well."""
    monkeypatch.setattr(virtual_clock, "_ready_on", lambda loop: None)

    class Slow(WorkflowEntrypoint):
        async def run(self, event: Any, step: Any) -> int:
            for number in range(3):
                for _ in range(20):
                    await asyncio.sleep(0)
                await step.sleep(f"s{number}", "1 hour")
            return 3

    async with open_engine() as engine:
        instance = await engine.workflow("w", Slow).create()
        await clock.advance(3 * 3600)
        assert (await instance.status())["output"] == 3
