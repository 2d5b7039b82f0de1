"""Many instances: creating them in batches, finding them again, beginning them anew, and how they go."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from cloister.engine import (
    Engine,
    InstanceFailed,
    InstanceFinished,
    InstanceNotFound,
    InvalidCursor,
    InvalidLabels,
    InvalidRetention,
    Page,
    RunInterrupted,
    StepNotFound,
    Workflow,
    WorkflowEntrypoint,
)
from cloister.engine.store.catalogue import Catalogue

if TYPE_CHECKING:
    from pathlib import Path

    from cloister.engine.testing import VirtualClock

OpenEngine = Callable[..., Engine]
DAY = 86_400


class Echo(WorkflowEntrypoint):
    async def run(self, event: Any, step: Any) -> Any:
        return event.payload


class Sleeper(WorkflowEntrypoint):
    async def run(self, event: Any, step: Any) -> str:
        await step.sleep("nap", "1 hour")
        return "awake"


class Failing(WorkflowEntrypoint):
    async def run(self, event: Any, step: Any) -> None:
        raise ValueError("no")


class Chain(WorkflowEntrypoint):
    """Three steps, a wait, a step; the env takes down which bodies ran."""

    async def run(self, event: Any, step: Any) -> list[str]:
        done = [await self._step(step, name) for name in ("one", "two", "two")]
        done.append((await step.wait_for_event("go", type="go")).payload)
        return [*done, await self._step(step, "last")]

    async def _step(self, step: Any, name: str) -> str:
        def body() -> str:
            self.env.append(name)
            return f"{name} {len(self.env)}"

        return str(await step.do(name, body))


def ids(page: Page) -> list[str]:
    return [summary.id for summary in page.instances]


# Batches


async def test_the_object_form_of_a_batch_tells_of_each(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """What exists, what is named twice and what is no id are told by their place; the others are created."""
    async with open_engine() as engine:
        workflow = engine.workflow("w", Echo)
        await workflow.create(id="old")
        entries: list[dict[str, Any]] = [{"id": "a", "params": 1}, {"id": "old"}, {"id": "a"}, {"id": "b c"}, {}]
        answer = await workflow.create_batch({"instances": entries})
        assert answer["created"][0].id == "a"
        assert len(answer["created"]) == 2
        told = [(error["index"], error["id"], error["code"]) for error in answer["errors"]]
        assert told == [
            (1, "old", "InstanceAlreadyExists"),
            (2, "a", "InstanceAlreadyExists"),
            (3, "b c", "InvalidInstanceId"),
        ]
        assert await answer["created"][0].result() == 1


async def test_a_batch_may_be_a_number_of_the_same(open_engine: OpenEngine) -> None:
    """Each with an id of its own, and the same params."""
    async with open_engine() as engine:
        workflow = engine.workflow("w", Echo)
        answer = await workflow.create_batch({"count": 7, "params": {"x": 1}, "labels": {"batch": "7"}})
        assert answer["errors"] == []
        assert [await instance.result() for instance in answer["created"]] == [{"x": 1}] * 7
        assert len(set(ids(await workflow.list(labels={"batch": "7"})))) == 7
        wrong: list[dict[str, Any]] = [
            {},
            {"count": 0},
            {"count": 101},
            {"count": True},
            {"count": 1, "instances": []},
            {"instances": [{}] * 101},
            {"instances": "ab"},
        ]
        for batch in wrong:
            with pytest.raises(ValueError):
                await workflow.create_batch(batch)


async def test_delete_batch_answers_each_place(open_engine: OpenEngine) -> None:
    """What is named twice is deleted once and told of twice; what is missing is an error of its own."""
    async with open_engine() as engine:
        workflow = engine.workflow("w", Echo)
        await workflow.create_batch([{"id": "a"}, {"id": "b"}], scope="s")
        answer = await workflow.delete_batch(["a", "no", "a", "b", "x\ty", 7], scope="s")  # type: ignore[list-item]
        assert answer["deleted"] == [{"id": "a"}, {"id": "a"}, {"id": "b"}]
        assert [(error["id"], error["code"]) for error in answer["errors"]] == [
            ("no", "InstanceNotFound"),
            ("x\ty", "InvalidInstanceId"),
            (None, "InvalidInstanceId"),
        ]
        for batch in ([], ["a"] * 101, "ab"):
            with pytest.raises(ValueError, match="1 to 100"):
                await workflow.delete_batch(batch)


# Lists


async def test_a_list_is_newest_first_and_comes_in_pages(open_engine: OpenEngine) -> None:
    """Every instance is on exactly one page, also while others are being created and deleted."""
    async with open_engine() as engine:
        workflow = engine.workflow("w", Echo)
        await workflow.create_batch([{"id": f"i{n}"} for n in range(25)], scope="s")
        await workflow.create(id="elsewhere", scope="t")
        seen: list[str] = []
        page = await workflow.list(scope="s", limit=10)
        while True:
            seen += ids(page)
            if page.cursor is None:
                break
            await workflow.create(scope="s")
            page = await workflow.list(scope="s", limit=10, cursor=page.cursor)
        assert seen == [f"i{n}" for n in reversed(range(25))]
        assert (await workflow.list()).instances[-1].scope == "s"
        assert "elsewhere" in ids(await workflow.list(limit=1000))


async def test_a_list_passes_over_what_does_not_fit_however_much_it_is(
    open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks at a bounded number of rows at a time, and goes on until the page is full or all were looked at."""
    monkeypatch.setattr("cloister.engine.store.catalogue.SCAN_CHUNK", 7)
    async with open_engine() as engine:
        workflow = engine.workflow("w", Echo)
        for n in range(60):
            await workflow.create(id=f"i{n}", scope="s", labels={"third": str(n % 3 == 0), "tenth": str(n % 10 == 0)})
        await (await workflow.get("i30", scope="s")).result()
        expected = [f"i{n}" for n in reversed(range(60)) if n % 3 == 0]
        for scope in ("s", None):
            assert ids(await workflow.list(scope=scope, labels={"third": "True"})) == expected
            both = {"third": "True", "tenth": "True"}
            page = await workflow.list(scope=scope, labels=both, limit=1)
            assert ids(page) == ["i30"]
            page = await workflow.list(scope=scope, labels=both, limit=1, cursor=page.cursor)
            assert ids(page) == ["i0"]
        assert ids(await workflow.list(scope="s", labels={"third": "maybe"})) == []


