"""What surrounds an attempt of a step: its delays, its secrets, its signs of life, its token, and values beside it."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest

from cloister.engine import (
    Attempt,
    Engine,
    InstanceFailed,
    StepFailed,
    WorkflowEntrypoint,
    WorkflowLimits,
    current_attempt,
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


def retries(delay: Any, limit: int = 3, backoff: str = "constant") -> dict[str, Any]:
    return {"retries": {"limit": limit, "delay": delay, "backoff": backoff}}


def note(calls: list[Any], call: Any) -> int:
    """One more call."""
    calls.append(call)
    return 1


# Delays that a function says


@pytest.mark.parametrize(
    ("backoff", "starts"), [("constant", [0, 2, 5]), ("linear", [0, 2, 8]), ("exponential", [0, 2, 8])]
)
async def test_a_function_says_how_long_to_wait_and_the_backoff_multiplies_it(
    open_engine: OpenEngine, clock: VirtualClock, backoff: str, starts: list[int]
) -> None:
    """It is asked after each failed attempt, with its context and its error."""
    began, seen, asked = clock.now(), list[float](), list[tuple[int, str]]()

    async def delay(ctx: Any, error: Exception) -> str:
        asked.append((ctx.attempt, str(error)))
        return f"{ctx.attempt + 1} seconds"

    async def body(event: Any, step: Any) -> Any:
        def flaky(ctx: Any) -> Any:
            seen.append((clock.now() - began) / 1000)
            if ctx.attempt < 3:
                raise ValueError(f"no {ctx.attempt}")
            return [ctx.config.dynamic, ctx.config.delay_ms]

        return await step.do("flaky", retries(delay, backoff=backoff), flaky)

    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(body)).create()
        await clock.advance(60)
        assert await instance.result() == [True, 0]
    assert seen == starts
    assert asked == [(1, "no 1"), (2, "no 2")]


async def test_a_function_that_cannot_say_fails_the_step_at_once(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """It raises, takes more than five seconds, or says what is no duration; the error says which."""
    calls: list[str] = []

    async def slow(ctx: Any, error: Any) -> int:
        await clock.sleep(6)
        return 1

    def broken(ctx: Any, error: Any) -> int:
        raise LookupError("where")

    async def body(event: Any, step: Any) -> list[str]:
        words = []
        for name, delay in (("slow", slow), ("broken", broken), ("odd", lambda: "soon"), ("none", lambda error: None)):
            try:
                await step.do(name, retries(delay), lambda name=name: note(calls, name) / 0)
            except StepFailed as error:
                words.append(f"{error.name} {error.message}")
        return words

    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(body)).create()
        await clock.advance(60)
        told = await instance.result()
    assert calls == ["slow", "broken", "odd", "none"]
    assert all(words.startswith("NonRetryableDelayError") for words in told)
    for words, part in zip(told, ["within 5 s", "LookupError: where", "'soon'", "None is neither"], strict=True):
        assert part in words
    assert "ZeroDivisionError" in told[2]


async def test_a_function_is_not_asked_once_the_retries_are_spent(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """The step fails with the error of its last attempt."""
    asked: list[int] = []

    async def body(event: Any, step: Any) -> Any:
        return await step.do("x", retries(lambda ctx: note(asked, ctx.attempt) - 1, limit=1), lambda: 1 / 0)

    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(body)).create()
        await clock.advance(60)
        with pytest.raises(InstanceFailed, match="ZeroDivisionError"):
            await instance.result()
    assert asked == [1]


async def test_a_delay_that_a_function_said_survives_a_restart(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """The deadline is recorded with the failure, not found anew by asking again."""
    began, seen, asked = clock.now(), list[float](), list[int]()

    async def body(event: Any, step: Any) -> Any:
        def flaky(ctx: Any) -> Any:
            seen.append((clock.now() - began) / 1000)
            return ctx.attempt if ctx.attempt > 1 else 1 / 0

        return await step.do("x", retries(lambda: f"{note(asked, 1)} hour"), flaky)

    async with open_engine() as engine:
        await engine.workflow("w", workflow_of(body)).create(id="i")
        await clock.advance(600)
    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(body)).get("i")
        await clock.advance(3600)
        assert await instance.result() == 2
    assert (seen, asked) == ([0, 3600], [1])


# Signs of life


async def test_a_heartbeat_leaves_word_for_the_next_attempt(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """Of the same host after a failure, and of the next host after a crash in mid-attempt, which costs no retry."""
    seen: list[tuple[int, Any]] = []

    async def body(event: Any, step: Any) -> Any:
        async def copy(ctx: Any) -> Any:
            seen.append((ctx.attempt, ctx.details))
            at = (ctx.details or {"at": 0})["at"]
            assert await ctx.heartbeat({"at": at + 10})
            if at == 0:
                raise ConnectionError("lost")
            if at == 10:
                await clock.sleep(10**6)
            return at

        return await step.do("copy", retries(0, limit=1), copy)

    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(body)).create(id="i")
        await clock.advance(5)
        assert (await instance.status())["steps"][0]["attempts"] == 2
    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(body)).get("i")
        await clock.advance(5)
        assert await instance.result() == 20
    assert seen == [(1, None), (2, {"at": 10}), (2, {"at": 20})]


async def test_a_heartbeat_tells_a_step_that_somebody_waits_for_its_end(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """A pause lets the attempt finish; one that asks can finish early."""

    async def body(event: Any, step: Any) -> Any:
        async def long(ctx: Any) -> int:
            rounds = 0
            while await ctx.heartbeat():
                await clock.sleep(60)
                rounds += 1
            return rounds

        return await step.do("long", {"timeout": "1 day"}, long)

    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(body)).create()
        await clock.advance(150)
        await instance.pause()
        await clock.advance(60)
        assert (await instance.status())["status"] == "paused"
        await instance.resume()
        assert await instance.result() == 3


async def test_an_attempt_that_gives_no_sign_of_life_in_time_ends_and_is_retried(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """Each sign begins the time anew; the next attempt is told what the last one said, and of the timeout if spent."""
    seen: list[tuple[int, Any]] = []

    async def body(event: Any, step: Any) -> Any:
        async def long(ctx: Any) -> None:
            seen.append((ctx.attempt, ctx.details))
            for done in range(1, 4):
                await clock.sleep(50)
                await ctx.heartbeat(done)
            await clock.sleep(10**6)

        try:
            await step.do("long", {**retries(0, limit=1), "timeout": "1 day", "heartbeat_timeout": "1 minute"}, long)
        except Exception as error:  # noqa: BLE001 - as authors do
            return [error.name, error.message]  # type: ignore[attr-defined]

    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(body)).create()
        await clock.advance(209)
        assert seen == [(1, None)]
        await clock.advance(1)
        assert seen == [(1, None), (2, 3)]
        await clock.advance(210)
        assert await instance.result() == ["WorkflowTimeoutError", "There was no heartbeat for 60000ms"]


async def test_the_time_of_an_attempt_as_a_whole_holds_however_lively_it_is(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """And is what it is told of then."""

    async def body(event: Any, step: Any) -> Any:
        async def lively(ctx: Any) -> None:
            while await ctx.heartbeat():
                await clock.sleep(5)

        try:
            await step.do("x", {**retries(0, limit=0), "timeout": 60_000, "heartbeatTimeout": 10_000}, lively)
        except Exception as error:  # noqa: BLE001 - as authors do
            return error.message  # type: ignore[attr-defined]

    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(body)).create()
        await clock.advance(61)
        assert await instance.result() == "Execution timed out after 60000ms"


async def test_signs_of_life_do_not_save_a_run_that_keeps_dying(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """Ten losses without an outcome end it, however often it beat in between."""
    from cloister.engine import RunInterrupted

    async def body(event: Any, step: Any) -> Any:
        async def deadly(ctx: Any) -> None:
            await ctx.heartbeat("alive")
            raise RunInterrupted("the process died")

        await step.do("deadly", deadly)

    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(body)).create()
        await clock.advance(3600)
        with pytest.raises(InstanceFailed, match="CrashLoop"):
            await instance.result()
        assert engine.statistics().lost == 10


# Tokens and ids


async def test_each_attempt_has_a_larger_token_than_all_before_it(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """Also after an attempt that was lost, which has the same number; and the key is the step's own."""
    seen: list[Attempt] = []

    async def body(event: Any, step: Any) -> Any:
        async def work(ctx: Any) -> None:
            attempt = current_attempt()
            assert attempt is not None
            assert attempt.token == ctx.token
            seen.append(attempt)
            if len(seen) == 1:
                raise ValueError
            if len(seen) == 2:
                await clock.sleep(10**6)

        await step.do("work", retries(0), work)
        assert current_attempt() is None

    for _ in range(2):
        async with open_engine() as engine:
            workflow = engine.workflow("w", workflow_of(body))
            instance = await (workflow.get("i") if seen else workflow.create(id="i"))
            await clock.advance(5)
            if len(seen) == 3:
                await instance.result()
    assert [attempt.attempt for attempt in seen] == [1, 2, 2]
    assert seen[0].token < seen[1].token < seen[2].token
    assert len({attempt.key for attempt in seen}) == 1


