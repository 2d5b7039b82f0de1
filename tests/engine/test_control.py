"""Creating, finding and steering instances."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from cloister.engine import (
    Engine,
    InstanceAlreadyExists,
    InstanceFailed,
    InstanceFinished,
    InstanceNotFound,
    InvalidInstanceId,
    InvalidStepName,
    PayloadTooLarge,
    WorkflowEntrypoint,
)

if TYPE_CHECKING:
    from cloister.engine.testing import VirtualClock

OpenEngine = Callable[..., Engine]


class Napper(WorkflowEntrypoint):
    async def run(self, event: Any, step: Any) -> str:
        await step.sleep("nap", "1 hour")
        return "awake"


class Listener(WorkflowEntrypoint):
    async def run(self, event: Any, step: Any) -> Any:
        return (await step.wait_for_event("w", type="t")).payload


class Worker(WorkflowEntrypoint):
    """Two steps of ten seconds each; the env is the clock."""

    async def run(self, event: Any, step: Any) -> str:
        await step.do("one", lambda: self.env.sleep(10))
        await step.do("two", lambda: self.env.sleep(10))
        return "worked"


async def test_one_id_is_created_once_whoever_races(open_engine: OpenEngine) -> None:
    """Of fifty creators one wins, with its params; the others are told."""
    async with open_engine() as engine:
        workflow = engine.workflow("w", Napper)
        results = await asyncio.gather(*(workflow.create(id="x", params=n) for n in range(50)), return_exceptions=True)
        assert sum(isinstance(result, InstanceAlreadyExists) for result in results) == 49
        with pytest.raises(InstanceAlreadyExists, match="'x'"):
            await workflow.create(id="x")


async def test_two_scopes_may_use_one_id_and_cannot_see_each_other(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """An id of another scope and an unknown id are the same error with the same words."""
    async with open_engine() as engine:
        workflow = engine.workflow("w", Listener)
        a = await workflow.create(id="x", scope="tenant a")
        b = await workflow.create(id="x", scope="tenant b")
        await clock.advance(1)
        await a.send_event(type="t", payload="for a")
        await clock.run_until_idle()
        assert ((await a.status())["output"], (await b.status())["status"]) == ("for a", "waiting")
        words = set()
        for scope in ("", "tenant c"):
            with pytest.raises(InstanceNotFound) as caught:
                await workflow.get("x", scope=scope)
            words.add(str(caught.value))
        assert words == {"workflow 'w' has no instance 'x'"}
        with pytest.raises(InstanceNotFound):
            await engine.workflow("other", Listener).get("x", scope="tenant a")


async def test_bad_input_to_the_binding_is_refused_and_creates_nothing(open_engine: OpenEngine) -> None:
    """Ids, scopes, sizes and options are checked before anything is written."""
    async with open_engine() as engine:
        workflow = engine.workflow("w", Napper)
        for error, options in (
            (InvalidInstanceId, {"id": "a b"}),
            (InvalidStepName, {"scope": "a\nb"}),
            (PayloadTooLarge, {"params": "x" * 1_048_577}),
            (TypeError, {"ids": "a"}),
        ):
            with pytest.raises(error):
                await workflow.create(**options)
        with pytest.raises(InvalidInstanceId):
            await workflow.get("a\tb")
        batches: list[Any] = [[], [{}] * 101, "ab"]
        for batch in batches:
            with pytest.raises((ValueError, TypeError)):
                await workflow.create_batch(batch)
        instance = await workflow.create()
        wrong: list[dict[str, Any]] = [
            {},
            {"type": "a\0"},
            {"type": "t", "payload": "x" * 1_048_577},
            {"type": "t", "id": 7},
        ]
        for more in wrong:
            with pytest.raises((TypeError, InvalidStepName, PayloadTooLarge)):
                await instance.send_event(**more)
        for name, concurrency in (("w", 1), ("a b", 1), ("x" * 65, 1), ("v", 0)):
            with pytest.raises(ValueError, match="workflow"):
                engine.workflow(name, Napper, concurrency=concurrency)


async def test_options_that_are_misspelt_by_name_or_are_no_options_are_refused_in_words(
    open_engine: OpenEngine,
) -> None:
    """What was meant by them would be lost. Other keys of a dict are ignored, as in programs for Cloudflare."""
    async with open_engine() as engine:
        workflow = engine.workflow("w", Listener)
        instance = await workflow.create({"id": "x", "locationHint": "weur"})
        event: Any = "t"
        for refused, words in (
            (lambda: workflow.create(event), r"create\(\) takes a dict of options, or options by name, not str"),
            (lambda: workflow.create(parms=1), r"create\(\) has no option 'parms'; there are id, params"),
            (lambda: engine.transact(lambda now: now.create(workflow, parms=1)), r"create\(\) has no option 'parms'"),
            (lambda: instance.fork(event), r"fork\(\) takes a dict of options"),
            (lambda: instance.send_event(event), r"send_event\(\) takes a dict of options"),
            (lambda: instance.send_event(type="t", paylod=1), r"send_event\(\) has no option 'paylod'; there are type"),
        ):
            with pytest.raises(TypeError, match=words):
                await refused()
        assert [each.id for each in (await workflow.list()).instances] == ["x"]
        await instance.send_event({"type": "t", "payload": "it", "metadata": 1})
        assert await instance.result() == "it"


async def test_a_batch_skips_what_exists_and_leaves_it_out(open_engine: OpenEngine) -> None:
    """So that a batch whose answer was lost can be repeated."""
    async with open_engine() as engine:
        workflow = engine.workflow("w", Napper)
        await workflow.create(id="b")
        made = await workflow.create_batch([{"id": "a"}, {"id": "b"}, {"id": "c"}, {"id": "c"}, {}])
        assert [instance.id for instance in made[:2]] == ["a", "c"]
        assert len(made) == 3


async def test_an_instance_beyond_the_concurrency_is_queued_then_runs(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """Excess is never refused; it takes its turn."""
    async with open_engine() as engine:
        workflow = engine.workflow("w", Worker, concurrency=2, env=clock)
        instances = [await workflow.create() for _ in range(5)]
        await clock.advance(1)
        assert [(await i.status())["status"] for i in instances] == ["running"] * 2 + ["queued"] * 3
        await clock.advance(60)
        assert [await i.result() for i in instances] == ["worked"] * 5


async def test_the_status_tells_times_and_steps(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """A step in progress is there too, from memory, since starts are not written."""
    async with open_engine() as engine:
        workflow = engine.workflow("w", Worker, env=clock)
        began = clock.now()
        instance = await workflow.create(id="x")
        await clock.advance(15)
        step = {"kind": "do", "count": 1, "attempts": 1, "error": None}
        assert await instance.status() == {
            "status": "running",
            "output": None,
            "error": None,
            "trouble": None,
            "run": 1,
            "created": began,
            "started": began,
            "ended": None,
            "rollback": None,
            "wakes": None,
            "paused": None,
            "expires": None,
            "labels": {},
            "steps": [
                step | {"name": "one", "status": "done", "started": began, "ended": began + 10_000},
                step | {"name": "two", "status": "running", "started": began + 10_000, "ended": None},
            ],
        }
        await clock.advance(15)
        status = await instance.status()
        assert (status["status"], status["output"], status["ended"]) == ("complete", "worked", began + 20_000)


async def test_a_pause_shifts_pending_deadlines_by_its_length(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """Ten hours on hold, and the rest of the hour is still to be slept."""
    async with open_engine() as engine:
        instance = await engine.workflow("w", Napper).create()
        await clock.advance(1800)
        await instance.pause()
        assert (await instance.status())["status"] == "paused"
        await clock.advance(36_000)
        assert (await instance.status())["status"] == "paused"
        await instance.resume()
        await clock.advance(1799)
        assert (await instance.status())["status"] == "waiting"
        await clock.advance(1)
        assert await instance.result() == "awake"


async def test_a_pause_lets_the_step_in_flight_finish(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """Its result is kept; the next step does not begin before the resume."""
    async with open_engine() as engine:
        instance = await engine.workflow("w", Worker, env=clock).create(id="x")
        await clock.advance(5)
        await instance.pause()
        assert (await instance.status())["status"] == "waitingForPause"
        await clock.advance(60)
        status = await instance.status()
        assert (status["status"], [step["name"] for step in status["steps"]]) == ("paused", ["one"])
    async with open_engine() as engine:
        instance = await engine.workflow("w", Worker, env=clock).get("x")
        await clock.advance(60)
        assert (await instance.status())["status"] == "paused"
        await instance.resume()
        await clock.advance(10)
        assert await instance.result() == "worked"


async def test_a_resume_calls_off_a_pause_that_has_not_begun(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """The run goes on in place, without a replay."""
    async with open_engine() as engine:
        instance = await engine.workflow("w", Worker, env=clock).create()
        await clock.advance(5)
        await instance.pause()
        await clock.advance(2)
        await instance.resume()
        assert (await instance.status())["status"] == "running"
        await clock.advance(30)
        assert await instance.result() == "worked"
        assert engine.statistics().started == 1


async def test_an_event_sent_during_a_pause_is_there_afterwards(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """A pause holds the run, not its mail."""
    async with open_engine() as engine:
        instance = await engine.workflow("w", Listener).create()
        await clock.advance(1)
        await instance.pause()
        await instance.send_event(type="t", payload="hello")
        await clock.advance(60)
        assert (await instance.status())["status"] == "paused"
        await instance.resume()
        assert await instance.result() == "hello"


async def test_terminate_is_final_and_drops_late_results(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """A step that does not heed its cancellation ends later, and is not recorded."""
    late: list[str] = []

    class Stubborn(WorkflowEntrypoint):
        async def run(self, event: Any, step: Any) -> str:
            async def work() -> str:
                try:
                    await clock.sleep(100)
                except asyncio.CancelledError:
                    late.append("cancelled")
                await clock.sleep(100)
                late.append("worked on")
                return "late"

            return str(await step.do("work", work))

    async with open_engine() as engine:
        instance = await engine.workflow("w", Stubborn).create()
        await clock.advance(1)
        waiting = asyncio.create_task(instance.result())
        await clock.run_until_idle()
        await instance.terminate()
        for asking in (waiting, instance.result()):  # also while the body still works
            with pytest.raises(InstanceFailed, match="Terminated"):
                await asking
        await clock.advance(1000)
        status = await instance.status()
        assert (status["status"], status["steps"], status["error"]["name"]) == (
            "terminated",
            [],
            "Terminated",
        )
        assert late == ["cancelled", "worked on"]
        assert engine.statistics().running == 0


async def test_a_finished_instance_takes_no_events_and_no_controls(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """Each of them says that it has ended, and how."""
    async with open_engine() as engine:
        instance = await engine.workflow("w", Listener).create()
        await instance.terminate()
        for call in (
            instance.pause(),
            instance.resume(),
            instance.terminate(),
            instance.send_event(type="t"),
        ):
            with pytest.raises(InstanceFinished, match="terminated"):
                await call


async def test_terminating_what_only_waits_or_is_queued_needs_no_run(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """Parked, paused and queued instances end without being woken."""
    async with open_engine() as engine:
        workflow = engine.workflow("w", Napper, concurrency=1)
        parked = await workflow.create()
        await clock.advance(1)
        paused, busy = await workflow.create(), await workflow.create()
        await paused.pause()
        started = engine.statistics().started
        for instance in (parked, paused, busy):
            await instance.terminate()
            assert (await instance.status())["status"] == "terminated"
        await clock.advance(7200)
        assert engine.statistics().started <= started + 1


async def test_result_waits_for_the_end_within_its_timeout(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """After it, the instance is as it was."""
    async with open_engine() as engine:
        instance = await engine.workflow("w", Napper).create()
        waiting, late = (asyncio.create_task(instance.result(timeout=seconds)) for seconds in (60, -0.001))
        await clock.advance(1)
        with pytest.raises(TimeoutError, match=r"within 0\.0 seconds"):
            await late
        await clock.advance(60)
        with pytest.raises(TimeoutError, match="60"):
            await waiting
        await clock.advance(3600)
        assert await instance.result(timeout=0) == "awake"


async def test_a_cancelled_create_still_creates(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """Whoever stops waiting for the answer has not stopped the write: the instance runs, and its slot comes
    back.
    """
    async with open_engine() as engine:
        workflow = engine.workflow("w", Napper, concurrency=1)
        await clock.run_until_idle()
        creating = asyncio.create_task(workflow.create(id="x"))
        await asyncio.sleep(0)
        creating.cancel()
        await clock.advance(7200)
        assert await (await workflow.get("x")).result() == "awake"
        assert engine._schedulers["w"].slots.free() == 1