async def test_a_list_is_filtered_by_status_labels_and_time(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """All filters that are given must fit."""
    async with open_engine() as engine:
        workflow = engine.workflow("w", Sleeper)
        made = {}
        for number, name in enumerate("abcd"):
            made[name] = clock.now()
            await workflow.create(id=name, labels={"parity": "even" if number % 2 == 0 else "odd", "name": name})
            await clock.advance(10)
        await (await workflow.get("a")).terminate()
        await (await workflow.get("d")).pause()
        assert ids(await workflow.list(status="waiting")) == ["c", "b"]
        assert ids(await workflow.list(status=["paused", "terminated"])) == ["d", "a"]
        assert ids(await workflow.list(labels={"parity": "even"})) == ["c", "a"]
        assert ids(await workflow.list(labels={"parity": "even"}, status="waiting")) == ["c"]
        assert ids(await workflow.list(created_from=made["b"], created_before=made["d"])) == ["c", "b"]
        summary = (await workflow.list(labels={"name": "d"})).instances[0]
        assert (summary.id, summary.status, summary.run) == ("d", "paused", 1)
        assert (summary.created, summary.labels) == (made["d"], {"name": "d", "parity": "odd"})
        assert (await (await workflow.get("b")).status())["labels"] == {"name": "b", "parity": "odd"}


async def test_labels_are_found_in_all_scopes(open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """By their index: what has other labels, or none, is not looked at, however much of it there is."""
    looks: list[object] = []
    search = Catalogue.search

    def look(*args: Any) -> Any:
        looks.append(args)
        return search(*args)

    monkeypatch.setattr("cloister.engine.store.catalogue.SCAN_CHUNK", 7)
    monkeypatch.setattr(Catalogue, "search", look)
    async with open_engine() as engine:
        workflow, other = engine.workflow("w", Sleeper), engine.workflow("other", Sleeper)
        for n in range(60):
            labels = {"kind": "rare" if n % 20 == 0 else "common", "n": str(n)}
            await workflow.create(id=f"i{n}", scope=f"s{n % 3}", labels=labels if n % 2 == 0 else None)
        await other.create(id="x", scope="s0", labels={"kind": "rare"})
        assert ids(await workflow.list(labels={"kind": "rare"})) == ["i40", "i20", "i0"]
        assert ids(await workflow.list(labels={"kind": "rare", "n": "20"})) == ["i20"]
        assert ids(await workflow.list(labels={"kind": "nobody's"})) == []
        assert len(looks) == 3
        page = await workflow.list(labels={"kind": "rare"}, limit=2)
        rest = await workflow.list(labels={"kind": "rare"}, limit=2, cursor=page.cursor)
        assert (ids(page), ids(rest)) == (["i40", "i20"], ["i0"])


async def test_bad_filters_cursors_and_labels_are_refused(open_engine: OpenEngine) -> None:
    """By name, before anything is read or written."""
    async with open_engine() as engine:
        workflow = engine.workflow("w", Echo)
        for cursor in ("", "x", "AAAA", 7, "é", "a" * 100):
            with pytest.raises(InvalidCursor):
                await workflow.list(cursor=cursor)  # type: ignore[arg-type]
        wrong: list[dict[str, Any]] = [
            {"limit": 0}, {"limit": 1001}, {"status": "done"}, {"status": 7}, {"created_from": "now"},
            {"created_before": True}, {"colour": "red"},
        ]  # fmt: skip
        for filters in wrong:
            with pytest.raises((ValueError, TypeError)):
                await workflow.list(**filters)
        for strange in ("rollingBack", 7, ["running"]):
            with pytest.raises(ValueError, match=f"^{re.escape(repr(strange))} names no status; there are queued,"):
                await workflow.list(status=["queued", strange, "running"])
        labels: list[Any] = ["a", {"": "x"}, {"a": 1}, {"a\n": "x"}, {"x" * 65: ""}, {"a": "x" * 257}, {1: "x"}]
        labels.append({str(n): "" for n in range(17)})
        for bad in labels:
            with pytest.raises(InvalidLabels):
                await workflow.create(labels=bad)
        assert ids(await workflow.list()) == []


async def test_bulk_acts_on_all_that_fit_and_on_no_other(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """It tells how many it was; what has ended is passed over."""
    async with open_engine() as engine:
        workflow = engine.workflow("w", Sleeper, concurrency=1000)
        for scope in ("s", "t"):
            for _ in range(3):
                await workflow.create_batch([{"labels": {"kind": "old"}}] * 100, scope=scope)
        await workflow.create(id="young", scope="s")
        await clock.advance(60)
        assert await workflow.bulk("pause", scope="s", labels={"kind": "old"}) == {"done": 300, "skipped": 0}
        assert len((await workflow.list(status="paused", limit=1000)).instances) == 300
        assert (await (await workflow.get("young", scope="s")).status())["status"] == "waiting"
        assert await workflow.bulk("terminate", scope="s") == {"done": 301, "skipped": 0}
        assert await workflow.bulk("resume", scope="s", labels={"kind": "old"}) == {"done": 0, "skipped": 300}
        assert await workflow.bulk("delete", status="terminated") == {"done": 301, "skipped": 0}
        left = (await workflow.list(limit=1000)).instances
        assert {summary.scope for summary in left} == {"t"}
        assert len(left) == 300
        with pytest.raises(ValueError, match="in bulk"):
            await workflow.bulk("status")


# Beginning anew


async def test_a_restart_begins_a_new_run_from_nothing_but_the_params(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """Records and buffered events are wiped, ids of events too; the run is counted."""
    ran: list[str] = []
    async with open_engine() as engine:
        instance = await engine.workflow("w", Chain, env=ran).create(id="x")
        await clock.advance(1)
        await instance.send_event(type="other", payload="nobody takes it", id="e")
        await instance.restart()
        await clock.advance(1)
        status = await instance.status()
        assert (status["status"], status["run"], len(status["steps"])) == ("waiting", 2, 4)
        assert ran == ["one", "two", "two"] * 2
        await instance.send_event(type="go", payload="went", id="e")
        assert await instance.result() == ["one 4", "two 5", "two 6", "went", "last 7"]


@pytest.mark.parametrize("state", ["queued", "running", "waiting", "paused", "complete", "errored", "terminated"])
async def test_a_restart_is_legal_in_every_state(open_engine: OpenEngine, clock: VirtualClock, state: str) -> None:
    """And what was running is stopped first, so that never two runs of one instance are alive."""
    alive: list[int] = []
    most: list[int] = []

    class Moody(WorkflowEntrypoint):
        async def run(self, event: Any, step: Any) -> str:
            alive.append(1)
            try:
                most.append(len(alive))
                if self.ctx.run > 1 or state == "complete":
                    return "second wind"
                if state == "errored":
                    raise ValueError("no")
                if state == "running" or event.instance_id == "busy":
                    await step.do("work", lambda: clock.sleep(3600))
                await step.sleep("nap", "1 hour")
                return "slept"
            finally:
                alive.pop()

    async with open_engine() as engine:
        workflow = engine.workflow("w", Moody, concurrency=1)
        if state == "queued":
            await workflow.create(id="busy")
        instance = await workflow.create(id="x")
        await clock.advance(1)
        if state == "paused":
            await instance.pause()
        if state == "terminated":
            await instance.terminate()
        assert (await instance.status())["status"] == state
        await instance.restart()
        await clock.advance(3600)
        assert await instance.result() == "second wind"
        status = await instance.status()
        assert (status["run"], status["steps"], status["error"]) == (2, [], None)
        assert max(most) == 1


async def test_a_restart_from_a_step_keeps_what_began_before_it(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """By name and count; the step itself and all that began later run again."""
    ran: list[str] = []
    async with open_engine() as engine:
        instance = await engine.workflow("w", Chain, env=ran).create()
        await clock.advance(1)
        await instance.send_event(type="go", payload="went")
        await clock.advance(1)
        assert await instance.result() == ["one 1", "two 2", "two 3", "went", "last 4"]
        await instance.restart(from_step={"name": "two", "count": 2})
        await clock.advance(1)
        assert ran == ["one", "two", "two", "last", "two"]
        assert (await instance.status())["status"] == "waiting"
        await instance.send_event(type="go", payload="again")
        assert await instance.result() == ["one 1", "two 2", "two 5", "again", "last 6"]
        await instance.restart(from_step={"name": "go", "type": "waitForEvent"})
        await instance.send_event(type="go", payload="at last")
        assert await instance.result() == ["one 1", "two 2", "two 5", "at last", "last 7"]
        await instance.restart(from_step="last")
        assert await instance.result() == ["one 1", "two 2", "two 5", "at last", "last 8"]
        assert (await instance.status())["run"] == 4


@pytest.mark.parametrize(("step", "again"), [("before", ["before", "after"]), ("after", ["after"])])
async def test_what_began_before_a_step_is_known_though_the_clock_was_set_back(
    open_engine: OpenEngine, clock: VirtualClock, step: str, again: list[str]
) -> None:
    """By then the later one seems to have begun first."""
    ran: list[str] = []

    class Steps(WorkflowEntrypoint):
        async def run(self, event: Any, step: Any) -> None:
            await step.do("before", lambda: ran.append("before"))
            await step.wait_for_event("go", type="go")
            await step.do("after", lambda: ran.append("after"))

    async with open_engine() as engine:
        instance = await engine.workflow("w", Steps).create()
        await clock.advance(60)
        clock.set_wall(-5 * 3600)
        await instance.send_event(type="go", payload=None)
        await clock.advance(60)
        await instance.result()
        fork = await instance.fork(from_step=step)
        ran.clear()
        await instance.restart(from_step=step)
        for each in (instance, fork):
            await clock.advance(1)
            if step == "before":
                await each.send_event(type="go", payload=None)
            await clock.advance(60)
            assert (await each.status())["status"] == "complete"
    assert sorted(ran) == sorted(again * 2)


@pytest.mark.parametrize(("step", "again"), [("first", ["first", "second"]), ("second", ["second"])])
async def test_what_began_before_a_step_is_known_though_the_clock_was_set_back_for_less_time_than_it_took(
    open_engine: OpenEngine, clock: VirtualClock, step: str, again: list[str]
) -> None:
    """Both took so long that neither seems to be over before the other began."""
    ran: list[str] = []

    async def long(name: str) -> None:
        ran.append(name)
        await clock.sleep(300)

    class Steps(WorkflowEntrypoint):
        async def run(self, event: Any, step: Any) -> None:
            await step.do("first", lambda: long("first"))
            await step.do("second", lambda: long("second"))

    async with open_engine() as engine:
        instance = await engine.workflow("w", Steps).create()
        await clock.advance(200)
        clock.set_wall(-400)
        await clock.advance(500)
        await instance.result()
        fork = await instance.fork(from_step=step)
        ran.clear()
        await instance.restart(from_step=step)
        for each in (instance, fork):
            await clock.advance(700)
            assert (await each.status())["status"] == "complete"
    assert sorted(ran) == sorted(again * 2)


@pytest.mark.parametrize(
    ("step", "again"),
    [
        ("quick", ["quick", "next", "long", "last"]),
        ("next", ["next", "last"]),
        ("long", ["long", "next", "last"]),
        ("last", ["last"]),
    ],
)
async def test_what_began_before_a_step_is_kept_though_it_was_recorded_later(
    open_engine: OpenEngine, clock: VirtualClock, step: str, again: list[str]
) -> None:
    """Steps side by side: of two that began with the same on record, the first to be recorded counts as the first."""
    ran: list[str] = []

    async def body(name: str, seconds: float) -> None:
        ran.append(name)
        await clock.sleep(seconds)

    class Steps(WorkflowEntrypoint):
        async def run(self, event: Any, step: Any) -> None:
            long = asyncio.ensure_future(step.do("long", lambda: body("long", 60)))
            await asyncio.sleep(0)
            for name in ("quick", "next"):
                await step.do(name, lambda name=name: body(name, 1))
            await long
            await step.do("last", lambda: body("last", 1))

    async with open_engine() as engine:
        instance = await engine.workflow("w", Steps).create()
        await clock.advance(100)
        await instance.result()
        ran.clear()
        await instance.restart(from_step=step)
        await clock.advance(100)
        await instance.result()
    assert sorted(ran) == sorted(again)


async def test_a_restart_from_a_step_that_is_not_there_changes_nothing(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """A live run that was stopped for it goes on; a step is looked for among its own kind."""
    ran: list[str] = []
    async with open_engine() as engine:
        instance = await engine.workflow("w", Chain, env=ran).create()
        await clock.run_until_idle()
        wrong: list[Any] = ["three", {"name": "two", "count": 3}, {"name": "one", "type": "sleep"}]
        for step in wrong:
            with pytest.raises(StepNotFound):
                await instance.restart(from_step=step)
        malformed: list[Any] = [7, {"name": "two", "number": 1}, {"name": "two", "type": "dream"}]
        for step in malformed:
            with pytest.raises((TypeError, ValueError)):
                await instance.restart(from_step=step)
        await instance.send_event(type="go", payload="went")
        assert await instance.result() == ["one 1", "two 2", "two 3", "went", "last 4"]
        assert (await instance.status())["run"] == 1


async def test_a_restart_begins_with_a_clean_slate(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """Losses are forgotten, and so is that steps were taken back."""

    class Crashing(WorkflowEntrypoint):
        async def run(self, event: Any, step: Any) -> str:
            if self.env:
                self.env.pop()
                raise RunInterrupted
            return "whole"

    class Undoing(WorkflowEntrypoint):
        async def run(self, event: Any, step: Any) -> None:
            await step.do("one", lambda: 1, rollback=lambda: None)
            if self.ctx.run == 1:
                raise ValueError("no")

    async with open_engine() as engine:
        losses = [1] * 19  # ten end it; the second run has nine, after which it goes on
        instance = await engine.workflow("w", Crashing, env=losses).create()
        await clock.advance(4 * 3600)
        assert (await instance.status())["error"]["name"] == "CrashLoop"
        await instance.restart()
        await clock.advance(4 * 3600)
        assert await instance.result() == "whole"
        undoing = await engine.workflow("v", Undoing).create()
        await clock.advance(1)
        assert (await undoing.status())["rollback"] == "complete"
        await undoing.restart()
        await clock.advance(1)
        status = await undoing.status()
        assert (status["status"], status["rollback"]) == ("complete", None)


@pytest.mark.parametrize("verb", ["restart", "delete"])
async def test_what_is_claimed_at_that_moment_does_not_run(
    open_engine: OpenEngine, clock: VirtualClock, verb: str
) -> None:
    """A slot comes free and an instance is taken from the queue just as it is deleted, or begun anew."""
    ran: list[tuple[str, int]] = []
    done: set[str] = set()
    gate = asyncio.Event()

    class Noting(WorkflowEntrypoint):
        async def run(self, event: Any, step: Any) -> None:
            if event.payload == "block":
                await step.do("work", lambda: clock.sleep(3600))
            await gate.wait()
            if event.instance_id in done:
                ran.append((event.instance_id, self.ctx.run))
            await step.do("one", lambda: 1)

    async with open_engine() as engine:
        workflow = engine.workflow("w", Noting, concurrency=1)

        async def act(instance: Any) -> None:
            await getattr(instance, verb)()
            done.add(instance.id)

        for number in range(60):
            blocker = await workflow.create(params="block")
            await clock.run_until_idle()
            queued = await workflow.create(id=f"q{number}")
            await blocker.terminate()
            for _ in range(number % 12):
                await asyncio.sleep(0)
            await act(queued)
            gate.set()
            await clock.run_until_idle()
            gate.clear()
        assert engine.statistics().running == 0
        if verb == "delete":
            assert ran == []
        else:
            assert {run for _, run in ran} <= {2}
            statuses = [await (await workflow.get(f"q{number}")).status() for number in range(60)]
            assert {(status["status"], status["run"]) for status in statuses} == {("complete", 2)}


# Going


async def test_a_deleted_instance_is_gone_and_its_id_is_free(
    open_engine: OpenEngine, clock: VirtualClock, path: Path
) -> None:
    """With all its rows, whatever it was doing; handles on it say so, and a new one starts from nothing."""
    ran: list[str] = []
    async with open_engine() as engine:
        workflow = engine.workflow("w", Chain, env=ran)
        instance = await workflow.create(id="x", labels={"a": "b"})
        await clock.advance(1)
        await instance.send_event(type="other", payload=1, id="e")
        await instance.delete()
        for call in (instance.status(), instance.delete(), instance.restart(), instance.pause(), workflow.get("x")):
            with pytest.raises(InstanceNotFound):
                await call
        assert ids(await workflow.list(labels={"a": "b"})) == []
        again = await workflow.create(id="x")
        await again.send_event(type="go", payload="new")
        assert await again.result() == ["one 4", "two 5", "two 6", "new", "last 7"]
        await again.delete()
        await clock.advance(1)
    database = sqlite3.connect(path)
    tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    rows = {name: database.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in tables}
    database.close()
    assert {name for name, count in rows.items() if count} <= {"workflows", "counter", "sqlite_sequence"}


async def test_an_instance_that_deletes_itself_goes_no_further(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """The code after the call does not run, and nothing that it still does is recorded."""
    after: list[str] = []

    class Shy(WorkflowEntrypoint):
        async def run(self, event: Any, step: Any) -> None:
            await step.do("one", lambda: 1)
            await (await self.env[0].get(event.instance_id)).delete()
            after.append("went on")

    async with open_engine() as engine:
        env: list[Workflow] = []
        workflow = engine.workflow("w", Shy, env=env)
        env.append(workflow)
        await workflow.create(id="x")
        await clock.advance(10)
        with pytest.raises(InstanceNotFound):
            await workflow.get("x")
        assert after == []
        assert engine.statistics().running == 0


async def test_who_waits_for_a_deleted_instance_is_told(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """Nobody waits for ever for the result of what is gone."""
    async with open_engine() as engine:
        instance = await engine.workflow("w", Sleeper).create()
        waiting = asyncio.create_task(instance.result())
        await clock.advance(1)
        await instance.delete()
        with pytest.raises(InstanceNotFound):
            await waiting


async def test_what_has_ended_goes_when_its_time_is_over(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """As the instance says, else as the workflow says; successes and others apart; and never what is still alive."""
    async with open_engine() as engine:
        echo = engine.workflow("echo", Echo, retention={"success_retention": "2 days", "error_retention": "4 days"})
        failing = engine.workflow("failing", Failing, retention={"errorRetention": "4 days"})
        sleeper = engine.workflow("sleeper", Sleeper, retention="1 second")
        kept = engine.workflow("kept", Echo, retention="forever")
        default = engine.workflow("default", Echo)
        alive = await sleeper.create()
        await (await sleeper.create(id="stopped", retention="3 days")).terminate()
        instances = {
            "own": (await echo.create(retention="1 day"), 1),
            "success": (await echo.create(), 2),
            "stopped": (await sleeper.get("stopped"), 3),
            "error": (await failing.create(), 4),
            "own error": (
                await failing.create(retention={"success_retention": "1 second", "error_retention": 5 * DAY * 1000}),
                5,
            ),
            "default": (await default.create(), 7),
            "kept": (await kept.create(), 10**6),
        }
        await clock.run_until_idle()
        assert (await instances["own"][0].status())["expires"] == clock.now() + DAY * 1000
        await alive.pause()
        await clock.advance(DAY - 5)
        for day in range(10):
            for name, (instance, days) in instances.items():
                if days > day:
                    assert (await instance.status())["ended"], (name, day)
                    continue
                with pytest.raises(InstanceNotFound):
                    await instance.status()
            await clock.advance(DAY)
        assert (await alive.status())["status"] == "paused"
        assert engine.statistics().expired == 6


async def test_what_expires_soon_after_another_goes_soon_after_it(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """Within about a second of its time, not with the next that anybody hears of."""
    async with open_engine() as engine:
        workflow = engine.workflow("w", Echo, retention="1 hour")
        for name in "abc":
            await (await workflow.create(id=name)).result()
            await clock.advance(10)
        await clock.advance(3600 - 30)
        for left in (["c", "b"], ["c"], []):
            await clock.advance(2)
            assert ids(await workflow.list()) == left
            await clock.advance(8)


async def test_retention_holds_over_a_restart_of_the_host(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """What expired meanwhile goes when the engine is opened, whether or not its workflow is registered."""
    async with open_engine() as engine:
        instance = await engine.workflow("w", Echo).create(id="x", retention="1 day")
        await instance.result()
    await clock.advance(2 * DAY)
    async with open_engine() as engine:
        await clock.run_until_idle()
        assert engine.statistics().expired == 1
        with pytest.raises(InstanceNotFound):
            await engine.workflow("w", Echo).get("x")


async def test_expired_instances_go_in_small_transactions(
    open_engine: OpenEngine, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No single transaction takes more than a chunk of rows or of bytes, however much has to go."""
    monkeypatch.setattr("cloister.engine.store.wipe.SWEEP_ROWS", 10)
    monkeypatch.setattr("cloister.engine.store.wipe.SWEEP_BYTES", 100_000)

    class Bulky(WorkflowEntrypoint):
        async def run(self, event: Any, step: Any) -> None:
            for n in range(30):
                await step.do(f"s{n}", lambda n=n: "x" * (50_000 if n < 10 else 1))

    async with open_engine() as engine:
        instance = await engine.workflow("w", Bulky, retention="1 day").create()
        await instance.result()
        assert engine._writer is not None
        before = engine._writer.operations
        await clock.advance(DAY)
        sweeps = engine._writer.operations - before
        assert 5 <= sweeps <= 12, "30 steps: 10 of 50 kB in threes, and 20 small ones in tens"
        with pytest.raises(InstanceNotFound):
            await instance.status()


async def test_bad_retentions_are_refused(open_engine: OpenEngine) -> None:
    """Unknown keys, what is no duration, and more than is allowed: 30 days, unless the workflow itself keeps longer."""
    async with open_engine() as engine:
        workflow = engine.workflow("w", Echo)
        wrong: list[Any] = ["31 days", {"retention": "1 day"}, {"error_retention": "31 days"}]
        for retention in wrong:
            with pytest.raises(InvalidRetention):
                await workflow.create(retention=retention)
        with pytest.raises(InvalidRetention):
            engine.workflow("v", Echo, retention={"forever": True})
        patient = engine.workflow("u", Echo, retention="90 days")
        await patient.create(retention="60 days")


async def test_a_number_is_never_used_twice(open_engine: OpenEngine, clock: VirtualClock, path: Path) -> None:
    """So that what is swept up later cannot belong to somebody else by then, over any number of hosts."""
    numbers: list[int] = []
    for _ in range(3):
        async with open_engine() as engine:
            workflow = engine.workflow("w", Echo)
            for _ in range(3):
                instance = await workflow.create()
                await instance.result()
                database = sqlite3.connect(path)
                numbers += [number for (number,) in database.execute("SELECT number FROM instances")]
                database.close()
                await instance.delete()
    assert len(set(numbers)) == len(numbers) == 9
    assert numbers == sorted(numbers)


# The table of what may be asked when


async def reach(workflow: Workflow, clock: VirtualClock, state: str) -> Any:
    """An instance in that state; the workflow has one slot, and its instances sleep or work by their params."""
    if state == "queued":
        await workflow.create(params="work")
        return await workflow.create()
    params = {"running": "work", "waitingForPause": "work", "complete": "end", "errored": "fail"}.get(state, "sleep")
    instance = await workflow.create(params=params)
    await clock.advance(1)
    if state in {"paused", "waitingForPause"}:
        await instance.pause()
    if state == "terminated":
        await instance.terminate()
    assert (await instance.status())["status"] == state
    return instance


AFTER: dict[str, dict[str, str]] = {
    "queued": {"pause": "paused", "resume": "queued", "terminate": "terminated"},
    "running": {"pause": "waitingForPause", "resume": "running", "terminate": "terminated"},
    "waiting": {"pause": "paused", "resume": "waiting", "terminate": "terminated"},
    "waitingForPause": {"pause": "waitingForPause", "resume": "running", "terminate": "terminated"},
    "paused": {"pause": "paused", "resume": "waiting", "terminate": "terminated"},
    "complete": {}, "errored": {}, "terminated": {},
}  # fmt: skip
"""State to call to the state that it leads to; where none is given the call is refused: the instance has ended."""


@pytest.mark.parametrize("call", ["pause", "resume", "terminate", "send_event", "delete"])
@pytest.mark.parametrize("state", AFTER)
async def test_every_call_in_every_state(open_engine: OpenEngine, clock: VirtualClock, state: str, call: str) -> None:
    """Final is final, nothing else is refused, and a call that changes nothing does no harm."""

    class Various(WorkflowEntrypoint):
        async def run(self, event: Any, step: Any) -> str:
            if event.payload == "fail":
                raise ValueError("no")
            if event.payload == "work":
                await step.do("work", lambda: clock.sleep(3600))
            if event.payload != "end":
                await step.sleep("nap", "1 hour")
            return "done"

    async with open_engine() as engine:
        instance = await reach(engine.workflow("w", Various, concurrency=1), clock, state)
        arguments = {"type": "t"} if call == "send_event" else {}
        if call == "delete":
            await instance.delete()
            with pytest.raises(InstanceNotFound):
                await instance.status()
        elif AFTER[state]:
            await getattr(instance, call)(**arguments)
            await clock.advance(1)
            assert (await instance.status())["status"] == AFTER[state].get(call, state)
        else:
            with pytest.raises(InstanceFinished, match=state):
                await getattr(instance, call)(**arguments)
            assert (await instance.status())["status"] == state
            if state == "terminated":
                with pytest.raises(InstanceFailed, match="Terminated"):
                    await instance.result()


# Wrong from the beginning


async def test_what_is_registered_wrongly_is_refused_at_once(open_engine: OpenEngine) -> None:
    """And not when the first instance should run."""
    async with open_engine() as engine:
        options: tuple[tuple[str, Any], ...] = (
            ("concurrency", float("nan")), ("concurrency", 1.5), ("concurrency", True), ("concurrency", None),
            ("concurrency", 0), ("limits", {"steps": 1}), ("limits", 0),
        )  # fmt: skip
        for name, wrong in options:
            with pytest.raises((ValueError, TypeError), match=name):
                engine.workflow("w", Echo, **{name: wrong})
        entrypoints: tuple[Any, ...] = (None, Echo.run, object, "Echo")
        for entrypoint in entrypoints:
            with pytest.raises(TypeError, match="a class with a method `run`"):
                engine.workflow("w", entrypoint)
        await (await engine.workflow("w", Echo).create(params=1)).result()
    for linger in (float("nan"), -1, "1", None, True):
        with pytest.raises(ValueError, match="linger"):
            open_engine(linger=linger)


async def test_arguments_that_mean_nothing_are_refused_in_words(open_engine: OpenEngine) -> None:
    """A timeout that is no number would put other timers of the loop out of order; no status at all is not any."""
    async with open_engine() as engine:
        workflow = engine.workflow("w", Sleeper)
        instance = await workflow.create(id="x")
        timeouts: tuple[Any, ...] = (float("nan"), "1", True)
        for timeout in timeouts:
            with pytest.raises(ValueError, match="number of seconds"):
                await instance.result(timeout=timeout)
        statuses: tuple[Any, ...] = ([], (), set(), iter([]))
        for none in statuses:
            with pytest.raises(ValueError, match="names none"):
                await workflow.bulk("terminate", status=none)
            with pytest.raises(ValueError, match="names none"):
                await workflow.list(status=none)
        assert (await instance.status())["status"] != "terminated"
        with pytest.raises(TypeError, match="'state' is no filter; there are status"):
            await workflow.list(state="queued")
        errors: tuple[Any, ...] = ("no", ("ValueError",), ("a", 1), ("a", "b", "c"))
        for error in errors:
            with pytest.raises(TypeError, match="a pair of texts"):
                await instance.override("nap", author="a", reason="r", error=error)
        for author, reason in (("", "r"), ("a", " ")):
            with pytest.raises(ValueError, match="an author and a reason"):
                await instance.override("nap", author=author, reason=reason, result=1)
        batches: tuple[Any, ...] = (None, [None], ["abc"], [("", {})], [("", {}, b"code")])
        for entries in batches:
            with pytest.raises((TypeError, ValueError), match="for many scopes"):
                await workflow.create_each(entries)
