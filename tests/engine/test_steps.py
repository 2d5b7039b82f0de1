"""`step.do`: memoised, retried, recorded once, and the same in every replay."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest

from cloister.engine import (
    Encoded,
    Engine,
    InstanceFailed,
    NonRetryableError,
    StepFailed,
    WorkflowEntrypoint,
    replay,
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


class Flaky:
    """A body that fails so many times, and counts its calls."""

    def __init__(self, failures: int, error: Exception | None = None) -> None:
        self.failures, self.error, self.calls = failures, error or ValueError("not yet"), 0

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error
        return f"call {self.calls}"


def note(calls: list[Any], call: Any, result: Any) -> Any:
    """A body's work: to have been called."""
    calls.append(call)
    return result


async def test_a_step_runs_once_however_often_the_run_is_replayed(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """After each sleep the run starts from the top; its recorded steps do not."""
    calls: list[str] = []

    async def body(event: Any, step: Any) -> list[Any]:
        results = []
        for name in ("a", "b", "c"):
            results.append(await step.do(name, lambda name=name: note(calls, name, name.upper())))
            await step.sleep("pause", "1 hour")
        return results

    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(body)).create()
        await clock.advance(4 * 3600)
        assert await instance.result() == ["A", "B", "C"]
        assert engine.statistics().parked == 3
    assert calls == ["a", "b", "c"]


async def test_equal_names_are_told_apart_by_their_order(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """The n-th use of a name is a step of its own, before and after a replay."""

    async def body(event: Any, step: Any) -> list[Any]:
        first = [await step.do("n", lambda i=i: i) for i in range(3)]
        await step.sleep("pause", "1 hour")
        return [*first, await step.do("n", lambda: 3)]

    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(body)).create()
        await clock.advance(3601)
        assert await instance.result() == [0, 1, 2, 3]
        assert [step["count"] for step in (await instance.status())["steps"] if step["kind"] == "do"] == [
            1,
            2,
            3,
            4,
        ]


async def test_the_caller_always_sees_the_stored_form_of_a_result(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """A tuple is a list the first time too, not only when it is replayed."""

    async def body(event: Any, step: Any) -> Any:
        return await step.do("t", lambda: {"t": (1, 2), "b": b"x", 1: None})

    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(body)).create()
        assert await instance.result() == {"t": [1, 2], "b": b"x", "1": None}


async def test_a_failing_step_is_tried_again_after_its_delays(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """Limit 2 means three attempts; the second comes after the delay, the third after twice that, and never
    earlier.
    """
    seen: list[tuple[int, int]] = []
    began = clock.now()

    async def body(event: Any, step: Any) -> Any:
        @step.do("flaky", config={"retries": {"limit": 2, "delay": "10 seconds"}})  # type: ignore[untyped-decorator]
        async def flaky(ctx: Any) -> str:
            seen.append((ctx.attempt, clock.now() - began))
            if ctx.attempt < 3:
                raise ValueError("no")
            return f"{ctx.name} {ctx.count} {ctx.config.limit}"

        return await flaky()

    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(body)).create()
        await clock.advance(9)
        assert (await instance.status())["steps"][0]["status"] == "retrying"
        await clock.advance(60)
        assert await instance.result() == "flaky 1 2"
    assert seen == [(1, 0), (2, 10_000), (3, 30_000)]


async def test_spent_retries_raise_the_last_error_and_a_replay_raises_it_again(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """A caught failure is a result: the body does not run again although it would succeed now."""
    flaky = Flaky(2)
    caught: list[str] = []

    async def body(event: Any, step: Any) -> str:
        try:
            await step.do("flaky", {"retries": {"limit": 1, "delay": 0}}, flaky)
        except ValueError as error:
            caught.append(str(error))
        await step.sleep("pause", "1 hour")
        return "went on"

    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(body)).create()
        await clock.advance(7200)
        assert await instance.result() == "went on"
        failed = (await instance.status())["steps"][0]
    assert caught == ["not yet", "not yet"]
    assert flaky.calls == 2
    assert (failed["status"], failed["attempts"]) == ("failed", 2)
    assert failed["error"] == {"name": "ValueError", "message": "not yet"}


