"""Sleeps, events and parking: what waits costs nothing, is never early, and loses nothing."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest

from cloister.engine import Engine, WaitTimeout, WorkflowEntrypoint, replay
from cloister.engine.listing import Query
from cloister.engine.records import Address
from cloister.engine.store import archive
from cloister.engine.store.export import export
from cloister.engine.testing import Mocks

if TYPE_CHECKING:
    from pathlib import Path

    from cloister.engine.testing import VirtualClock

OpenEngine = Callable[..., Engine]
Body = Callable[[Any, Any], Awaitable[Any]]


def workflow_of(body: Body) -> type[WorkflowEntrypoint]:
    class Written(WorkflowEntrypoint):
        async def run(self, event: Any, step: Any) -> Any:
            return await body(event, step)

    return Written


async def nap(event: Any, step: Any) -> str:
    await step.sleep("nap", event.payload)
    return "awake"


async def test_a_sleep_ends_at_its_deadline_and_not_before(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """To the millisecond, whether the run was parked meanwhile or not."""
    async with open_engine() as engine:
        workflow = engine.workflow("w", workflow_of(nap))
        for duration in ("10 milliseconds", "30 days"):
            instance = await workflow.create(params=duration)
            seconds = 0.01 if "milli" in duration else 30 * 86_400
            await clock.advance(seconds - 0.001)
            assert (await instance.status())["status"] != "complete"
            await clock.advance(0.001)
            assert (await instance.status())["status"] == "complete"


async def test_a_short_sleep_ends_in_place(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """What is over within the linger costs no replay."""
    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(nap)).create(params=40)
        await clock.advance(1)
        assert await instance.result() == "awake"
        assert (engine.statistics().parked, engine.statistics().started) == (0, 1)


@pytest.mark.parametrize(("gap", "most"), [(400, 3), (2_000, 101)])
async def test_a_run_with_much_on_record_is_not_replayed_for_each_of_its_deadlines(
    open_engine: OpenEngine, clock: VirtualClock, gap: int, most: int
) -> None:
    """It is kept where the next one is near, compared with what its replay takes; where it is not, it is put aside."""

    async def run(event: Any, step: Any) -> int:
        await asyncio.gather(*(step.sleep(f"s{n}", 60_000 + n * event.payload) for n in range(100)))
        return 100

    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(run)).create(params=gap)
        for _ in range(300):
            await clock.advance(1)
        assert await instance.result() == 100
        assert most // 2 < engine.statistics().started <= most


async def test_however_much_is_on_record_nobody_is_kept_for_long(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """Six hundred records would be kept for three seconds; who sleeps for that long holds nothing."""

    async def run(event: Any, step: Any) -> None:
        await asyncio.gather(*(step.sleep(f"s{n}", 1) for n in range(600)))
        await step.sleep("last", event.payload)

    async with open_engine() as engine:
        workflow = engine.workflow("w", workflow_of(run))
        near, far = await workflow.create(params=1_500), await workflow.create(params=2_900)
        await clock.advance(1)
        assert [(await each.status())["status"] for each in (near, far)] == ["waiting", "waiting"]
        assert engine.statistics().parked == 1
        await clock.advance(10)
        assert [(await each.status())["status"] for each in (near, far)] == ["complete", "complete"]


async def test_a_sleep_over_downtime_ends_when_the_engine_is_back(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """Deadlines are absolute: time passes while nobody runs."""
    async with open_engine() as engine:
        await engine.workflow("w", workflow_of(nap)).create(id="i", params="1 hour")
        await clock.advance(1)
    await clock.advance(3600)
    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(nap)).get("i")
        await clock.run_until_idle()
        assert await instance.result() == "awake"


async def test_a_clock_set_back_delays_once_and_set_forward_wakes(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """Deadlines are wall time: set back by a minute, a sleeper sleeps a minute longer and no more."""
    async with open_engine() as engine:
        workflow = engine.workflow("w", workflow_of(nap))
        late = await workflow.create(params="10 minutes")
        await clock.advance(300)
        clock.set_wall(-60)
        await clock.advance(359)
        assert (await late.status())["status"] == "waiting"
        await clock.advance(1)
        assert await late.result() == "awake"
        early = await workflow.create(params="10 minutes")
        await clock.advance(1)
        clock.set_wall(600)
        await clock.advance(0)
        assert await early.result() == "awake"


async def test_sleep_until_a_moment_survives_its_own_replay(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """The moment is past when the run is replayed, or begins so late; that is no error, and nothing to wait for."""

    async def body(event: Any, step: Any) -> str:
        await step.sleep_until("until", event.payload)
        return "awake"

    async with open_engine() as engine:
        workflow = engine.workflow("w", workflow_of(body))
        instance = await workflow.create(params=clock.now() + 3_600_000)
        await clock.advance(3600)
        assert await instance.result() == "awake"
        assert await (await workflow.create(params=clock.now() - 3_600_000)).result() == "awake"


async def listen(event: Any, step: Any) -> list[Any]:
    return [(await step.wait_for_event("next", type="t")).payload for _ in range(event.payload)]


async def test_events_arrive_in_order_beyond_ten(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """The order is that of sending, not that of text, over parking and a new host."""
    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(listen)).create(id="i", params=25)
        await clock.advance(1)
        for number in range(12):
            await instance.send_event(type="t", payload=number)
    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(listen)).get("i")
        for number in range(12, 25):
            await instance.send_event(type="t", payload=number)
            await clock.advance(number % 3)
        assert await instance.result() == list(range(25))


async def test_an_event_sent_before_its_wait_is_kept_for_it(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """And is matched by its type only."""

    async def body(event: Any, step: Any) -> list[Any]:
        await step.sleep("first", "1 hour")
        b = await step.wait_for_event("b", type="b")
        a = await step.wait_for_event("a", type="a")
        return [a.payload, a.type, b.payload, b.timestamp_ms]

    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(body)).create()
        sent = clock.now()
        await instance.send_event({"type": "a", "payload": 1})
        await instance.send_event(type="b", payload=2)
        await clock.advance(3600)
        assert await instance.result() == [1, "a", 2, sent]


async def test_a_repeated_event_id_is_ignored(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """Also after the first one was consumed, so that a send whose answer was lost can be repeated."""
    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(listen)).create(params=2)
        for _ in range(3):
            await instance.send_event(type="t", payload="once", id="e1")
            await clock.advance(1)
        await instance.send_event(type="t", payload="twice", id="e2")
        assert await instance.result() == ["once", "twice"]


async def test_a_wait_without_an_event_times_out_and_stays_so(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """The timeout is recorded: an event that comes later serves the next wait and not this one."""

    async def body(event: Any, step: Any) -> list[Any]:
        seen: list[Any] = []
        try:
            await step.wait_for_event("a", type="t", timeout="1 hour")
        except WaitTimeout as error:
            seen.append(str(error))
        await step.sleep("pause", "1 hour")
        return [*seen, (await step.wait_for_event("b", type="t")).payload]

    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(body)).create()
        await clock.advance(3601)
        assert (await instance.status())["steps"][0]["error"]["name"] == "WorkflowTimeoutError"
        await instance.send_event(type="t", payload="late")
        await clock.advance(3600)
        assert await instance.result() == ["Execution timed out after 3600000ms", "late"]


async def test_an_event_beats_a_timeout_that_is_not_recorded_yet(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """The deadline passed while the host was down; the event that was sent before is what counts."""

    async def body(event: Any, step: Any) -> Any:
        return (await step.wait_for_event("a", type="t", timeout="1 hour")).payload

    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(body)).create(id="i")
        await clock.advance(1)
        await instance.send_event(type="t", payload="in time")
    await clock.advance(7200)
    async with open_engine() as engine:
        assert await (await engine.workflow("w", workflow_of(body)).get("i")).result() == "in time"


async def test_an_event_sent_after_the_deadline_but_before_its_record_counts(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """Nothing was decided yet when it came, so nothing is lost."""

    async def body(event: Any, step: Any) -> Any:
        return (await step.wait_for_event("a", type="t", timeout="1 hour")).payload

    async with open_engine() as engine:
        workflow = engine.workflow("w", workflow_of(body))
        instance = await workflow.create(id="i")
        await clock.advance(1)
        await instance.pause()
        await clock.advance(1)
        clock.set_wall(7200)
        await instance.send_event(type="t", payload="late but first")
        await instance.resume()
        assert await instance.result() == "late but first"


async def test_a_parked_run_leaves_nothing_in_memory(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """Neither the entrypoint nor its task, nor what it held."""
    held: list[weakref.ref[Any]] = []

    class Holder(WorkflowEntrypoint):
        async def run(self, event: Any, step: Any) -> str:
            held.extend([weakref.ref(self), weakref.ref(step), weakref.ref(asyncio.current_task())])
            await step.wait_for_event("go", type="go")
            return "gone on"

    async with open_engine() as engine:
        instances = await engine.workflow("w", Holder).create_batch([{}] * 20)
        await clock.advance(1)
        gc.collect()
        assert len(held) == 60
        assert [reference() for reference in held if reference() is not None] == []
        assert engine.statistics().running == 0
        assert (await instances[7].status())["status"] == "waiting"
        await instances[7].send_event(type="go")
        assert await instances[7].result() == "gone on"


async def test_a_step_in_progress_keeps_a_run_from_being_parked(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """The sleep beside it may be long: the run stays until the step is settled, then it is parked."""

    async def body(event: Any, step: Any) -> Any:
        async def work() -> str:
            await clock.sleep(300)
            return "worked"

        return await asyncio.gather(step.sleep("long", "1 hour"), step.do("work", work))

    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(body)).create()
        await clock.advance(299)
        assert (engine.statistics().parked, engine.statistics().running) == (0, 1)
        await clock.advance(2)
        assert (engine.statistics().parked, engine.statistics().running) == (1, 0)
        await clock.advance(3600)
        assert await instance.result() == [None, "worked"]


async def test_a_thousand_sleepers_wake_in_bounded_chunks(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """More are due at once than may run at once; all of them end, never more than allowed together."""
    most = 0

    async def body(event: Any, step: Any) -> None:
        nonlocal most
        await step.sleep("night", "8 hours")
        await step.do("rise", lambda: None)
        most = max(most, engine.statistics().running)

    async with open_engine() as engine:
        workflow = engine.workflow("w", workflow_of(body), concurrency=16)
        for _ in range(10):
            await workflow.create_batch([{}] * 100)
        await clock.advance(60)
        assert engine.statistics().parked == 1000
        await clock.advance(9 * 3600)
        assert engine.statistics().finished == 1000
    assert 1 <= most <= 16


async def test_a_resumed_instance_goes_before_a_new_one(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """With one slot, whoever slept gets it before those that have not begun."""
    order: list[str] = []

    async def body(event: Any, step: Any) -> None:
        order.append(f"{event.instance_id} begins")
        if event.instance_id == "old":
            await step.sleep("short", "1 second")
            order.append("old wakes")
        else:
            await step.do("work", lambda: clock.sleep(10))

    async with open_engine() as engine:
        workflow = engine.workflow("w", workflow_of(body), concurrency=1)
        await workflow.create(id="old")
        await clock.advance(0.5)
        await workflow.create_batch([{"id": "new1"}, {"id": "new2"}])
        await clock.advance(60)
    assert order == ["old begins", "new1 begins", "old begins", "old wakes", "new2 begins"]


async def race(event: Any, step: Any) -> list[str]:
    """Who comes first, by whichever way; the loser is awaited, or given up."""

    async def runner(name: str, milliseconds: int) -> str:
        await step.sleep(name, milliseconds)
        return str(await step.do(f"{name} arrives", lambda: name))

    async with asyncio.TaskGroup() as group:
        runners = [group.create_task(runner("slow", 2_000)), group.create_task(runner("fast", 1_000))]
        done, rest = await asyncio.wait(runners, return_when=asyncio.FIRST_COMPLETED)
        if event.payload == "give up":
            await step.do("between", lambda: None)
            for late in rest:
                late.cancel()
    first = [each.result() for each in runners if each in done]
    await step.sleep("nap", "1 day")
    return first


@pytest.mark.parametrize("loser", ["awaited", "give up"])
async def test_a_race_has_the_same_winner_in_every_replay(
    open_engine: OpenEngine, clock: VirtualClock, loser: str
) -> None:
    """What is recorded comes in the order of its records, not in that in which the program asks."""
    for mocks in (None, Mocks(evict=True)):
        async with open_engine(mocks=mocks) as engine:
            workflow = engine.workflow("w", workflow_of(race))
            instance = await workflow.create(params=loser)
            await clock.advance(10)
            await clock.advance(100_000)
            assert await instance.result() == ["fast"]


async def test_a_replay_does_not_wait_for_a_step_that_its_program_asks_for_later(
    open_engine: OpenEngine, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one does that depends on something else, or is another one by now: it goes on, and is judged at its end."""
    monkeypatch.setattr(replay, "STUCK_AFTER", 0.05)
    monkeypatch.setattr(replay, "STUCK_FOR_SURE", 0.1)
    runs = 0

    async def work(event: Any, step: Any) -> list[Any]:
        nonlocal runs
        runs += 1
        names = ("a", "b") if runs == 1 else ("b", "a")
        found = [await step.do(name, lambda name=name: name) for name in names]
        await step.sleep("nap", "1 day")
        return found

    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(work)).create()
        await clock.advance(100_000)
        assert await instance.result() == ["b", "a"]


