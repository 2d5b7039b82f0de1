"""What an operation costs does not grow with how much else is stored: no statement of the engine's looks through a
table that grows with instances, steps, tenants or their history.

Every statement is met in a story that does all there is to do, and SQLite is asked how it goes about it. What it
says does not depend on how many rows there are, since nothing here has it gather statistics.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import cloister.engine
from cloister.engine import (
    CodecFailed,
    Compression,
    Engine,
    ErrorRecord,
    InstanceAlreadyExists,
    InvalidSchedule,
    RunInterrupted,
    RunPostponed,
    Schedule,
    StepNotFound,
    StorageError,
    WaitTimeout,
    WorkflowEntrypoint,
    WorkflowLimits,
)
from cloister.engine.listing import Query
from cloister.engine.records import Address
from cloister.engine.store import archive, events, instances
from cloister.engine.store.export import export
from cloister.engine.store.steering import steering
from cloister.engine.store.store import Store

if TYPE_CHECKING:
    from cloister.engine.testing import VirtualClock

FOLDER = Path(cloister.engine.__file__).parent
STORES = sorted((FOLDER / "store").glob("*.py"))
VERBS = {"execute", "run", "_execute", "query"}
GROWING = {
    "instances", "steps", "events", "event_ids", "chunks", "labels", "changes", "interventions", "graves", "codes",
    "schedules", "usage",
}  # fmt: skip
WHOLE = {
    "INSERT INTO usage SELECT": "once for a workflow with a quota, when a file is opened",
    "SELECT workflows.name, CASE WHEN status = 'running'": "an operator's look at the whole file",
    "select count(*) from ": "the same",
    "SELECT params FROM instances ORDER BY number DESC LIMIT 1": "the last one",
    "SELECT 1 FROM graves LIMIT 1": "the first one",
    "SELECT instance FROM graves LIMIT ?": "the first ones",
}
"""Statements that look through a table all the same, by how they begin, and why they may."""


WIDE = ("(workflow=?)", "(workflow=? AND scope=?)")
NARROW = ("instances_due", "instances_ready", "instances_claimed", "usage", "schedules")
"""Those that are due, queued or claimed, of which a bounded number is looked at, or all are meant; one for each scope;
a hundred of each scope at most.
"""


class Watched(sqlite3.Connection):
    """A connection that asks how each statement is gone about, and remembers where that stands."""

    plans: dict[str, list[str]]
    sites: set[tuple[str, int]]

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        frame = sys._getframe(1)
        while Path(frame.f_code.co_filename) not in STORES or frame.f_code.co_name == "execute":
            if frame.f_back is None:
                break
            frame = frame.f_back
        self.sites.add((Path(frame.f_code.co_filename).name, frame.f_lineno))
        if sql not in self.plans and sql.split(maxsplit=1)[0].upper() in {"SELECT", "INSERT", "UPDATE", "DELETE"}:
            self.plans[sql] = [row[3] for row in super().execute(f"EXPLAIN QUERY PLAN {sql}", parameters)]
        return super().execute(sql, parameters)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> type[Watched]:
    """All that SQLite is asked while the test runs."""
    kind = type("Watched", (Watched,), {"plans": {}, "sites": set()})
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **more: connect(*args, factory=kind, **more))
    return kind


class Everything(WorkflowEntrypoint):
    """Does what its params say."""

    async def run(self, event: Any, step: Any) -> Any:
        workflow, losses = self.env
        for what in event.payload:
            match what:
                case "step":
                    await step.do("step", lambda: 1)
                case "stream":
                    stream = await step.do("stream", lambda: (b"x" * 300_000 for _ in range(2)))
                    await stream.read()
                case "retry":

                    def flaky(ctx: Any) -> None:
                        if ctx.attempt == 1:
                            raise ValueError

                    await step.do("flaky", {"retries": {"limit": 2, "delay": "1 minute"}}, flaky)
                case "torn":

                    async def torn() -> Any:
                        yield b"x" * 10
                        raise ValueError

                    with contextlib.suppress(Exception):
                        await step.do("torn", {"retries": {"limit": 0, "delay": 0}}, torn)
                case "sleep":
                    await step.sleep("night", "8 hours")
                case "nap":  # for which a run with so much on record is kept
                    for _ in range(20):
                        await step.do("much", lambda: 1)
                    await step.sleep("nap", 100)
                case "wait":
                    with contextlib.suppress(WaitTimeout):
                        await step.wait_for_event("w", type="t", timeout="1 minute")
                case "child":
                    await step.child("child", workflow[0], params=["sleep"])
                case "impatient":
                    with contextlib.suppress(Exception):
                        await step.child("late", workflow[0], params=["sleep"], timeout="1 minute")
                case "pin":
                    step.journal.pin(b"digest", b"code")
                    await step.journal.pinned_code()
                case "lost" | "postponed":
                    if losses.pop(self.ctx.instance_id, 1):
                        losses[self.ctx.instance_id] = 0
                        raise (RunInterrupted if what == "lost" else RunPostponed)("as it happens")
                case "undone":
                    await step.do("undone", lambda: 1, rollback=lambda: None)
        return "done"


async def everything(engine: Engine, clock: VirtualClock) -> None:
    """All that can be done with an engine."""
    env: tuple[list[Any], dict[str, int]] = ([], {})
    limits = WorkflowLimits(bytes_per_scope=10**9, concurrency_per_scope=20)
    with contextlib.suppress(InstanceAlreadyExists):
        workflow = engine.workflow("w", Everything, limits=limits, retention="1 day", schedules=["0 * * * *"], env=env)
        env[0].append(workflow)
    works = [["step", "stream", "torn", "sleep"], ["wait"], ["retry"], ["child"], ["impatient"], ["pin"], ["lost"],
             ["postponed"], ["undone", "sleep"], ["nap"]]  # fmt: skip
    batch = [{"id": work[0], "params": work, "labels": {"l": work[0]}} for work in works]
    await workflow.create_batch(batch[1:])
    await workflow.create_batch(batch)
    await workflow.create(id="single", params=["sleep"])
    with pytest.raises(InstanceAlreadyExists):
        await workflow.create(id="single")
    await clock.run_until_idle()
    busy = await workflow.get("step")
    await busy.pause()
    await clock.advance(1)
    await busy.resume()
    await clock.advance(1)
    await busy.send_event(type="other", payload=1, id="e")
    await busy.send_event(type="other", payload=1, id="e")
    waiting = await workflow.create(params=["sleep", "wait", "wait"])
    await clock.advance(1)
    await waiting.send_event(type="t", payload=1)
    listening = await workflow.create(params=["wait"])
    await clock.run_until_idle()
    await listening.send_event(type="t", payload=2)
    assert (await busy.status())["steps"]
    assert len(await busy.step_result("stream")) == 600_000
    with pytest.raises(StepNotFound):
        await busy.step_result("none")
    assert (await busy.rehearse()).fits
    await (await busy.fork(id="copy", from_step="stream")).terminate()
    await (await workflow.get("single")).restart()
    await busy.override("step", result=2, author="Ann", reason="to see")
    assert await busy.interventions()
    await clock.advance(1)
    await (await workflow.get("undone")).terminate(rollback=True)
    queued = await workflow.create_batch([{"params": ["sleep"]} for _ in range(40)])
    await queued[-1].terminate(rollback=True)
    await clock.advance(120)
    await clock.advance(9 * 3600)
    assert [event.type async for event in busy.subscribe()][-1] == "workflow_completed"
    assert await busy.result() == "done"
    await busy.restart(from_step="stream")
    await clock.advance(9 * 3600)
    for query in ({}, {"scope": ""}, {"scope": "", "labels": {"l": "step"}, "status": "complete", "created_from": 1}):
        await workflow.list(**query)
    await workflow.add_schedule(Schedule("30 * * * *"))
    with pytest.raises(InvalidSchedule):
        await workflow.add_schedule(Schedule("30 * * * *"))
    await clock.advance(3600)
    await workflow.remove_schedule("30 * * * *")
    await engine.transact(lambda t: [t.execute("SELECT 1"), t.create(workflow, params=["step"])])
    with pytest.raises(ZeroDivisionError):
        await engine.transact(lambda t: 1 / 0)
    await workflow.delete_batch(["single", "copy"])
    await clock.advance(3 * 86_400)


async def tell(path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A life, a commit of which nobody knows what came, an end in the middle, and the next host's."""
    monkeypatch.setattr("cloister.engine.store.store.FORGET_EVERY", 8)
    async with Engine(path, clock=clock) as engine:
        await everything(engine, clock)
        crowd = engine.workflow(
            "crowd", Everything, concurrency=1, limits=WorkflowLimits(queued_per_scope=3), env=([], {})
        )
        for scope in "ab":
            await crowd.create_batch([{"params": ["sleep"]}] * 3, scope=scope)
        workflow = engine.workflow("other", Everything, schedules=["0 0 * * *"], env=([], {}))
        with monkeypatch.context() as broken:
            broken.setattr(Store, "commit", lambda self: 1 / 0)
            with pytest.raises(StorageError):
                await workflow.create()
        await clock.advance(60)
        last = await workflow.create(id="last", params=["pin", "wait"], labels={"l": "last"})
        await last.send_event(type="other", payload=1)
        await clock.run_until_idle()
        writer = engine._open_writer()
        number = await writer.submit(lambda store: instances.find(store, last._address)[0])
        await last.send_event(type="t", payload=1)
        await writer.submit(take_back, number)
        assert await writer.submit(events.expire, number, "w", 1, ErrorRecord("late", ""), clock.now())
        await clock.run_until_idle()
        await workflow.create(id="asleep", params=["pin", "sleep"])
        await clock.advance(1)
    async with Engine(path, clock=clock) as engine:
        engine.workflow("other", Everything, env=([], {}))
        await clock.advance(9 * 3600)
    codec = Codec()
    async with Engine(path.with_name("sealed.db"), clock=clock, codec=codec) as engine:
        sealed = engine.workflow("sealed", Everything, env=([], {}))
        await sealed.create(id="asleep", params=["sleep"])
        with pytest.raises(InstanceAlreadyExists):
            await sealed.create(id="asleep")
        await clock.advance(1)
        codec.broken = True
        with pytest.raises(CodecFailed):
            await sealed.create()
        await clock.advance(9 * 3600)
        codec.broken = False


