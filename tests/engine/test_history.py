"""The history of an instance: complete, in order, from any point on, and live."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import pytest

from cloister.engine import (
    Engine,
    EngineClosed,
    HistoryEvent,
    InstanceNotFound,
    InvalidCursor,
    WaitTimeout,
    WorkflowEntrypoint,
)

if TYPE_CHECKING:
    from pathlib import Path

    from cloister.engine.testing import VirtualClock

OpenEngine = Callable[..., Engine]


class Everything(WorkflowEntrypoint):
    """A step that fails once, a sleep, a wait that times out, a wait that does not, a step that fails for good."""

    async def run(self, event: Any, step: Any) -> str:
        await step.do("flaky", {"retries": {"limit": 1, "delay": "1 minute"}}, self.flaky)
        await step.sleep("nap", "1 hour")
        with contextlib.suppress(WaitTimeout):
            await step.wait_for_event("in vain", type="never", timeout="1 hour")
        await step.wait_for_event("go", type="go")
        await step.do("hopeless", {"retries": {"limit": 0, "delay": 0}}, self.hopeless)
        return "never"

    async def flaky(self, ctx: Any) -> None:
        if ctx.attempt == 1:
            raise ConnectionError("not yet")

    def hopeless(self) -> None:
        raise LookupError("nothing")


class Steps(WorkflowEntrypoint):
    async def run(self, event: Any, step: Any) -> None:
        for number in range(event.payload):
            await step.do(f"s{number}", lambda: None)


EVERYTHING = [
    "workflow_queued", "workflow_running",
    "step_started flaky", "attempt_started flaky", "attempt_errored flaky", "workflow_waiting", "workflow_running",
    "attempt_started flaky", "attempt_completed flaky", "step_completed flaky",
    "sleep_started nap", "workflow_waiting", "workflow_running", "sleep_completed nap",
    "wait_started in vain", "workflow_waiting", "workflow_running", "wait_timed_out in vain",
    "wait_started go", "workflow_waiting", "workflow_running",
    "step_started hopeless", "attempt_started hopeless", "attempt_errored hopeless", "step_errored hopeless",
    "workflow_errored",
]  # fmt: skip


def told(events: list[HistoryEvent]) -> list[str]:
    return [event.type if event.name is None else f"{event.type} {event.name}" for event in events]


async def collect(events: AsyncIterator[HistoryEvent], into: list[HistoryEvent]) -> None:
    async for event in events:
        into.append(event)  # noqa: PERF401 - others look while it grows


async def run_everything(engine: Engine, clock: VirtualClock) -> Any:
    instance = await engine.workflow("w", Everything).create(id="x")
    await clock.advance(3 * 3600)
    await instance.send_event(type="go")
    await clock.advance(1)
    return instance


async def test_the_history_is_told_in_order_and_completely(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """Each attempt, sleep, wait and change of status, with when, which attempt, why, and what is due when."""
    async with open_engine() as engine:
        began = clock.now()
        instance = await run_everything(engine, clock)
        seen: list[HistoryEvent] = []
        await collect(instance.subscribe(), seen)
        ordered = [event for event in told(seen) if event != "wait_completed go"]
        assert ordered == EVERYTHING
        assert [event.id for event in seen] == sorted({event.id for event in seen})
        failed = seen[4]
        assert (failed.attempt, failed.due_ms, failed.error) == (
            1, began + 60_000, {"name": "ConnectionError", "message": "not yet"},
        )  # fmt: skip
        assert failed.plain("x")["retryDelayMs"] == 60_000
        assert [event.attempt for event in seen if event.type == "attempt_started"] == [1, 2, 1]
        assert [event.timestamp_ms for event in seen] == sorted(event.timestamp_ms for event in seen)
        assert seen[-1].error == {"name": "LookupError", "message": "nothing"}
        nap = next(event for event in seen if event.type == "sleep_started")
        assert nap.due_ms == nap.timestamp_ms + 3_600_000


async def test_any_cursor_continues_where_it_was_taken(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """Nothing is told twice and nothing is left out, also by another host."""
    async with open_engine() as engine:
        instance = await run_everything(engine, clock)
        seen: list[HistoryEvent] = []
        await collect(instance.subscribe(), seen)
    async with open_engine() as engine:
        instance = await engine.workflow("w", Everything).get("x")
        for place, event in enumerate(seen):
            rest: list[HistoryEvent] = []
            await collect(instance.subscribe(event.id), rest)
            assert rest == seen[place + 1 :]


async def test_a_live_subscriber_sees_what_a_later_one_reads(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """Whoever was there from the beginning, and whoever came in the middle, in one order."""
    async with open_engine() as engine:
        instance = await engine.workflow("w", Everything).create()
        early: list[HistoryEvent] = []
        middle: list[HistoryEvent] = []
        late: list[HistoryEvent] = []
        watching = [asyncio.create_task(collect(instance.subscribe(), early))]
        await clock.advance(1800)
        assert told(early)[-1] == "workflow_waiting", "it is told while it happens"
        watching.append(asyncio.create_task(collect(instance.subscribe(), middle)))
        await clock.advance(3 * 3600)
        await instance.send_event(type="go")
        await clock.advance(1)
        await asyncio.gather(*watching)
        await collect(instance.subscribe(), late)
        assert early == middle == late
        assert not engine._watchers.watched


class Slow(WorkflowEntrypoint):
    """A step whose first attempt fails after an hour, and whose second takes as long; and one beside it."""

    async def run(self, event: Any, step: Any) -> None:
        retries = {"retries": {"limit": 1, "delay": "1 minute"}, "timeout": "1 day"}
        await asyncio.gather(step.do("slow", retries, self.slow), step.do("beside", lambda: asyncio.sleep(0)))

    async def slow(self, ctx: Any) -> None:
        over = asyncio.Event()
        self.env["clock"].call_later(3600, over.set)
        await over.wait()
        if ctx.attempt == 1:
            raise ConnectionError


BEGINNINGS = [
    "step_started slow", "attempt_started slow", "attempt_errored slow", "attempt_started slow",
    "attempt_completed slow", "step_completed slow",
]  # fmt: skip


@pytest.mark.parametrize("listens", ["never", "first", "later"])
async def test_a_step_that_goes_on_is_told_of_when_somebody_listens(
    open_engine: OpenEngine, clock: VirtualClock, listens: str
) -> None:
    """When it begins, or when somebody comes to listen; each beginning once for whoever listens from any point on, at
    the time that it was. Who reads it later is told the same, also where nobody has listened."""
    early: list[HistoryEvent] = []
    types = ["step_started", "step_completed", "attempt_started", "attempt_completed", "attempt_errored"]
    async with open_engine() as engine:
        began = clock.now()
        instance = await engine.workflow("w", Slow, env={"clock": clock}).create(id="x")
        if listens == "first":
            watching = asyncio.create_task(collect(instance.subscribe(types=types), early))
        await clock.advance(60)
        if listens == "later":
            watching = asyncio.create_task(collect(instance.subscribe(types=types), early))
            await clock.advance(1)
        slow = [event for event in early if event.name == "slow"]
        if listens != "never":
            assert told(slow) == BEGINNINGS[:2], "it goes on, and is told of"
        await clock.advance(3 * 3600)
        assert (await instance.status())["status"] == "complete"
        late: list[HistoryEvent] = []
        await collect(instance.subscribe(types=types), late)
        if listens != "never":
            await watching
            assert late == early
        slow = [event for event in late if event.name == "slow"]
        assert told(slow) == BEGINNINGS
        assert sorted(told([event for event in late if event.name == "beside"])) == [
            "attempt_completed beside", "attempt_started beside", "step_completed beside", "step_started beside",
        ]  # fmt: skip
        minutes = [round((event.timestamp_ms - began) / 60_000) for event in slow]
        assert minutes == [0, 0, 60, 61, 121, 121]
        for place, event in enumerate(late):
            rest: list[HistoryEvent] = []
            await collect(instance.subscribe(event.id, types=types), rest)
            assert rest == late[place + 1 :]


async def test_a_new_run_is_told_of_as_the_first_one_was(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """What began in the run before it hides nothing of what begins in this one."""
    async with open_engine() as engine:
        instance = await engine.workflow("w", Slow, env={"clock": clock}).create(id="x")
        first: list[HistoryEvent] = []
        watching = asyncio.create_task(collect(instance.subscribe(), first))
        await clock.advance(4 * 3600)
        await watching
        await instance.restart()
        await clock.advance(4 * 3600)
        seen: list[HistoryEvent] = []
        await collect(instance.subscribe(first[-1].id), seen)
        assert [event for event in told(seen) if event.endswith("slow")] == BEGINNINGS


async def test_a_step_whose_attempt_was_lost_with_its_host_begins_once_and_its_attempt_again(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """From whichever point on it is told."""
    first: list[HistoryEvent] = []
    async with open_engine() as engine:
        instance = await engine.workflow("w", Slow, env={"clock": clock}).create(id="x")
        watching = asyncio.create_task(collect(instance.subscribe(), first))
        await clock.advance(60)
        watching.cancel()
    async with open_engine() as engine:
        instance = await engine.workflow("w", Slow, env={"clock": clock}).get("x")
        rest: list[HistoryEvent] = []
        watching = asyncio.create_task(collect(instance.subscribe(first[-1].id), rest))
        await clock.advance(4 * 3600)
        await watching
        whole: list[HistoryEvent] = []
        await collect(instance.subscribe(), whole)
    assert first + rest == whole
    slow = [event for event in told(whole) if event.endswith("slow")]
    assert slow == [*BEGINNINGS[:2], *BEGINNINGS[1:]]


async def test_nothing_is_recorded_of_beginnings_that_nobody_hears_of(
    open_engine: OpenEngine, clock: VirtualClock, path: Path
) -> None:
    """A step costs what it did."""
    async with open_engine() as engine:
        await engine.workflow("w", Steps).create(params=10)
        await clock.advance(1)
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT count(*) FROM changes WHERE type LIKE '%began'").fetchone() == (0,)


async def test_a_long_history_comes_in_pages_and_misses_nothing_while_it_grows(
    open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over the edges of pages, at full speed, and with real time."""
    monkeypatch.setattr("cloister.engine.history.PAGE", 7)
    async with open_engine() as engine:
        instance = await engine.workflow("w", Steps).create(params=300)
        seen: list[HistoryEvent] = []
        await collect(instance.subscribe(types=["step_completed"]), seen)
        assert [event.name for event in seen] == [f"s{number}" for number in range(300)]