async def test_a_non_retryable_error_is_not_retried(open_engine: OpenEngine) -> None:
    """One attempt, and the instance ends with that error."""
    flaky = Flaky(9, NonRetryableError("never"))

    async def body(event: Any, step: Any) -> Any:
        return await step.do("flaky", flaky)

    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(body)).create()
        with pytest.raises(InstanceFailed, match="never"):
            await instance.result()
        status = await instance.status()
    assert flaky.calls == 1
    assert (status["status"], status["error"]) == (
        "errored",
        {"name": "NonRetryableError", "message": "never"},
    )


async def test_an_error_of_its_own_class_is_told_by_name_live_and_in_replay(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """The class is not there when it is replayed, so it is not there the first time either."""

    class TheirError(Exception):
        pass

    caught: list[tuple[type[Exception], str, str]] = []

    async def body(event: Any, step: Any) -> None:
        try:
            await step.do("x", {"retries": {"limit": 0, "delay": 0}}, Flaky(1, TheirError("broke")))
        except StepFailed as error:
            caught.append((type(error), error.name, error.message))
        await step.sleep("pause", "1 hour")

    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(body)).create()
        await clock.advance(7200)
        await instance.result()
    assert caught == [(StepFailed, "TheirError", "broke")] * 2


async def test_an_attempt_that_takes_too_long_fails_and_is_retried(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """The timeout is per attempt, and cancels the body."""
    cancelled: list[int] = []

    async def body(event: Any, step: Any) -> Any:
        @step.do("slow", config={"retries": {"limit": 1, "delay": 0}, "timeout": "5 minutes"})  # type: ignore[untyped-decorator]
        async def slow(ctx: Any) -> str:
            try:
                await clock.sleep(1000 if ctx.attempt == 1 else 1)
            except asyncio.CancelledError:
                cancelled.append(ctx.attempt)
                raise
            return "done"

        return await slow()

    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(body)).create()
        await clock.advance(299)
        assert (await instance.status())["steps"][0]["status"] == "running"
        await clock.advance(10)
        assert await instance.result() == "done"
        assert (await instance.status())["steps"][0]["attempts"] == 2
    assert cancelled == [1]


async def test_the_first_configuration_of_a_step_wins_over_later_ones(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """What the code says after a restart does not change a step that is being retried."""
    limits = iter([1, 9, 9, 9])
    flaky = Flaky(9)

    async def body(event: Any, step: Any) -> Any:
        return await step.do("x", {"retries": {"limit": next(limits), "delay": "1 hour"}}, flaky)

    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(body)).create()
        await clock.advance(4 * 3600)
        with pytest.raises(InstanceFailed):
            await instance.result()
    assert flaky.calls == 2


async def test_what_cannot_be_stored_fails_the_step_without_retries(open_engine: OpenEngine) -> None:
    """Trying again would give the same unsendable or oversized value."""
    calls: list[str] = []

    async def body(event: Any, step: Any) -> list[str]:
        names = []
        for name, value in (("object", object()), ("large", "x" * 1_048_577)):
            try:
                await step.do(name, lambda value=value, name=name: note(calls, name, value))
            except StepFailed as error:
                names.append(error.name)
        return names

    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(body)).create()
        assert await instance.result() == ["CodecError", "PayloadTooLarge"]
    assert calls == ["object", "large"]


async def test_an_uncaught_error_ends_the_instance_with_its_name_and_message(open_engine: OpenEngine) -> None:
    """An error that carries `name` and `message` speaks for one elsewhere."""

    async def body(event: Any, step: Any) -> None:
        raise StepFailed("TheirError", "broke") if event.payload["kind"] else LookupError("where")

    async with open_engine() as engine:
        workflow = engine.workflow("w", workflow_of(body))
        for kind, error in (
            (1, {"name": "TheirError", "message": "broke"}),
            (0, {"name": "LookupError", "message": "where"}),
        ):
            instance = await workflow.create(params={"kind": kind})
            with pytest.raises(InstanceFailed):
                await instance.result()
            assert (await instance.status())["error"] == error