def take_back(store: Store, number: int) -> None:
    """What a transaction of the host's does that fails while the end of another's instance is on its way."""
    store.ended_beside.add(number)
    store.execute("SAVEPOINT own")
    store.roll_back("own")
    store.forget([number])


class Codec(Compression):
    """It can break."""

    broken = False

    def encode(self, data: bytes) -> bytes:
        if self.broken:
            raise ZeroDivisionError
        return super().encode(data)

    def decode(self, data: bytes) -> bytes:
        if self.broken:
            raise ZeroDivisionError
        return super().decode(data)


def statements() -> Iterator[tuple[str, range]]:
    """Where each statement of the stores stands, but for those that take back, which look through nothing."""
    for file in STORES:
        for function in ast.walk(ast.parse(file.read_text())):
            if isinstance(function, ast.FunctionDef) and function.name != "execute":
                for node in ast.walk(function):
                    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in VERBS:
                        if isinstance(node.args[0], ast.Constant) and node.args[0].value == "ROLLBACK":
                            continue
                        yield file.name, range(node.lineno, (node.end_lineno or node.lineno) + 1)


def looks_through(line: str) -> bool:
    """Whether this line of a plan is of work that grows with what is stored in all, and not with what is asked for."""
    word, _, rest = line.partition(" ")
    if word == "SCAN":
        return rest.split()[0] in GROWING
    return "AUTOMATIC" in line or (line.endswith(WIDE) and not any(index in line for index in NARROW))


