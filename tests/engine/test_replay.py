"""Workflows in the host's own code that do several things at once: each replay goes the way that the first run went."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from cloister.engine import Engine, InstanceFailed, WorkflowEntrypoint, replay
from cloister.engine.testing import VirtualClock

OpenEngine = Callable[..., Engine]
Body = Callable[[Any, Any], Awaitable[Any]]


def workflow_of(body: Body) -> type[WorkflowEntrypoint]:
    """A workflow class whose `run` is this function."""

    class Written(WorkflowEntrypoint):
        async def run(self, event: Any, step: Any) -> Any:
            return await body(event, step)

    return Written


async def deep(turns: int, work: Callable[[], Awaitable[Any]]) -> Any:
    """Await through so many tasks, each of which takes turns of the loop to begin and to end, or is given up before."""
    return await (asyncio.ensure_future(deep(turns - 1, work)) if turns else work())


async def program(event: Any, step: Any) -> Any:
    """Do what the params say; a trace of what came when."""
    trace: list[Any] = []

    async def same(number: int) -> None:
        trace.append(await step.do("same", lambda: number))

    async def branch(parts: list[Any]) -> None:
        for part in parts:
            match part:
                case ["same", number, turns]:
                    await deep(turns, partial(same, number))
                case ["sleep", name, milliseconds]:
                    await step.sleep(name, milliseconds)
                    trace.append(name)
                case ["gather", branches]:
                    await asyncio.gather(*(branch(each) for each in branches))
                case ["race", branches]:
                    tasks = [asyncio.ensure_future(branch(each)) for each in branches]
                    done, late = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                    for task in late:
                        task.cancel()
                    trace.append([task in done for task in tasks].index(True))

    await branch(event.payload)
    before = list(trace)
    recorded = await step.do("record", lambda: before)
    await step.sleep("rest", 150)
    return [before, recorded]


def drawn(chance: random.Random, depth: int = 2) -> list[Any]:
    """A program of branches in any nesting."""

    def part() -> list[Any]:
        match chance.choice(["same", "same", "sleep", *(["race", "gather"] if depth else [])]):
            case "same":
                return ["same", chance.randrange(9**9), chance.randrange(4)]
            case "sleep":
                return ["sleep", f"s{chance.randrange(3)}", chance.choice([1, 20, 90, 90])]
            case kind:
                return [kind, [drawn(chance, depth - 1) for _ in range(2)]]

    return [part() for _ in range(chance.randint(1, 3))]


async def test_random_programs_end_the_same_however_often_they_are_replayed(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """Whatever came first in the first run comes first in each replay, and steps of one name have the same numbers."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    programs = [drawn(chance) for _ in range(40)]
    async with open_engine() as engine:
        workflow = engine.workflow("w", workflow_of(program))
        made = [await workflow.create(params=each) for each in programs]
        await clock.advance(chance.choice([0.001, 0.02, 0.05]))
    for _ in range(4):
        async with open_engine() as engine:
            engine.workflow("w", workflow_of(program))
            for _ in range(chance.randint(0, 3)):
                await clock.advance(chance.choice([0.001, 0.02, 0.05]))
    async with open_engine() as engine:
        workflow = engine.workflow("w", workflow_of(program))
        await clock.advance(100)
        for instance in made:
            before, recorded = await (await workflow.get(instance.id)).result()
            assert before == recorded, f"seed {seed}"


async def test_outcomes_that_come_together_are_told_one_after_the_other(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """Two steps end at once; who is told first asks first, however many turns of the loop it takes to do so."""

    async def body(event: Any, step: Any) -> Any:
        async def branch(name: str, turns: int) -> Any:
            await step.do(name, lambda: None)
            for _ in range(turns):
                await asyncio.sleep(0)
            return await step.do("same", lambda: name)

        return await asyncio.gather(branch("far", 20), branch("near", 0))

    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(body)).create(id="i")
        await clock.advance(1)
        assert await instance.result() == ["far", "near"]
        assert [await instance.step_result({"name": "same", "count": n}) for n in (1, 2)] == ["far", "near"]


async def test_a_step_that_was_given_up_holds_up_neither_parking_nor_a_pause(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """Nobody will ever say how its attempt has ended."""

    async def body(event: Any, step: Any) -> str:
        slow = asyncio.ensure_future(step.do("slow", lambda: asyncio.sleep(3600)))
        await step.sleep("a moment", 10)
        slow.cancel()
        await asyncio.wait({slow})
        await step.sleep("night", "8 hours")
        return "morning"

    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(body)).create()
        await clock.advance(60)
        assert (await instance.status())["status"] == "waiting"
        await clock.advance(8 * 3600)
        assert await instance.result() == "morning"


