"""Instances that a step creates and awaits: answered in the transaction that ends them, and ended with whoever awaits
them.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest

from cloister.engine import (
    Engine,
    InstanceFailed,
    InstanceNotFound,
    RunOver,
    StepFailed,
    Transaction,
    Workflow,
    WorkflowEntrypoint,
    WorkflowLimits,
    writer,
)
from cloister.engine.database import connect
from cloister.engine.options import Creation
from cloister.engine.records import ErrorRecord
from cloister.engine.store import ending, instances, steps
from cloister.engine.store.store import Store

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


async def slow(event: Any, step: Any) -> Any:
    """Takes so many hours, then returns its params, or fails if they say so."""
    await step.sleep("work", f"{event.payload['hours']} hours")
    if event.payload.get("fails"):
        raise LookupError("not found")
    return {"did": event.payload}


class Family:
    """A workflow of children, and one of parents that the test writes."""

    def __init__(self, engine: Engine, parent: Body) -> None:
        self.children = engine.workflow("children", workflow_of(slow))
        self.parents = engine.workflow("parents", workflow_of(lambda event, step: parent(step, self.children)))


async def statuses(workflow: Workflow) -> list[str]:
    return [str(summary.status) for summary in (await workflow.list()).instances]


async def test_a_parent_sleeps_while_its_child_works_and_goes_on_with_its_output(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """Across a restart of the host; the child is created once, and a replay reads its output from the record."""

    async def parent(step: Any, children: Workflow) -> Any:
        first = await step.child("first", children, params={"hours": 10})
        await step.sleep("rest", "1 hour")
        return [first, await step.child("second", children, params={"hours": 0}, id="named")]

    async with open_engine() as engine:
        family = Family(engine, parent)
        await family.parents.create(id="p")
        await clock.advance(3600)
        assert (await (await family.parents.get("p")).status())["status"] == "waiting"
        assert engine.statistics().running == 0
    async with open_engine() as engine:
        family = Family(engine, parent)
        instance = await family.parents.get("p")
        await clock.advance(12 * 3600)
        assert await instance.result() == [{"did": {"hours": 10}}, {"did": {"hours": 0}}]
        assert await statuses(family.children) == ["complete"] * 2
        assert await (await family.children.get("named")).result() == {"did": {"hours": 0}}
        kinds = [(step["kind"], step["status"]) for step in (await instance.status())["steps"]]
        assert kinds == [("child", "done"), ("sleep", "done"), ("child", "done")]


async def test_a_child_that_fails_raises_its_error_in_the_parent_each_time(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """Which may catch it; a replay raises it again without another child."""
    caught: list[str] = []

    async def parent(step: Any, children: Workflow) -> str:
        try:
            await step.child("c", children, params={"hours": 1, "fails": True})
        except LookupError as error:
            caught.append(str(error))
        await step.sleep("rest", "1 hour")
        return "went on"

    async with open_engine() as engine:
        family = Family(engine, parent)
        instance = await family.parents.create()
        await clock.advance(3 * 3600)
        assert await instance.result() == "went on"
        assert await statuses(family.children) == ["errored"]
    assert len(caught) >= 2
    assert set(caught) == {"not found"}


async def test_children_side_by_side_end_in_their_own_order(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """And the parent has them all."""

    async def parent(step: Any, children: Workflow) -> Any:
        return await asyncio.gather(*(step.child("c", children, params={"hours": n}) for n in (3, 1, 2)))

    async with open_engine() as engine:
        family = Family(engine, parent)
        instance = await family.parents.create()
        await clock.advance(4 * 3600)
        assert [part["did"]["hours"] for part in await instance.result()] == [3, 1, 2]


@pytest.mark.parametrize("end", ["terminate", "delete", "restart", "fail"])
async def test_what_ends_a_parent_ends_the_children_that_it_awaits(
    open_engine: OpenEngine, clock: VirtualClock, end: str
) -> None:
    """And theirs. A restarted parent begins new ones."""

    async def grandparent(step: Any, children: Workflow) -> Any:
        if end == "fail":

            async def fails() -> None:
                await step.sleep("a while", "30 minutes")
                raise ValueError

            async with asyncio.TaskGroup() as group:
                group.create_task(fails())
                group.create_task(step.child("p", family.parents))
        return await step.child("p", family.parents)

    async def parent(step: Any, children: Workflow) -> Any:
        return await step.child("c", children, params={"hours": 10})

    async with open_engine() as engine:
        family = Family(engine, parent)
        grandparents = engine.workflow("g", workflow_of(lambda event, step: grandparent(step, family.children)))
        instance = await grandparents.create()
        await clock.advance(600)
        assert await statuses(family.children) == ["waiting"]
        if end != "fail":
            await getattr(instance, end)()
        await clock.advance(3600)
        expected = ["terminated", "waiting"] if end == "restart" else ["terminated"]
        assert sorted(await statuses(family.children)) == expected
        assert sorted(await statuses(family.parents)) == expected
        assert engine.statistics().running == 0


async def test_the_end_is_the_last_that_is_told_of_a_parent_and_of_the_child_that_ends_with_it(
    open_engine: OpenEngine, clock: VirtualClock, hands: str
) -> None:
    """What the child's step comes to at that moment is not recorded after it."""
    over: dict[str, asyncio.Event] = {}

    async def child(event: Any, step: Any) -> None:
        await step.do("work", over[event.payload].wait)
        await step.sleep("rest", "1 hour")

    async def parent(event: Any, step: Any) -> None:
        await step.child("c", children, params=event.payload, id=event.payload)

    async with open_engine() as engine:
        children = engine.workflow("children", workflow_of(child))
        parents = engine.workflow("parents", workflow_of(parent))
        for turns in range(12):
            name = f"after-{turns}-turns"
            over[name] = asyncio.Event()
            instance = await parents.create(params=name)
            await clock.advance(1)
            over[name].set()
            for _ in range(turns):
                await asyncio.sleep(0)
            await instance.terminate()
            await clock.advance(60)
            for each in (instance, await children.get(name)):
                assert [event.type async for event in each.subscribe()][-1] == "workflow_terminated"


