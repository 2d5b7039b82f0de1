"""Each promise as a story that is true of the engine, and not of one that breaks it: those that `test_model` has no
story for. A promise is worth what finds out whoever breaks it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloister.engine import (
    Engine,
    EngineLocked,
    ErrorRecord,
    EventBufferFull,
    InstanceAlreadyExists,
    InstanceFailed,
    InstanceNotFound,
    NonRetryableError,
    QueueFull,
    QuotaExceeded,
    RunInterrupted,
    RunOver,
    Status,
    WorkflowEntrypoint,
    WorkflowLimits,
    ownership,
)
from cloister.engine import journal as journal_module
from cloister.engine.journal import LiveJournal
from cloister.engine.retry import judge
from cloister.engine.sharing import Shares
from cloister.engine.store import backlog, ending, events, instances, queue, usage
from cloister.engine.store.catalogue import Catalogue
from cloister.engine.store.store import Store
from cloister.engine.testing import VirtualClock, crash_after_every_commit

FEW_EVENTS = 50
Story = Callable[[Path, VirtualClock], Awaitable[None]]
Wrong = Callable[[pytest.MonkeyPatch], None]


class Told(WorkflowEntrypoint):
    """Does what its env says."""

    async def run(self, event: Any, step: Any) -> Any:
        return await self.env(event, step)


# No lost instance


async def a_host_that_dies_anywhere(path: Path, clock: VirtualClock) -> None:
    """What it was running, the next one runs."""

    async def body(event: Any, step: Any) -> Any:
        first = await step.do("first", lambda: 1)
        await step.sleep("night", "8 hours")
        return [first, await step.do("second", lambda: 2)]

    async def play(engine: Engine, clock: VirtualClock) -> Any:
        workflow = engine.workflow("w", Told, env=body)
        with contextlib.suppress(InstanceAlreadyExists):
            await workflow.create(id="i")
        for _ in range(3):
            await clock.advance(5 * 3600)
        return (await (await workflow.get("i")).status())["output"]

    folder = path.with_name("copies")
    folder.mkdir()
    assert await crash_after_every_commit(folder, play) == [1, 2]


def nobody_is_recovered(monkeypatch: pytest.MonkeyPatch) -> None:
    def register_only(opened: Store, workflow: str, *_: Any) -> None:
        opened.register(workflow)

    monkeypatch.setattr(queue, "recover", register_only)


# At-least-once body, at most limit + 1 attempts, losses beside them


async def attempts_and_losses(path: Path, clock: VirtualClock) -> None:
    """Three attempts with two retries, whatever is lost between them."""
    bodies: list[int] = []
    losses = [True, False, True]

    async def body(event: Any, step: Any) -> Any:
        def flaky(ctx: Any) -> None:
            bodies.append(ctx.attempt)
            raise ValueError

        if losses and losses.pop():
            raise RunInterrupted("killed")
        return await step.do("flaky", {"retries": {"limit": 2, "delay": "1 minute"}}, flaky)

    async with Engine(path, clock=clock) as engine:
        instance = await engine.workflow("w", Told, env=body).create()
        await clock.advance(3600)
        with pytest.raises(InstanceFailed, match="ValueError"):
            await instance.result()
        assert bodies == [1, 2, 3]


def one_retry_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        journal_module,
        "judge",
        lambda outcome, config, now: judge(outcome, replace(config, limit=config.limit + 1), now),
    )


def losses_that_are_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    make = LiveJournal.__init__

    def init(self: LiveJournal, claim: Any, *args: Any, **more: Any) -> None:
        make(self, claim, *args, **more)
        if claim.claims > 2:
            for key, known in tuple(self._known.items()):
                if known.state == "retrying":
                    self._known[key] = known._replace(attempts=known.attempts + 1)

    monkeypatch.setattr(LiveJournal, "__init__", init)


# Exactly-once create


async def a_race_for_an_id(path: Path, clock: VirtualClock) -> None:
    """One of twenty wins, and its params hold; the next host knows as well."""

    async def body(event: Any, step: Any) -> Any:
        return event.payload

    async with Engine(path, clock=clock) as engine:
        workflow = engine.workflow("w", Told, env=body)
        found = await asyncio.gather(*(workflow.create(id="i", params=n) for n in range(20)), return_exceptions=True)
        refused = [error for error in found if isinstance(error, InstanceAlreadyExists)]
        assert len(refused) == 19
        winner = next(n for n, each in enumerate(found) if not isinstance(each, BaseException))
        assert await (await workflow.get("i")).result() == winner
    async with Engine(path, clock=clock) as engine:
        workflow = engine.workflow("w", Told, env=body)
        with pytest.raises(InstanceAlreadyExists):
            await workflow.create(id="i", params="late")
        assert await (await workflow.get("i")).result() == winner


# No lost event: one that is there beats a timeout that is not recorded


async def an_event_at_the_last_moment(path: Path, clock: VirtualClock) -> None:
    """It was stored before the timeout was, so it is what the wait comes to."""

    async def body(event: Any, step: Any) -> Any:
        return (await step.wait_for_event("w", type="t", timeout="1 minute")).payload

    async with Engine(path, clock=clock) as engine:
        instance = await engine.workflow("w", Told, env=body).create()
        await clock.advance(59)
        sending = asyncio.ensure_future(instance.send_event(type="t", payload="in time"))
        clock.set_wall(2)
        await clock.advance(1)
        await sending
        assert await instance.result() == "in time"
        number = await engine._reader.ask(Catalogue.find, instance._address)
        late = ErrorRecord("WorkflowTimeoutError", "")
        writer = engine._writer
        assert writer is not None
        assert await writer.submit(events.expire, number, "w", 1, late, clock.now()) is not None


# Terminal is final


async def a_late_end(path: Path, clock: VirtualClock) -> None:
    """What was terminated does not complete after all."""

    async def body(event: Any, step: Any) -> Any:
        await step.sleep("night", "8 hours")

    async with Engine(path, clock=clock) as engine:
        instance = await engine.workflow("w", Told, env=body).create()
        await clock.advance(1)
        number = await engine._reader.ask(Catalogue.find, instance._address)
        await instance.terminate()
        writer = engine._writer
        assert writer is not None
        with pytest.raises(RunOver):
            await writer.submit(ending.finish, number, Status.COMPLETE, b"\xc0", None, clock.now())
        assert (await instance.status())["status"] == "terminated"


# One owner


async def two_hosts(path: Path, clock: VirtualClock) -> None:
    """The second is refused at once, until the first has gone."""
    async with Engine(path, clock=clock):
        with pytest.raises(EngineLocked):
            await Engine(path, clock=clock).__aenter__()
    async with Engine(path, clock=clock):
        pass


# Bounded harm


async def a_poison_pill(path: Path, clock: VirtualClock) -> None:
    """What takes its process down each time ends, and its neighbour is done meanwhile."""

    async def body(event: Any, step: Any) -> Any:
        if event.payload == "poison":
            raise RunInterrupted("killed by SIGSEGV")

    async with Engine(path, clock=clock) as engine:
        workflow = engine.workflow("w", Told, env=body)
        poison, neighbour = await workflow.create(params="poison"), await workflow.create(params="")
        await clock.advance(600)
        assert await neighbour.result() is None
        assert ((await poison.status())["error"] or {}).get("name") == "CrashLoop"


async def a_long_queue(path: Path, clock: VirtualClock) -> None:
    """A tenant with three hundred queued does not hold up one with a single one."""
    done: list[str] = []

    async def body(event: Any, step: Any) -> None:
        await step.do("work", lambda: None)
        done.append(event.payload)

    async with Engine(path, clock=clock) as engine:
        workflow = engine.workflow("w", Told, env=body, concurrency=2)
        for _ in range(3):
            await workflow.create_batch([{"params": "a"}] * 100, scope="a")
        await workflow.create(params="b", scope="b")
        await clock.advance(60)
        assert Counter(done) == {"a": 300, "b": 1}
        assert done.index("b") < 250


def first_come(turn: Any, scopes: Any, next_of: Any) -> Shares[Any]:
    """Slots to whoever is first in the alphabet."""
    given: list[Any] = []
    for scope in sorted(scopes):
        while (item := next_of(scope)) is not None:
            if len(given) == turn.slots:
                return Shares(given, None, True, [])
            given.append(item)
    return Shares(given, None, False, [])


async def a_hoarder(path: Path, clock: VirtualClock) -> None:
    """Bytes of a scope and events of an instance have a bound."""

    async def body(event: Any, step: Any) -> None:
        await step.sleep("night", "8 hours")

    async with Engine(path, clock=clock) as engine:
        workflow = engine.workflow("w", Told, env=body, limits=WorkflowLimits(bytes_per_scope=100_000))
        instance = await workflow.create(scope="a")
        for number in range(FEW_EVENTS):
            await instance.send_event(type="t", payload=number)
        with pytest.raises(EventBufferFull):
            await instance.send_event(type="t", payload="one more")
        with pytest.raises(QuotaExceeded):
            await instance.send_event(type="t", payload="x" * 100_000)
        with pytest.raises(QuotaExceeded):
            await workflow.create(scope="a", params="x" * 100_000)


async def a_hoarder_by_other_ways(path: Path, clock: VirtualClock) -> None:
    """Copies, failures and what it waits for are stored as well. A run that goes on where nothing has room ends."""

    async def body(event: Any, step: Any) -> None:
        def fail() -> None:
            raise NonRetryableError("x" * 8_000)

        await step.do("large", lambda: "x" * 60_000)
        for number in range(50):
            with contextlib.suppress(NonRetryableError, QuotaExceeded):
                await step.do(f"fail {number}", fail)
        for number in range(500):
            with contextlib.suppress(QuotaExceeded):
                await step.sleep(f"{number} {'x' * 240}", 1)

    async with Engine(path, clock=clock) as engine:
        workflow = engine.workflow("w", Told, env=body, limits=WorkflowLimits(bytes_per_scope=100_000))
        first = await workflow.create()
        await clock.advance(3_600)
        with pytest.raises(InstanceFailed, match="QuotaExceeded"):
            await first.result()
        other = await workflow.create(scope="b", params="x" * 60_000)
        with pytest.raises(QuotaExceeded):
            await other.fork()
    with contextlib.closing(sqlite3.connect(path)) as database:
        query = "SELECT sum(length(name) + coalesce(length(value), 0) + coalesce(length(error), 0)) FROM steps"
        assert database.execute(query).fetchone()[0] < 180_000


async def a_crowd(path: Path, clock: VirtualClock) -> None:
    """So many instances of a scope wait for their turn, and no more; other scopes never notice."""

    async def body(event: Any, step: Any) -> None:
        await step.do("work", lambda: clock.sleep(60))

    async with Engine(path, clock=clock) as engine:
        workflow = engine.workflow("w", Told, env=body, concurrency=1, limits=WorkflowLimits(queued_per_scope=5))
        await workflow.create(scope="a")
        await workflow.create_batch([{}] * 5, scope="a")
        with pytest.raises(QueueFull):
            await workflow.create(scope="a")
        await workflow.create_batch([{}] * 5, scope="b")
        await clock.advance(130)
        await workflow.create(scope="a")


async def another_scope(path: Path, clock: VirtualClock) -> None:
    """What is somebody else's is not there."""

    async def body(event: Any, step: Any) -> None:
        await step.sleep("night", "8 hours")

    async with Engine(path, clock=clock) as engine:
        workflow = engine.workflow("w", Told, env=body)
        await workflow.create(id="i", scope="a")
        with pytest.raises(InstanceNotFound):
            await workflow.get("i", scope="b")
        assert not (await workflow.list(scope="b")).instances