async def test_a_step_that_was_given_up_does_not_hold_up_a_pause(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """The same while the run is kept warm."""

    async def body(event: Any, step: Any) -> str:
        slow = asyncio.ensure_future(step.do("slow", lambda: asyncio.sleep(3600)))
        await step.sleep("a moment", 10)
        slow.cancel()
        await asyncio.wait({slow})
        await step.sleep("night", "8 hours")
        return "morning"

    async with open_engine(linger=3600) as engine:
        instance = await engine.workflow("w", workflow_of(body)).create()
        await clock.advance(60)
        await instance.pause()
        await clock.advance(1)
        assert (await instance.status())["status"] == "paused"


async def test_steps_in_the_body_of_a_step_are_not_asked_for_again(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """The body is not run again, and nobody else gets what they came to: neither a later step of that name nor a second
    attempt of the body.
    """
    tries: list[int] = []

    async def body(event: Any, step: Any) -> Any:
        async def outer(context: Any) -> Any:
            tries.append(context.attempt)
            inner = await step.do("inner", lambda: f"inside {context.attempt}")
            await step.sleep("inside", 5)
            if context.attempt == 1:
                raise ConnectionError
            return inner

        found = await step.do("outer", {"retries": {"limit": 2, "delay": "1 hour"}}, outer)
        await step.sleep("night", "8 hours")
        return [found, await step.do("inner", lambda: "outside")]

    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(body)).create()
        await clock.advance(60)
        assert (await instance.status())["status"] == "waiting"
        await clock.advance(9 * 3600)
        assert await instance.result() == ["inside 2", "outside"]
    assert tries == [1, 2]


async def test_nobody_waits_for_what_an_attempt_that_has_failed_did_inside(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """The step is tried again in an hour; what goes on beside it goes on meanwhile, in its order."""
    ticks: list[int] = []

    async def body(event: Any, step: Any) -> Any:
        async def outer(context: Any) -> Any:
            inner = await step.do("inner", lambda: context.attempt)
            if context.attempt == 1:
                raise ConnectionError
            return inner

        async def beside() -> None:
            for _ in range(3):
                await step.sleep("a while", "10 minutes")
                await step.do("tick", lambda: ticks.append(clock.now()))

        again = {"retries": {"limit": 2, "delay": "1 hour"}}
        return (await asyncio.gather(step.do("outer", again, outer), beside()))[0]

    async with open_engine() as engine:
        began = clock.now()
        instance = await engine.workflow("w", workflow_of(body)).create()
        await clock.advance(31 * 60)
        assert [round((tick - began) / 600_000) for tick in ticks] == [1, 2, 3]
        await clock.advance(3600)
        assert await instance.result() == 2


async def test_what_goes_on_of_a_body_that_was_given_up_holds_up_nobody(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """Neither its own run, nor another one on the same loop."""

    async def body(event: Any, step: Any) -> Any:
        told: list[int] = []
        given_up = asyncio.Event()
        kept: list[asyncio.Future[None]] = []

        async def inner() -> int:
            await given_up.wait()
            return 1

        async def keep() -> None:
            told.append(await step.do("inner", inner))

        async def outer() -> None:
            kept.append(asyncio.ensure_future(keep()))
            await asyncio.sleep(3600)

        slow = asyncio.ensure_future(step.do("outer", outer))
        await step.sleep("a moment", 10)
        slow.cancel()
        await asyncio.wait({slow})
        given_up.set()
        await kept[0]
        await step.sleep("night", "8 hours")
        return [told, await step.do("last", lambda: list(told))]

    async def beside(event: Any, step: Any) -> int:
        await step.do("first", lambda: 1)
        await step.sleep("night", "9 hours")
        return 2

    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(body)).create()
        other = await engine.workflow("beside", workflow_of(beside)).create()
        await clock.advance(60)
        assert (await instance.status())["status"] == "waiting"
        await clock.advance(10 * 3600)
        assert (await instance.status())["output"] == [[1], [1]]
        assert (await other.status())["output"] == 2


async def test_a_replay_that_awaits_something_else_than_steps_keeps_to_the_order(
    open_engine: OpenEngine, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as an answer from elsewhere, which comes when it comes: who waits behind it waits for it, and if that takes
    long it is said whose program that is.
    """
    monkeypatch.setattr(replay, "STUCK_AFTER", 0.0)
    asked: asyncio.Queue[asyncio.Future[None]] = asyncio.Queue()
    recorded = asyncio.Event()

    async def run(event: Any, step: Any) -> list[str]:
        trace = []

        async def elsewhere() -> None:
            asked.put_nowait(answer := asyncio.get_running_loop().create_future())
            await answer
            trace.append(await step.do("late", lambda: "late"))
            recorded.set()

        async def here() -> None:
            await step.do("begin", lambda: None)
            await recorded.wait()
            trace.append(await step.do("early", lambda: "early"))

        await asyncio.gather(elsewhere(), here())
        await step.sleep("rest", "1 hour")
        return trace

    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(run)).create()
        (await asked.get()).set_result(None)
        await clock.run_until_idle()
        await clock.advance(60)
        assert engine.statistics().parked == 1
        ended = asyncio.ensure_future(instance.result())
        await clock.advance(3600)
        for _ in range(1000):  # many more turns than a program is looked at for
            await asyncio.sleep(0)
        while not caplog.messages:  # noqa: ASYNC110 - nobody is told of a warning
            await asyncio.sleep(0.001)
        [said] = caplog.messages
        assert said.startswith(f"w {instance.id!r} is replayed and does not ask for do 'late' number 1")
        (await asked.get()).set_result(None)
        assert await ended == ["late", "early"]


async def test_a_replay_in_which_an_outcome_is_not_asked_for_goes_on_without_it(
    open_engine: OpenEngine, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not for ever: the program is another one, and is told so in the end; its owner hears of it before."""
    monkeypatch.setattr(replay, "STUCK_AFTER", 0.0)
    monkeypatch.setattr(replay, "STUCK_FOR_SURE", 0.0)
    runs: list[None] = []

    async def run(event: Any, step: Any) -> list[str]:
        runs.append(None)
        names = ["a", "b", "c"] if len(runs) == 1 else ["c"]
        trace = [await step.do(name, lambda: "done") for name in names]
        await step.sleep("rest", "1 hour")
        return trace

    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(run)).create()
        await clock.run_until_idle()
        await clock.advance(60)
        ended = asyncio.ensure_future(instance.result())
        await clock.advance(3600)
        with pytest.raises(InstanceFailed, match="NonDeterminismError"):
            await ended
        assert f"w {instance.id!r} goes on in another order than it did, or is another program" in caplog.text