@pytest.mark.parametrize("stored", [True, False])
async def test_nor_is_it_when_a_transaction_of_the_hosts_fails_in_between(
    open_engine: OpenEngine, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch, stored: bool
) -> None:
    """What that has undone are not the ends of others, be it that nothing could be stored and the file is opened anew.
    And nobody keeps their numbers for long.
    """
    over, held, done = asyncio.Event(), threading.Event(), threading.Event()
    commits, really = [True, True, stored, True], Store.commit

    def commit(store: Store) -> None:
        if commits and not commits.pop(0):
            raise sqlite3.OperationalError("disk I/O error")
        if not commits:
            done.set()
        really(store)

    async def child(event: Any, step: Any) -> None:
        await step.do("work", over.wait)

    async def parent(event: Any, step: Any) -> None:
        await step.child("c", children, id="child")

    def fails(transaction: Transaction) -> None:
        raise LookupError

    async def queued(count: int) -> None:
        while engine.statistics().pending_operations < count:  # noqa: ASYNC110 - with each turn it may be
            await asyncio.sleep(0)

    async with open_engine() as engine:
        children = engine.workflow("children", workflow_of(child))
        instance = await engine.workflow("parents", workflow_of(parent)).create()
        await clock.advance(1)
        monkeypatch.setattr(Store, "commit", commit)
        monkeypatch.setattr(writer, "MAX_BATCH", 512 if stored else 1)
        work: list[asyncio.Task[Any]] = [asyncio.create_task(engine.transact(lambda _: held.wait()))]
        await queued(1)
        for each in (instance.terminate(), engine.transact(fails)):
            work.append(asyncio.create_task(each))
            await queued(len(work))
        over.set()
        await queued(len(work) + 1)
        held.set()
        assert stored or done.wait(60), "the loop is to hear of none before all are done"
        await asyncio.gather(*work, return_exceptions=True)
        await clock.advance(60)
        ended = await children.get("child")
        assert [event.type async for event in ended.subscribe()][-1] == "workflow_terminated"
        assert [step["status"] for step in (await ended.status())["steps"]] == []
        assert engine._writer is not None
        assert engine._writer._store is not None
        assert engine._writer._store.ended_beside == set()


def test_nothing_is_recorded_of_any_of_many_that_end_together(path: Path) -> None:
    """However many there are."""
    with contextlib.closing(Store(connect(path, "full"))) as store:
        store.begin()
        store.register("w")
        named = [Creation(f"i{number}", b"\xc0") for number in range(5_000)]
        numbers = [instances.create(store, "w", "", each, 0, claim=True) for each in named]
        for number in numbers:
            ending.end(store, number, ErrorRecord("Terminated", ""), 0)
        for number in numbers:
            with pytest.raises(RunOver):
                steps.record_result(store, 0, number, "late", 1, 0, b"\xc0", None, 0, 0)