def test_no_step_has_the_key_of_another_ones_whatever_they_are_called() -> None:
    """Else a tenant could have a receiver believe that it has had what another tenant sends."""
    keys = [
        Attempt("w", "shop/7", "1", 1, "pay", 1, 1, 1).key,
        Attempt("w", "shop", "7", 1, "1/pay", 1, 1, 1).key,
        Attempt("w", "shop%2F7", "1", 1, "pay", 1, 1, 1).key,
    ]
    assert len(set(keys)) == 3
    assert Attempt("w", "shop", "a", 1, "last word", 2, 1, 1).key == "w/shop/a/1/last word/2"


async def test_what_a_step_creates_without_a_name_is_created_once(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """The next attempt gets the same instances, the n-th for the n-th; another step gets others."""
    made: list[str] = []

    async def child(event: Any, step: Any) -> Any:
        return event.payload

    async def body(event: Any, step: Any) -> Any:
        async def create(ctx: Any) -> list[str]:
            ids = [(await children.create(params=number)).id for number in range(2)]
            made.extend(ids)
            if ctx.attempt == 1:
                raise ValueError("after the fact")
            return ids

        return [await step.do("create", retries(0), create), await step.do("create", create_one)]

    async def create_one() -> str:
        return str((await children.create(params=2)).id)

    async with open_engine() as engine:
        children = engine.workflow("children", workflow_of(child))
        instance = await engine.workflow("w", workflow_of(body)).create()
        await clock.advance(60)
        first, other = await instance.result()
        assert made == first * 2
        assert [await (await children.get(name)).result() for name in [*first, other]] == [0, 1, 2]


# Values


async def test_time_chance_and_ids_are_the_same_in_every_replay(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """Each is recorded when it is first asked for."""
    runs: list[list[Any]] = []
    began = clock.now()

    async def body(event: Any, step: Any) -> None:
        values = [await step.now(), await step.random(), await step.random(), await step.uuid(), await step.uuid()]
        runs.append(values)
        await step.sleep("a while", "1 hour")
        runs[-1].append(await step.now())

    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(body)).create()
        await clock.advance(3700)
        await instance.result()
        kinds = [step["kind"] for step in (await instance.status())["steps"]]
    first, second = runs
    assert first == second[:5]
    assert len(set(first)) == 5
    assert first[0] == dt.datetime.fromtimestamp(began / 1000, dt.UTC)
    assert second[5] == first[0] + dt.timedelta(hours=1)
    assert kinds == ["value"] * 5 + ["sleep", "value"]


async def test_side_by_side_values_keep_their_places(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """The n-th is the n-th that was asked for."""
    runs: list[list[float]] = []

    async def body(event: Any, step: Any) -> None:
        runs.append(await asyncio.gather(*(step.random() for _ in range(5))))
        await step.sleep("a while", "1 hour")

    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(body)).create()
        await clock.advance(3700)
        await instance.result()
    assert runs[0] == runs[1]


# Limits


async def test_a_workflow_says_how_many_steps_a_run_may_have(open_engine: OpenEngine) -> None:
    """One more ends it with words; sleeps are counted by themselves."""

    async def body(event: Any, step: Any) -> str:
        for number in range(event.payload):
            await step.do("s", lambda: 1)
            await step.sleep("n", 0) if number % 2 else None
        return "whole"

    async with open_engine() as engine:
        workflow = engine.workflow("w", workflow_of(body), limits=WorkflowLimits(steps=5))
        assert await (await workflow.create(params=5)).result() == "whole"
        with pytest.raises(InstanceFailed, match="StepLimitExceeded: a run may have 5 steps of a kind"):
            await (await workflow.create(params=6)).result()
    for wrong in (0, 25_001, "5", True):
        with pytest.raises(ValueError, match="25,000"):
            WorkflowLimits(steps=wrong)  # type: ignore[arg-type]