async def test_only_what_is_asked_for_is_told_and_the_end_ends_it_all_the_same(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """The filter names types; it does not keep anybody waiting for ever."""
    async with open_engine() as engine:
        instance = await run_everything(engine, clock)
        seen: list[HistoryEvent] = []
        await collect(instance.subscribe(types=["attempt_errored", "wait_timed_out"]), seen)
        assert told(seen) == ["attempt_errored flaky", "wait_timed_out in vain", "attempt_errored hopeless"]
        wrong: list[Any] = ["step_exploded", ["x"], 7, [7]]
        for types in wrong:
            with pytest.raises((ValueError, TypeError)):
                instance.subscribe(types=types)
        cursors: list[Any] = ["x", -1, 1.5, True, 2**63]
        for cursor in cursors:
            with pytest.raises(InvalidCursor):
                instance.subscribe(cursor)


async def test_pauses_and_restarts_are_part_of_the_history(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """A restart wipes outcomes, not what was done to the instance; the history ends when the last run has."""
    async with open_engine() as engine:
        workflow = engine.workflow("w", Everything)
        instance = await workflow.create(id="x")
        await clock.advance(1)
        await instance.pause()
        await instance.resume()
        await clock.advance(1)
        await instance.terminate()
        await instance.restart()
        await clock.advance(1)
        seen: list[HistoryEvent] = []
        watching = asyncio.create_task(collect(instance.subscribe(types=list(STATUSES)), seen))
        await clock.run_until_idle()
        await instance.terminate()
        await watching
        assert [event.type.removeprefix("workflow_") for event in seen] == [
            "queued", "running", "waiting", "paused", "running", "waiting", "terminated",
            "queued", "running", "waiting", "terminated",
        ]  # fmt: skip


STATUSES = ("workflow_queued", "workflow_running", "workflow_waiting", "workflow_paused", "workflow_terminated")


async def test_a_subscriber_of_what_is_deleted_or_closed_is_told(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """Nobody waits for ever: neither for an instance that is gone, nor for an engine that is."""
    async with open_engine() as engine:
        workflow = engine.workflow("w", Everything)
        gone, left = await workflow.create(), await workflow.create()
        watching = [asyncio.create_task(collect(instance.subscribe(), [])) for instance in (gone, left)]
        await clock.advance(1)
        await gone.delete()
        with pytest.raises(InstanceNotFound):
            await watching[0]
        with pytest.raises(InstanceNotFound):
            await collect(gone.subscribe(), [])
    with pytest.raises(EngineClosed):
        await watching[1]


async def test_who_stops_listening_leaves_nothing_behind(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """Out of the middle of a loop as well."""
    async with open_engine() as engine:
        instance = await engine.workflow("w", Everything).create()
        async for event in instance.subscribe():
            if event.type == "workflow_waiting":
                break
            await clock.advance(1)
        del event
        for _ in range(5):
            await asyncio.sleep(0)
        assert not engine._watchers.watched


async def test_a_history_that_goes_on_for_ever_is_bounded(
    open_engine: OpenEngine, clock: VirtualClock, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever pauses and resumes without end fills no disk: the newest is kept."""
    monkeypatch.setattr("cloister.engine.store.store.MAX_CHANGES", 50)
    monkeypatch.setattr("cloister.engine.store.store.FORGET_EVERY", 8)
    async with open_engine() as engine:
        instance = await engine.workflow("w", Everything).create()
        for _ in range(300):
            await instance.pause()
            await instance.resume()
        await clock.advance(1)
        await instance.terminate()
        seen: list[HistoryEvent] = []
        await collect(instance.subscribe(), seen)
        assert told(seen)[-2:] == ["workflow_waiting", "workflow_terminated"]
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert 50 <= database.execute("SELECT count(*) FROM changes").fetchone()[0] < 150
