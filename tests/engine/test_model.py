"""The engine against a model of it that fits on a page: virtual time, and a crash possible at every commit.

Hypothesis makes up the stories; a few fixed ones are told to engines that are wrong on purpose, each of which must be
found out.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
import tempfile
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from cloister.engine import InstanceAlreadyExists, InstanceFinished, WaitTimeout, WorkflowEntrypoint, durations, waits
from cloister.engine.journal import LiveJournal
from cloister.engine.store import steps
from cloister.engine.store.store import Store
from cloister.engine.testing import RecordingEngine, VirtualClock
from cloister.engine.writer import Writer

pytestmark = pytest.mark.usefixtures("hands")

LIMIT, DELAY = 2, 60
RETRIES = {"retries": {"limit": LIMIT, "delay": DELAY * 1000, "backoff": "constant"}}


class Program(WorkflowEntrypoint):
    """Does what its params say: ["do", so many failures], ["sleep", seconds], ["wait", type, seconds]."""

    async def run(self, event: Any, step: Any) -> list[Any]:
        said: list[Any] = []
        for number, (what, *more) in enumerate(event.payload):
            if what == "do":
                said.append(await self._do(event, step, number, more[0]))
            elif what == "sleep":
                await step.sleep("s", more[0] * 1000)
            else:
                try:
                    said.append((await step.wait_for_event("w", type=more[0], timeout=more[1] * 1000)).payload)
                except WaitTimeout:
                    said.append("timeout")
        return said

    async def _do(self, event: Any, step: Any, number: int, failures: int) -> Any:
        def body(ctx: Any) -> int:
            self.env[event.instance_id, number, ctx.attempt] += 1
            if ctx.attempt <= failures:
                raise ValueError("not yet")
            return number

        try:
            return await step.do("d", RETRIES, body)
        except ValueError:
            return "failed"


@dataclass
class Expected:
    """What an instance should have come to. It waits for `due`, or for an event; times are seconds."""

    program: list[Any]
    place: int = 0
    said: list[Any] = field(default_factory=list)
    status: str = "active"
    due: float | None = None
    attempt: int = 1
    events: list[tuple[str, Any]] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    paused_at: float = 0

    def go_on(self, now: float) -> None:
        while self.status == "active":
            if self.place == len(self.program):
                self.status = "complete"
                return
            done, said = self._try(now, *self.program[self.place])
            if not done:
                return
            self.said += said
            self.place, self.due, self.attempt = self.place + 1, None, 1

    def _try(self, now: float, what: str, *more: Any) -> tuple[bool, list[Any]]:
        if what == "do":
            while self.attempt <= more[0]:
                if self.attempt > LIMIT:
                    return True, ["failed"]
                self.due = now + DELAY if self.due is None else self.due
                if now < self.due:
                    return False, []
                self.due, self.attempt = None, self.attempt + 1
            return True, [self.place]
        if what == "wait":
            for index, (kind, payload) in enumerate(self.events):
                if kind == more[0]:
                    del self.events[index]
                    return True, [payload]
        self.due = now + more[-1] if self.due is None else self.due
        return now >= self.due, ["timeout"] if what == "wait" else []


Doing = Callable[[], Awaitable[None]]


class Bench:
    """An engine and the model, told the same. A crash is another engine on a copy of what the first one had stored."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.clock = VirtualClock()
        self.now = 0.0
        self.model: dict[str, Expected] = {}
        self.bodies: Counter[Any] = Counter()
        self.crashes = 0

    async def open(self, path: Path) -> None:
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        self.engine: RecordingEngine = RecordingEngine(path, folder, clock=self.clock)
        await self.engine.__aenter__()
        self.workflow = self.engine.workflow("w", Program, env=self.bodies)
        await self.clock.run_until_idle()

    async def close(self) -> None:
        await self.engine.__aexit__(None, None, None)
        self.clock._attached.clear()

    async def crash(self, copy: Path) -> None:
        """The host dies having stored this much; the next one begins with it."""
        await self.close()
        self.crashes += 1
        with contextlib.closing(sqlite3.connect(copy)) as database, database:
            database.execute("UPDATE instances SET losses = 0")  # how often in a row is not what is tested here
        await self.open(copy)

    async def do(self, doing: Doing, crash: int | None = None) -> None:
        """Do something; if so said, die after one of the commits that come of it, and do it again. -1 is to die as soon
        as it is acknowledged, and not to do it again.
        """
        before = len(self.engine.copies)
        await doing()
        acknowledged = len(self.engine.copies)
        await self.clock.run_until_idle()
        copies = self.engine.copies[before:]
        if crash is None or not copies:
            return
        if crash < 0:
            await self.crash(self.engine.copies[acknowledged - 1])
            return
        await self.crash(copies[crash % len(copies)])
        await doing()
        await self.clock.run_until_idle()

    async def create(self, name: str, program: list[Any], crash: int | None = None) -> None:
        async def doing() -> None:
            with contextlib.suppress(InstanceAlreadyExists):
                await self.workflow.create(id=name, params=program)

        await self.do(doing, crash)
        self.model[name] = Expected(program)
        self.model[name].go_on(self.now)

    async def send(self, name: str, kind: str, payload: Any, event_id: str, crash: int | None = None) -> None:
        async def doing() -> None:
            instance = await self.workflow.get(name)
            with contextlib.suppress(InstanceFinished):
                await instance.send_event(type=kind, payload=payload, id=event_id)

        await self.do(doing, crash)
        expected = self.model[name]
        if expected.status in {"active", "paused"} and event_id not in expected.seen:
            expected.seen.add(event_id)
            expected.events.append((kind, payload))
            expected.go_on(self.now)

    async def control(self, name: str, what: str, crash: int | None = None) -> None:
        async def doing() -> None:
            with contextlib.suppress(InstanceFinished):
                await getattr(await self.workflow.get(name), what)()

        await self.do(doing, crash)
        expected = self.model[name]
        if what == "restart":
            self.model[name] = expected = Expected(expected.program)
            for key in [key for key in self.bodies if key[0] == name]:
                del self.bodies[key]
        elif what == "pause" and expected.status == "active":
            expected.status, expected.paused_at = "paused", self.now
        elif what == "resume" and expected.status == "paused":
            expected.status = "active"
            if expected.due is not None:
                expected.due += self.now - expected.paused_at
        elif what == "terminate" and expected.status in {"active", "paused"}:
            expected.status = "terminated"
        expected.go_on(self.now)

    async def advance(self, seconds: float, crash: int | None = None) -> None:
        """Let time pass. A host that dies on the way is followed by one that begins at the end of this time."""
        before = len(self.engine.copies)
        await self.clock.advance(seconds)
        if crash is not None:
            copies = self.engine.copies[before:]
            await self.crash(copies[crash % len(copies)])
        end = self.now + seconds
        while True:
            due = [each.due for each in self.model.values() if each.status == "active" and each.due is not None]
            if not due or min(due) > end:
                break
            self.now = max(self.now, min(due))
            for each in self.model.values():
                each.go_on(self.now)
        self.now = end

    async def check(self) -> None:
        """The engine says of each instance what the model says."""
        for name, expected in self.model.items():
            status = await (await self.workflow.get(name)).status()
            told = "active" if status["status"] in {"queued", "running", "waiting"} else status["status"]
            assert told == expected.status, (name, status, expected)
            if told == "complete":
                assert status["output"] == expected.said, (name, status, expected)
            done = sum(step["status"] in {"done", "failed"} for step in status["steps"])
            assert expected.place <= done <= expected.place + 1, (name, status, expected)
        for key, times in self.bodies.items():
            assert times <= 1 + self.crashes, f"the body of {key} ran {times} times over {self.crashes} crashes"

    async def finish(self) -> None:
        """Let everything come to its end."""
        for name, expected in self.model.items():
            if expected.status == "paused":
                await self.control(name, "resume")
        for _ in range(12):
            await self.advance(600)
        await self.check()
        assert not {"active", "paused"} & {expected.status for expected in self.model.values()}