def rewriting(old: str, new: str) -> Wrong:
    """An engine one of whose statements says something else."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        met: list[str] = []

        def patched(make: Callable[..., None], attribute: str) -> Callable[..., None]:
            def init(self: Any, connection: sqlite3.Connection, *rest: Any) -> None:
                make(self, connection, *rest)
                execute = connection.execute

                def rewritten(sql: str, *more: Any) -> Any:
                    met.extend([sql] * (old in sql))
                    return execute(sql.replace(old, new), *more)

                setattr(self, attribute, rewritten)

            return init

        monkeypatch.setattr(Store, "__init__", patched(Store.__init__, "run"))
        monkeypatch.setattr(Catalogue, "__init__", patched(Catalogue.__init__, "_execute"))
        patch.met = met  # type: ignore[attr-defined]

    return patch


def setting(where: Any, name: str, value: Any) -> Wrong:
    """An engine one of whose parts is another."""
    return lambda monkeypatch: monkeypatch.setattr(where, name, value)


class Forgetful(set[Any]):
    """Nothing is in it for long."""

    def add(self, element: Any) -> None: ...


def locks_that_hold_nobody_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """That beside the database, that in it, and what an engine knows of the others of its process."""
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    monkeypatch.setattr(fcntl, "fcntl", lambda *_: 0)
    monkeypatch.setattr(ownership, "_ownerships", Forgetful())


STORIES: dict[Story, dict[str, Wrong]] = {
    a_host_that_dies_anywhere: {"what a dead host ran is left alone": nobody_is_recovered},
    attempts_and_losses: {
        "one retry too many": one_retry_too_many,
        "losses that count as attempts": losses_that_are_attempts,
    },
    a_race_for_an_id: {
        "the last one to create wins": rewriting(
            "?, ?) ON CONFLICT DO NOTHING", "?, ?) ON CONFLICT DO UPDATE SET params = excluded.params"
        ),
    },
    an_event_at_the_last_moment: {
        "a timeout that beats an event": rewriting(
            "WHERE instance = ? AND kind = 'wait' AND name = ? AND count = ? AND state = 'waiting'",
            "WHERE instance = ? AND kind = 'wait' AND name = ? AND count = ?",
        ),
    },
    a_late_end: {"an end after the end": rewriting("WHERE number = ? AND ended IS NULL", "WHERE number = ?")},
    two_hosts: {"locks that hold nobody off": locks_that_hold_nobody_off},
    a_poison_pill: {"losses without end": setting(queue, "restart_delay", lambda losses: 1_000)},
    a_long_queue: {"slots in alphabetical order": setting(queue, "share", first_come)},
    a_hoarder: {
        "events without bound": rewriting("SELECT count(*) FROM (SELECT 1 FROM events", "SELECT 0 * count(*) FROM"
                                          " (SELECT 1 FROM events"),
        "a quota that is not looked at": setting(usage, "check", lambda *_, **__: None),
    },
    a_hoarder_by_other_ways: {
        "copies that nobody counts": setting(usage, "check_copy", lambda *_: None),
        "failures and sleeps without bound": setting(usage, "check_step", lambda *_: None),
    },
    a_crowd: {
        "a queue without bound": setting(backlog.Backlog, "check", lambda *_: None),
        "a queue that counts those who have begun": setting(instances, "never_ran", lambda *_: False),
    },
    another_scope: {"scopes that are not looked at": rewriting("AND scope = ? AND id = ?", "AND ? != '' AND id = ?")},
}  # fmt: skip
WRONG = {name: (story, wrong) for story, engines in STORIES.items() for name, wrong in engines.items()}


@pytest.fixture(autouse=True)
def few_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MAX_EVENTS", FEW_EVENTS)


@pytest.mark.usefixtures("hands")
@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
async def test_a_promise_is_kept(story: Story, path: Path, clock: VirtualClock) -> None:
    """By the engine as it is."""
    await story(path, clock)


@pytest.mark.parametrize("wrong", WRONG)
async def test_an_engine_that_breaks_it_is_found_out(
    wrong: str, path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the story of that promise."""
    story, patch = WRONG[wrong]
    patch(monkeypatch)
    try:
        async with asyncio.timeout(60):
            await story(path, clock)
    except (TypeError, AttributeError, NameError):  # it is not the engine that is wrong, but what makes it so
        raise
    except (Exception, pytest.fail.Exception) as caught:  # noqa: BLE001 - whatever it is found out by
        print(f"{type(caught).__name__}: {caught}")
    else:
        pytest.fail(f"{story.__name__} does not tell an engine with {wrong} from the right one")
    assert getattr(patch, "met", [""]), "the statement that was to be rewritten is not there any longer"