async def test_an_output_that_is_encoded_is_passed_on_unread(open_engine: OpenEngine) -> None:
    """What another process made of its output is stored as it came, whatever it is."""

    async def body(event: Any, step: Any) -> Encoded:
        return Encoded(event.encoded_payload)

    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(body)).create(params=Encoded(b"\xc1 not readable"))
        await engine._clock.run_until_idle()  # type: ignore[attr-defined]
        assert (await instance.status_encoded())["output"] == Encoded(b"\xc1 not readable")


async def test_a_replay_that_misses_recorded_steps_is_an_error_not_a_wrong_result(
    open_engine: OpenEngine, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code that changed under its history fails with `NonDeterminismError`, which names the step."""
    monkeypatch.setattr(replay, "STUCK_FOR_SURE", 0.0)

    async def before(event: Any, step: Any) -> None:
        await step.do("collect", lambda: 1)
        await step.sleep("pause", "1 hour")

    async def after(event: Any, step: Any) -> None:
        await step.do("gather", lambda: 1)

    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(before)).create(id="i")
        await clock.advance(60)
    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(after)).get("i")
        ended = asyncio.ensure_future(instance.result())
        await clock.advance(3600)
        with pytest.raises(InstanceFailed):
            await ended
        status = await instance.status()
    assert status["error"]["name"] == "NonDeterminismError"
    assert "'collect'" in status["error"]["message"]


async def test_steps_that_run_side_by_side_replay_side_by_side(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """Recorded siblings are all reached by the replay, also when one of them alone decides the end."""
    calls: list[int] = []

    async def body(event: Any, step: Any) -> Any:
        tasks = [asyncio.ensure_future(step.do(f"part {i}", lambda i=i: note(calls, i, i))) for i in range(5)]
        first = await tasks[0]
        await asyncio.gather(*tasks[1:]) if not calls else None
        await step.sleep("pause", "1 hour")
        return first, await asyncio.gather(*tasks)

    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(body)).create()
        await clock.advance(3700)
        assert await instance.result() == [0, [0, 1, 2, 3, 4]]
    assert sorted(calls) == [0, 1, 2, 3, 4]


async def test_params_default_to_an_empty_map_and_none_stays_none(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """The event tells what the instance was created with, and when."""

    async def body(event: Any, step: Any) -> list[Any]:
        return [event.payload, event.instance_id, event.workflow_name, event.timestamp.isoformat()]

    async with open_engine() as engine:
        workflow = engine.workflow("w", workflow_of(body))
        when = "2027-01-15T08:00:00+00:00"
        assert await (await workflow.create({"id": "a"})).result() == [{}, "a", "w", when]
        assert await (await workflow.create(id="b", params=None)).result() == [None, "b", "w", when]


async def test_what_is_sensitive_is_replayed_and_shown_to_nobody(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """A value or a stream is what it was for the program alone. What failed says why: nobody could mend it else."""
    hidden = {"sensitive": "output", "retries": {"limit": 0, "delay": 0}}

    async def body(event: Any, step: Any) -> Any:
        secret = await step.do("secret", hidden, lambda: "hunter2")
        stream = await step.do("stream", hidden, lambda: (piece for piece in (b"hun", b"ter3")))
        await step.sleep("night", "8 hours")
        with pytest.raises(ValueError, match="hunter4"):
            await step.do("fails", hidden, Flaky(1, ValueError("hunter4")))
        return [secret == "hunter2", await stream.read() == b"hunter3"]

    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(body)).create()
        await clock.advance(9 * 3600)
        assert await instance.result() == [True, True]
        for name in ("secret", "stream"):
            assert await instance.step_result(name) == "[REDACTED]"
        with pytest.raises(ValueError, match="hunter4"):
            await instance.step_result("fails")
        told = [str(event) async for event in instance.subscribe()]
        assert not [line for line in (*told, str(await instance.status())) if "hunter2" in line or "hunter3" in line]