# Stories that Hypothesis makes up

KINDS = st.sampled_from(["a", "b"])
SPANS = st.sampled_from([0, 60, 120, 600])
OPERATIONS = st.one_of(
    st.tuples(st.just("do"), st.integers(0, 3)),
    st.tuples(st.just("sleep"), SPANS),
    st.tuples(st.just("wait"), KINDS, st.sampled_from([60, 300])),
)
PROGRAMS = st.lists(OPERATIONS.map(list), min_size=1, max_size=5)
CRASHES = st.one_of(st.none(), st.integers(-1, 5))
NUMBERS = st.integers(0, 4)


class Machine(RuleBasedStateMachine):
    """Rules over a bench on an event loop of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.bench = Bench()
        self.runner.run(self.bench.open(self.bench.folder / "app.db"))
        self.sent = 0

    def teardown(self) -> None:
        try:
            self.runner.run(self.bench.finish())
        finally:
            self.runner.run(self.bench.close())
            self.runner.close()
            shutil.rmtree(self.bench.folder)

    def _name(self, number: int) -> str:
        names = sorted(self.bench.model)
        return names[number % len(names)]

    def _run(self, work: Any) -> None:
        async def checked() -> None:
            await work
            await self.bench.check()

        self.runner.run(checked())

    @precondition(lambda self: len(self.bench.model) < 4)
    @rule(program=PROGRAMS, crash=CRASHES)
    def create(self, program: list[Any], crash: int | None) -> None:
        self._run(self.bench.create(f"i{len(self.bench.model)}", program, crash))

    @precondition(lambda self: self.bench.model)
    @rule(number=NUMBERS, kind=KINDS, again=st.booleans(), crash=CRASHES)
    def send(self, number: int, kind: str, again: bool, crash: int | None) -> None:
        self.sent += not again
        self._run(self.bench.send(self._name(number), kind, self.sent, f"e{self.sent}", crash))

    @precondition(lambda self: self.bench.model)
    @rule(number=NUMBERS, what=st.sampled_from(["pause", "resume", "terminate", "restart"]), crash=CRASHES)
    def control(self, number: int, what: str, crash: int | None) -> None:
        self._run(self.bench.control(self._name(number), what, crash))

    @rule(seconds=st.sampled_from([1, 30, 60, 90, 300]))
    def advance(self, seconds: int) -> None:
        self._run(self.bench.advance(seconds))


def test_the_engine_does_what_the_model_does() -> None:
    """Whatever is created, sent, paused and ended, and at whichever commit its host dies."""
    profile = settings(
        max_examples=40,
        stateful_step_count=20,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Machine, settings=profile)


# Engines that are wrong on purpose


async def many_events(bench: Bench) -> None:
    """More than ten in a row, before anybody waits for them; one of them sent twice."""
    await bench.create("i", [["sleep", 60], *[["wait", "a", 60]] * 13])
    for number in range(13):
        await bench.send("i", "a", number, f"e{number}")
        await bench.send("i", "a", "again", f"e{number}")
    await bench.advance(60)


async def crashes_everywhere(bench: Bench) -> None:
    """Each thing is done with a crash after each of the commits that come of it."""
    for crash in range(-1, 5):
        name = f"i{crash + 1}"
        await bench.create(name, [["do", 1], ["wait", "a", 60], ["do", 3], ["wait", "a", 60]], crash)
        await bench.send(name, "a", 1, "one", crash)
        await bench.send(name, "a", 2, "two", crash)
        await bench.check()
        await bench.advance(60)
        await bench.check()
        await bench.advance(120)
        await bench.crash(bench.engine.copies[-1])


async def kept_events(bench: Bench) -> None:
    """An event that was sent before it is waited for is there after a crash at any commit of the waking."""
    for crash in range(8):
        await bench.create(f"i{crash}", [["sleep", 60], ["wait", "a", 60], ["do", 0]])
        await bench.send(f"i{crash}", "a", crash, "e")
        await bench.advance(60, crash)
        await bench.check()


async def late_events(bench: Bench) -> None:
    """A wait times out; the event that comes then is for the next one."""
    await bench.create("i", [["wait", "a", 60], ["sleep", 60], ["wait", "a", 60]])
    await bench.advance(90)
    await bench.send("i", "a", "late", "e")
    await bench.advance(30)


async def pauses(bench: Bench) -> None:
    """What is left of a sleep when it is paused is left when it goes on."""
    await bench.create("i", [["sleep", 120], ["do", 0]])
    await bench.advance(90)
    await bench.control("i", "pause")
    await bench.advance(300)
    await bench.control("i", "resume")
    await bench.check()
    await bench.advance(29)
    await bench.check()
    await bench.advance(1)


async def moments(bench: Bench) -> None:
    """Nothing is early by a second, after a crash neither."""
    await bench.create("i", [["sleep", 60], ["do", 1], ["wait", "a", 60]])
    for _ in range(3):
        await bench.advance(59)
        await bench.check()
        await bench.crash(bench.engine.copies[-1])
        await bench.advance(1)
        await bench.check()


async def deaf_bodies(bench: Bench) -> None:
    """A body that does not listen when it is told to stop records nothing afterwards."""
    over = asyncio.Event()

    class Deaf(WorkflowEntrypoint):
        async def run(self, event: Any, step: Any) -> None:
            async def body() -> str:
                with contextlib.suppress(asyncio.CancelledError):
                    await over.wait()
                return "too late"

            await step.do("deaf", body)

    instance = await bench.engine.workflow("deaf", Deaf).create()
    await bench.clock.run_until_idle()
    await instance.terminate()
    over.set()
    await bench.advance(1)
    assert (await instance.status())["steps"] == []


STORIES = (many_events, crashes_everywhere, kept_events, late_events, pauses, moments, deaf_bodies)


async def tell(story: Callable[[Bench], Awaitable[None]]) -> None:
    """On a bench of its own; what is wrong is raised."""
    bench = Bench()
    await bench.open(bench.folder / "app.db")
    try:
        async with asyncio.timeout(200):  # a second, on a machine that nobody else wants
            await story(bench)
            await bench.check()
            await bench.finish()
    finally:
        await bench.close()
        shutil.rmtree(bench.folder)


def rewriting(old: str, new: str) -> Callable[[pytest.MonkeyPatch], None]:
    """An engine one of whose statements says something else."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        make, met = Store.__init__, list[str]()

        def init(self: Store, connection: sqlite3.Connection, *rest: Any) -> None:
            make(self, connection, *rest)
            execute = connection.execute

            def rewritten(sql: str, *more: Any) -> Any:
                met.extend([sql] * (old in sql))
                return execute(sql.replace(old, new), *more)

            self.run = rewritten

        monkeypatch.setattr(Store, "__init__", init)
        patch.met = met  # type: ignore[attr-defined]

    return patch


