"""Taking back what steps have done, when a workflow fails or somebody ends it so."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest

from cloister.engine import Engine, InstanceFailed, InstanceFinished, NonRetryableError, WorkflowEntrypoint
from cloister.engine.testing import Mocks

if TYPE_CHECKING:
    from cloister.engine.testing import VirtualClock

OpenEngine = Callable[..., Engine]
Body = Callable[[Any, Any], Awaitable[Any]]
NOW = {"retries": {"limit": 0, "delay": 0}}


def workflow_of(body: Body) -> type[WorkflowEntrypoint]:
    class Written(WorkflowEntrypoint):
        async def run(self, event: Any, step: Any) -> Any:
            return await body(event, step)

    return Written


class Trip:
    """A journey whose parts can be taken back; what was done and undone is in `log`."""

    def __init__(self, *parts: str) -> None:
        self.parts, self.log = parts, list[str]()
        self.undo_fails = 0

    async def book(self, step: Any, part: str) -> Any:
        def body() -> str:
            self.log.append(f"book {part}")
            if part.startswith("no "):
                raise LookupError(part)
            return part.upper()

        async def cancel(output: Any, error: Any, step_name: str) -> None:
            self.log.append(f"cancel {step_name} {output} for {error.name}")
            if self.undo_fails:
                self.undo_fails -= 1
                raise ConnectionError("try later")

        retries = {"retries": {"limit": 2, "delay": "1 minute", "backoff": "constant"}}
        return await step.do(part, NOW, body, rollback=cancel, rollback_config=retries)

    async def run(self, event: Any, step: Any) -> Any:
        return [await self.book(step, part) for part in self.parts]


async def ended(instance: Any) -> tuple[Any, Any, Any]:
    status = await instance.status()
    return status["status"], (status["error"] or {}).get("name"), status["rollback"]


async def test_a_workflow_that_fails_takes_its_steps_back_last_one_first(open_engine: OpenEngine) -> None:
    """The step that failed too, without an output; the workflow ends with its own error."""
    trip = Trip("flight", "hotel", "no car")
    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(trip.run)).create()
        with pytest.raises(InstanceFailed, match="no car"):
            await instance.result()
        assert await ended(instance) == ("errored", "LookupError", "complete")
        undone = [step["name"] for step in (await instance.status())["steps"] if step["kind"] == "undo"]
    assert undone == ["no car", "hotel", "flight"]
    assert trip.log[3:] == [
        "cancel no car None for LookupError",
        "cancel hotel HOTEL for LookupError",
        "cancel flight FLIGHT for LookupError",
    ]


async def test_nothing_is_taken_back_on_success_or_when_the_failure_is_caught(open_engine: OpenEngine) -> None:
    """Nor from a workflow without handlers, whose status says nothing of it."""
    trip = Trip()

    async def body(event: Any, step: Any) -> str:
        for part in ("flight", "no hotel"):
            try:
                await trip.book(step, part)
            except LookupError:
                continue
        return "went"

    async def bare(event: Any, step: Any) -> None:
        await step.do("x", NOW, lambda: 1 / 0)

    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(body)).create()
        assert await instance.result() == "went"
        assert await ended(instance) == ("complete", None, None)
        failing = await engine.workflow("bare", workflow_of(bare)).create()
        with pytest.raises(InstanceFailed):
            await failing.result()
        assert await ended(failing) == ("errored", "ZeroDivisionError", None)
    assert trip.log == ["book flight", "book no hotel"]


async def test_steps_side_by_side_are_taken_back_in_reverse_order_of_their_start(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """Whichever ended first."""
    undone: list[str] = []

    async def body(event: Any, step: Any) -> None:
        async def part(name: str, seconds: int) -> None:
            await step.do(name, lambda: clock.sleep(seconds), rollback=lambda: undone.append(name))

        await asyncio.gather(part("a", 3), part("b", 1), part("c", 2))
        raise ValueError

    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(body)).create()
        await clock.advance(10)
        assert (await ended(instance))[0] == "errored"
    assert undone == ["c", "b", "a"]


async def test_a_handler_is_retried_and_the_first_that_fails_for_good_ends_it(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """With delays of its own, over which the instance sleeps; what was not taken back is said."""
    for failures, told in ((2, "complete"), (3, "step 'no car' number 1 was not taken back: ConnectionError")):
        trip = Trip("flight", "no car")
        trip.undo_fails = failures
        async with open_engine() as engine:
            instance = await engine.workflow("w", workflow_of(trip.run)).create()
            await clock.advance(30)
            assert (await instance.status())["rollback"] == "running"
            assert engine.statistics().parked == 1
            await clock.advance(600)
            status, error, rollback = await ended(instance)
        assert (status, error) == ("errored", "LookupError")
        assert rollback is not None
        assert rollback.startswith(told)
        assert trip.log.count("cancel no car None for LookupError") == 3
        assert trip.log.count("cancel flight FLIGHT for LookupError") == (failures == 2)


async def test_a_handler_may_say_that_it_is_hopeless(open_engine: OpenEngine) -> None:
    """`NonRetryableError` spends no retries."""
    calls: list[int] = []

    def hopeless() -> None:
        calls.append(1)
        raise NonRetryableError("never")

    async def body(event: Any, step: Any) -> None:
        await step.do("x", lambda: 1, rollback=hopeless)
        raise ValueError

    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(body)).create()
        with pytest.raises(InstanceFailed, match="ValueError"):
            await instance.result()
        assert "NonRetryableError: never" in str((await ended(instance))[2])
    assert calls == [1]


@pytest.mark.parametrize("paused", [False, True])
async def test_terminate_with_rollback_takes_back_what_a_sleeping_instance_has_done(
    open_engine: OpenEngine, clock: VirtualClock, paused: bool
) -> None:
    """Its run is replayed for the handlers; nothing runs again, and nothing new begins. It needs no resume."""
    trip = Trip()

    async def body(event: Any, step: Any) -> Any:
        await trip.book(step, "flight")
        with contextlib.suppress(LookupError):
            await trip.book(step, "no hotel")
        await step.sleep("until the day", "30 days")
        await trip.book(step, "taxi")

    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(body)).create(id="i")
        await clock.advance(60)
        if paused:
            await instance.pause()
    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(body)).get("i")
        await instance.terminate(rollback=True)
        await clock.advance(60)
        assert await ended(instance) == ("terminated", "Terminated", "complete")
        with pytest.raises(InstanceFinished):
            await instance.terminate(rollback=True)
    assert trip.log == [
        "book flight",
        "book no hotel",
        "cancel no hotel None for Terminated",
        "cancel flight FLIGHT for Terminated",
    ]


async def test_terminate_with_rollback_stops_a_step_in_flight_and_takes_it_back_too(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """It may have done something, so its handler runs, without an output."""
    log: list[Any] = []

    async def body(event: Any, step: Any) -> Any:
        await step.do("a", lambda: 1, rollback=lambda output: log.append(["a", output]))

        async def slow() -> None:
            log.append("slow")
            await clock.sleep(10**6)

        await step.do("slow", slow, rollback=lambda output: log.append(["slow", output]))
        await step.do("never", lambda: log.append("never"), rollback=lambda: log.append("not this"))

    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(body)).create()
        await clock.advance(60)
        await instance.terminate(rollback=True)
        await clock.advance(60)
        assert await ended(instance) == ("terminated", "Terminated", "complete")
    assert log == ["slow", ["slow", None], ["a", 1]]


async def test_terminate_with_rollback_does_not_wait_for_what_a_run_waits_for_that_is_just_being_put_aside(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """The run has been stopped, and its deadline is about to be where the instance stands."""
    trip, stopped = Trip(), asyncio.Event()

    async def body(event: Any, step: Any) -> Any:
        await trip.book(step, "flight")
        try:
            await step.sleep("until the day", "30 days")
        except asyncio.CancelledError:
            stopped.set()
            await clock.sleep(1)
            raise

    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(body)).create()
        passing = asyncio.create_task(clock.advance(60))
        await stopped.wait()
        await instance.terminate(rollback=True)
        await passing
        assert await ended(instance) == ("terminated", "Terminated", "complete")
    assert trip.log == ["book flight", "cancel flight FLIGHT for Terminated"]


async def test_a_rollback_goes_on_after_a_restart_where_it_was(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """What was taken back is not taken back again."""
    trip = Trip("flight", "hotel", "no car")
    trip.undo_fails = 0
    stuck = asyncio.Event()

    async def body(event: Any, step: Any) -> Any:
        async def slow(output: Any) -> None:
            trip.log.append(f"slow {output}")
            if not stuck.is_set():
                await clock.sleep(10**6)

        await step.do("train", lambda: "TRAIN", rollback=slow)
        return await trip.run(event, step)

    async with open_engine() as engine:
        await engine.workflow("w", workflow_of(body)).create(id="i")
        await clock.advance(60)
    stuck.set()
    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(body)).get("i")
        await clock.advance(60)
        assert await ended(instance) == ("errored", "LookupError", "complete")
    assert [entry for entry in trip.log if not entry.startswith("book")] == [
        "cancel no car None for LookupError",
        "cancel hotel HOTEL for LookupError",
        "cancel flight FLIGHT for LookupError",
        "slow TRAIN",
        "slow TRAIN",
    ]
    assert trip.log.count("book flight") == 1


async def test_a_recorded_step_that_is_not_reached_again_ends_the_rollback(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """Nobody knows how it is taken back: it is said, and nothing else is guessed."""
    before, after = Trip("flight", "hotel"), Trip("flight")

    async def waits(event: Any, step: Any) -> None:
        await before.run(event, step)
        await step.sleep("s", "1 day")

    async with open_engine() as engine:
        await engine.workflow("w", workflow_of(waits)).create(id="i")
        await clock.advance(60)
    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(after.run)).get("i")
        await instance.terminate(rollback=True)
        await clock.advance(60)
        status, _, rollback = await ended(instance)
    assert (status, after.log) == ("terminated", [])
    assert rollback == "RollbackMissing: the replay did not reach step 'hotel'"


async def test_an_instance_that_never_ran_is_terminated_with_nothing_to_take_back(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """It does not run for that."""
    trip = Trip("flight")

    async def waits(event: Any, step: Any) -> None:
        await step.sleep("s", "1 day") if event.payload else await trip.run(event, step)

    async with open_engine() as engine:
        workflow = engine.workflow("w", workflow_of(waits), concurrency=1)
        await workflow.create(params=1)
        waiting = await workflow.create(params=0)
        await waiting.terminate(rollback=True)
        await clock.advance(60)
        assert await ended(waiting) == ("terminated", "Terminated", None)
    assert trip.log == []


async def test_a_step_in_the_body_of_another_one_is_taken_back_by_that(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """No replay would know how to: its own handler is refused before it has done anything, and at once."""
    ran: list[str] = []

    async def body(event: Any, step: Any) -> None:
        async def outer() -> None:
            await step.do("inner", lambda: ran.append("inner"), rollback=lambda: ran.append("never"))

        await step.do("outer", outer, rollback=lambda: ran.append("taken back"))

    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(body)).create()
        await clock.advance(1)
        status = await instance.status()
        assert status["error"]["name"] == "NonRetryableError"
        assert "give `rollback` to that one" in status["error"]["message"]
        assert (status["rollback"], ran) == ("complete", ["taken back"])


@pytest.mark.parametrize(("fails", "end"), [(1, "rollback_completed"), (9, "rollback_errored")])
async def test_whoever_subscribes_hears_how_steps_are_taken_back(
    open_engine: OpenEngine, clock: VirtualClock, fails: int, end: str
) -> None:
    """That it begins and for what, attempts that failed, each step, and how it ended: once, whatever comes between."""
    trip = Trip("flight", "no hotel")
    trip.undo_fails = fails
    async with open_engine(mocks=Mocks(evict=True)) as engine:
        instance = await engine.workflow("w", workflow_of(trip.run)).create()
        await clock.advance(1000)
        told = [event async for event in instance.subscribe() if "rollback" in event.type]
    begun, well = ["step_started", "attempt_started"], ["attempt_completed", "step_completed"]
    again = ["attempt_errored", "attempt_started"]
    steps = [*again, *well, *begun, *well] if fails == 1 else [*again, *again, "attempt_errored", "step_errored"]
    between = [f"rollback_{each}" for each in (*begun, *steps)]
    assert [event.type for event in told] == ["rollback_started", *between, end]
    assert told[0].error == {"name": "LookupError", "message": "no hotel"}
    assert [event.name for event in told[1:3]] == ["no hotel", "no hotel"]
    assert (told[-1].error or {}).get("name") == (None if fails == 1 else "RollbackFailed")