@pytest.mark.parametrize("hands", ["loop"], indirect=True)  # which has a question of its own
async def test_no_statement_looks_through_a_table_that_grows(
    path: Path, clock: VirtualClock, watched: type[Watched], monkeypatch: pytest.MonkeyPatch, hands: str
) -> None:
    """Each is met, and goes by an index."""
    await tell(path, clock, monkeypatch)
    archive.information(path)
    export(path, Address("other", "", "last"))
    archive.search(path, "other", Query(), 10)
    with steering(path) as hand, pytest.raises(StepNotFound):
        hand.restart(Address("other", "", "last"), ("do", "none", 1))
    sites = {f"{name}:{lines.start}" for name, lines in statements() if not watched.sites & {(name, n) for n in lines}}
    assert not sites, f"statements that the story has none of: {sites}"
    plans = {sql: "; ".join(filter(looks_through, plan)) for sql, plan in watched.plans.items()}
    found = {sql: plan for sql, plan in plans.items() if plan}
    wrong = [f"{sql}\n    {plan}" for sql, plan in found.items() if not any(map(sql.startswith, WHOLE))]
    assert not wrong, "\n".join(wrong)
    unmet = [begin for begin in WHOLE if not any(sql.startswith(begin) for sql in found)]
    assert not unmet, f"exceptions that nothing needs: {unmet}"


async def test_a_list_of_all_scopes_finds_what_is_rare_among_others(path: Path, clock: VirtualClock) -> None:
    """However many instances of other workflows lie between, of which one look passes over a bounded number."""
    async with Engine(path, clock=clock) as engine:
        rare, common = (engine.workflow(name, Everything, env=([], {})) for name in ("rare", "common"))
        for _ in range(3):
            await rare.create(params=[], labels={"l": "rare"})
            await asyncio.gather(*(common.create_batch([{"params": []}] * 100) for _ in range(25)))
        assert len((await rare.list()).instances) == 3
        first = await rare.list(limit=2, labels={"l": "rare"})
        assert [len(page.instances) for page in (first, await rare.list(cursor=first.cursor))] == [2, 1]