async def test_a_child_that_is_just_being_created_ends_with_its_parent(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """The parent returns after it has asked for one and before it is told that there is one."""

    async def parent(step: Any, children: Workflow) -> str:
        asking = asyncio.create_task(step.child("c", children, params={"hours": 10}))
        asking.add_done_callback(lambda task: task.exception())
        while not engine.statistics().pending_operations:  # noqa: ASYNC110 - with each turn it may have asked
            await asyncio.sleep(0)
        return "early"

    async with open_engine() as engine:
        family = Family(engine, parent)
        assert await (await family.parents.create()).result() == "early"
        await clock.advance(60)
        assert await statuses(family.children) == ["terminated"]


@pytest.mark.parametrize("end", ["terminate", "delete"])
async def test_whoever_awaits_a_child_is_told_when_somebody_ends_it(
    open_engine: OpenEngine, clock: VirtualClock, end: str
) -> None:
    """Nobody waits for what is no longer there."""

    async def parent(step: Any, children: Workflow) -> Any:
        try:
            await step.child("c", children, params={"hours": 10}, id="c")
        except StepFailed as error:
            return [error.name, error.message]

    async with open_engine() as engine:
        family = Family(engine, parent)
        instance = await family.parents.create()
        await clock.advance(600)
        await getattr(await family.children.get("c"), end)()
        await clock.advance(60)
        name, message = await instance.result()
        assert name == "Terminated"
        assert ("deleted" in message) == (end == "delete")


async def test_a_child_that_takes_too_long_is_terminated(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """The parent has a timeout's error, in the replay too."""
    caught: list[str] = []

    async def parent(step: Any, children: Workflow) -> Any:
        try:
            await step.child("c", children, params={"hours": 10}, timeout="1 hour")
        except StepFailed as error:
            caught.append(error.name)
        await step.sleep("rest", "1 hour")

    async with open_engine() as engine:
        family = Family(engine, parent)
        instance = await family.parents.create()
        await clock.advance(3 * 3600)
        await instance.result()
        assert await statuses(family.children) == ["terminated"]
    assert set(caught) == {"WorkflowTimeoutError"}


async def test_a_child_that_is_no_longer_awaited_is_terminated(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """Cancellation in the parent's program reaches it, and the replay comes to the same end."""

    async def parent(step: Any, children: Workflow) -> Any:
        child = asyncio.ensure_future(step.child("c", children, params={"hours": 10}))
        await step.sleep("patience", "1 hour")
        child.cancel()
        await asyncio.wait({child})
        await step.sleep("rest", "1 hour")
        return child.cancelled()

    async with open_engine() as engine:
        family = Family(engine, parent)
        instance = await family.parents.create()
        await clock.advance(3700)
        assert await statuses(family.children) == ["terminated"]
        await clock.advance(2 * 3600)
        assert await instance.result() is True


async def test_a_child_with_an_id_that_exists_fails_the_step_for_good(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """Also in a replay, when the other one is gone."""
    caught: list[str] = []

    async def parent(step: Any, children: Workflow) -> Any:
        try:
            await step.child("c", children, params={"hours": 0}, id="taken")
        except StepFailed as error:
            caught.append(error.name)
        await step.sleep("rest", "1 hour")

    async with open_engine() as engine:
        family = Family(engine, parent)
        other = await family.children.create(id="taken", params={"hours": 9})
        instance = await family.parents.create()
        await clock.advance(60)
        await other.delete()
        await clock.advance(3700)
        await instance.result()
        with pytest.raises(InstanceNotFound):
            await family.children.get("taken")
    assert caught == ["InstanceAlreadyExists"] * 2


async def test_a_child_outlives_a_crash_of_its_host_between_its_end_and_its_parents_next_run(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """The answer is part of the child's own end; whichever workflow is registered later finds it."""

    async def parent(step: Any, children: Workflow) -> Any:
        return await step.child("c", children, params={"hours": 1})

    async with open_engine() as engine:
        await Family(engine, parent).parents.create(id="p")
        await clock.advance(60)
    async with open_engine() as engine:
        engine.workflow("children", workflow_of(slow))
        await clock.advance(2 * 3600)
    async with open_engine() as engine:
        instance = await Family(engine, parent).parents.get("p")
        assert await instance.result() == {"did": {"hours": 1}}


async def test_a_parent_that_fails_tells_of_it_by_its_own_error(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """An uncaught failure of a child is the parent's."""

    async def parent(step: Any, children: Workflow) -> Any:
        return await step.child("c", children, params={"hours": 1, "fails": True})

    async with open_engine() as engine:
        instance = await Family(engine, parent).parents.create()
        await clock.advance(2 * 3600)
        with pytest.raises(InstanceFailed, match="LookupError: not found"):
            await instance.result()


async def test_children_are_created_no_faster_than_their_scope_may_create(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """A step that is too fast waits; a replay does not count again."""
    began, created = clock.now(), list[int]()

    async def child(event: Any, step: Any) -> None:
        created.append(clock.now() - began)

    async def parent(event: Any, step: Any) -> None:
        for _ in range(4):
            await step.child("c", children)

    async with open_engine() as engine:
        limits = WorkflowLimits(creates_per_second=1, creates_at_once=2)
        children = engine.workflow("children", workflow_of(child), limits=limits)
        instance = await engine.workflow("w", workflow_of(parent)).create()
        await clock.advance(10)
        await instance.result()
    assert created == [0, 0, 1000, 2000]