async def test_a_run_that_is_kept_for_a_moment_is_shown_to_wait(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """It has much on record and goes on soon, so it is not put aside; what it does is to wait, until when is told, and
    a step in progress beside it is none of that.
    """
    going_on: list[str] = []

    class Long(WorkflowEntrypoint):
        async def run(self, event: Any, step: Any) -> str:
            for n in range(400):
                await step.do(f"s{n}", lambda: None)
            await step.sleep("short", "1 second")
            going_on.append("alone")
            beside = asyncio.ensure_future(step.do("beside", lambda: clock.sleep(0.5)))
            await step.sleep("shorter", "1 second")
            await beside
            return "done"

    async with open_engine() as engine:
        instance = await engine.workflow("w", Long).create()
        await clock.run_until_idle()
        began = clock.now()
        await clock.advance(0.2)
        status = await instance.status()
        assert (status["status"], status["wakes"]) == ("waiting", began + 1000)
        assert engine.statistics().parked == 0
        await clock.advance(0.81)
        assert going_on == ["alone"]
        await clock.advance(0.2)
        status = await instance.status()
        assert (status["status"], status["wakes"]) == ("running", None)
        await clock.advance(0.5)
        status = await instance.status()
        assert (status["status"], status["wakes"]) == ("waiting", began + 2000)
        await clock.advance(1)
        assert await instance.result() == "done"
        assert engine.statistics().parked == 0


async def test_a_run_that_begins_something_while_it_is_kept_is_not_shown_to_wait(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """A workflow of the host's may wait for other things than steps, of which nobody here knows."""

    class Long(WorkflowEntrypoint):
        async def run(self, event: Any, step: Any) -> str:
            for n in range(400):
                await step.do(f"s{n}", lambda: None)
            nap = asyncio.ensure_future(step.sleep("short", "1 second"))
            await clock.sleep(0.3)
            await step.do("beside", lambda: clock.sleep(0.2))
            await nap
            return "done"

    async with open_engine() as engine:
        instance = await engine.workflow("w", Long).create()
        await clock.run_until_idle()
        shown = []
        for _ in range(4):
            await clock.advance(0.2)
            shown.append((await instance.status())["status"])
        assert shown == ["waiting", "running", "waiting", "waiting"]
        await clock.advance(1)
        assert await instance.result() == "done"


async def test_whoever_asks_hears_the_same_of_a_run_that_is_kept(
    open_engine: OpenEngine, clock: VirtualClock, path: Path
) -> None:
    """One that waits, one that has gone on and computes: `status`, lists, what is done in bulk, and those who look at
    the file beside the host.
    """
    on = asyncio.Event()

    class Long(WorkflowEntrypoint):
        async def run(self, event: Any, step: Any) -> str:
            for n in range(400):
                await step.do(f"s{n}", lambda: None)
            if event.payload == "sleep":
                await step.sleep("short", "1 second")
            else:
                await step.wait_for_event("e", "go", "1 second")
            await on.wait()
            return "done"

    async def told(instance: Any) -> set[str]:
        page = await workflow.list(labels={"id": instance.id})
        (shown,) = page.instances
        lists = {
            each
            for each in ("running", "waiting")
            if (await workflow.list(status=each, labels={"id": shown.id})).instances
        }
        beside = archive.search(path, "w", Query(labels=(("id", shown.id),)), 1).instances[0]
        exported = export(path, Address("w", "", shown.id))["status"]
        return {(await instance.status())["status"], shown.status.value, *lists, beside.status.value, exported}

    async with open_engine() as engine:
        workflow = engine.workflow("w", Long)
        sleeper, waiter = [
            await workflow.create(id=kind, params=kind, labels={"id": kind}) for kind in ("sleep", "wait")
        ]
        await clock.run_until_idle()
        await clock.advance(0.2)
        assert engine.statistics().parked == 0
        assert [await told(each) for each in (sleeper, waiter)] == [{"waiting"}, {"waiting"}]
        assert archive.information(path)["workflows"] == {"w": {"waiting": 2}}
        await waiter.send_event(type="go")
        await clock.advance(0.1)
        assert [await told(each) for each in (sleeper, waiter)] == [{"waiting"}, {"running"}]
        assert await workflow.bulk("pause", status="waiting") == {"done": 1, "skipped": 0}
        await clock.run_until_idle()
        assert await told(sleeper) == {"paused"}
        await sleeper.resume()
        await clock.advance(2)
        assert [await told(each) for each in (sleeper, waiter)] == [{"running"}, {"running"}]
        on.set()
        assert [await each.result() for each in (sleeper, waiter)] == ["done", "done"]