def two_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    record = steps.record

    def apart(store: Store, *row: Any) -> None:
        if row[2] == "wait" and row[6] == "done":  # the event is gone for good before the wait is recorded
            store.execute("DELETE FROM events WHERE number = (SELECT min(number) FROM events)")
            store.commit()
            store.begin()
        record(store, *row)

    monkeypatch.setattr(steps, "record", apart)


def early_timers(monkeypatch: pytest.MonkeyPatch) -> None:
    read = durations.milliseconds
    monkeypatch.setattr(waits, "milliseconds", lambda *a, **k: max(read(*a, **k) - 1000, 0))


def no_fence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LiveJournal, "_check_open", lambda self: None)


def after(turns: int, loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    """Call this when so many turns of the loop have passed."""
    if turns:
        loop.call_soon(after, turns - 1, loop, call)
    else:
        call()


def early_acknowledgement(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(self: Writer) -> None:
        self._store = self._open_store()
        self._handover.tell(lambda: self._opened.set_result(None))
        while batch := self._gather():
            store = self._store
            store.begin()
            results: list[Any] = []
            for verb, args, _ in batch:
                try:
                    results.append(verb(store, *args))
                except Exception as refusal:  # noqa: BLE001 - as the real one does
                    results.append(refusal)
                store.related(len(results))
            self._handover.tell(self._acknowledge, batch, results, store.news())
            heard = threading.Event()
            self._handover.tell(after, 20, self._loop, heard.set)
            heard.wait()
            store.commit()
        self._store.close()
        self._handover.tell(lambda: self._ended.set_result(None))

    monkeypatch.setattr(Writer, "_work", work)
    monkeypatch.setattr(Writer, "_work_here", lambda self: False)


def relative_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    make = LiveJournal.__init__

    def init(self: LiveJournal, *args: Any, **more: Any) -> None:
        make(self, *args, **more)
        for key, known in tuple(self._known.items()):
            if key[0] == "sleep" and known.state == "waiting":
                del self._known[key]

    monkeypatch.setattr(LiveJournal, "__init__", init)


WRONG: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "events in lexical order": rewriting("type = ? ORDER BY number LIMIT 1", "type = ? ORDER BY number || '' LIMIT 1"),
    "events in reverse order": rewriting("type = ? ORDER BY number LIMIT 1", "type = ? ORDER BY number DESC LIMIT 1"),
    "events in memory only": rewriting("INSERT INTO events (instance, type, event) VALUES (?, ?, ?)", "SELECT ?, ?, ?"),
    "events that are not used up": rewriting("DELETE FROM events WHERE number = ?", "SELECT ?"),
    "an event and its wait in two commits": two_commits,
    "repeated events": rewriting("(instance, id) VALUES (?, ?)", "(instance, id) VALUES (?, ? || random())"),
    "a wait that timed out takes an event": rewriting(
        "UPDATE steps SET state = 'failed', error = ?", "UPDATE steps SET state = 'waiting', error = ?"
    ),
    "timers that are early": early_timers,
    "sleeps that begin anew in each replay": relative_sleeps,
    "a pause that time goes on in": rewriting("SET due = due + max(0,", "SET due = due + 0 * max(0,"),
    "no fence": no_fence,
    "failures that are not remembered": rewriting(
        "finished FROM steps WHERE instance = ?", "finished FROM steps WHERE state != 'failed' AND instance = ?"
    ),
    "attempts that are not counted": rewriting("attempts = excluded.attempts", "attempts = 0"),
    "results that are lost": rewriting("config, within, size, finished FROM steps WHERE", "config, within, size,"
                                       " finished FROM steps WHERE kind != 'do' AND"),
    "an acknowledgement before the commit": early_acknowledgement,
}  # fmt: skip


async def test_the_stories_are_true_of_the_engine() -> None:
    """As it is."""
    for story in STORIES:
        await tell(story)


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_wrong_engine_is_found_out(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By one of the stories."""
    WRONG[wrong](monkeypatch)
    caught: list[str] = []
    for story in STORIES:
        try:
            await tell(story)
        except (TypeError, AttributeError):  # it is not the engine that is wrong, but what makes it so
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is found out by
            caught.append(f"{story.__name__}: {type(error).__name__}")
            break
    assert caught, f"no story tells an engine with {wrong} from the right one"
    assert getattr(WRONG[wrong], "met", [""]), "the statement that was to be rewritten is not there any longer"
