"""What one tenant may leave behind: bytes of a scope, events of an instance. Beyond that it is told what to do."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from cloister.engine import (
    Engine,
    EventBufferFull,
    InstanceFailed,
    InstanceFinished,
    InstanceNotFound,
    NonRetryableError,
    Outcome,
    QuotaExceeded,
    Schedule,
    StepFailed,
    StorageError,
    WaitTimeout,
    WorkflowEntrypoint,
    WorkflowLimits,
)
from cloister.engine.store import events
from cloister.engine.store.store import Store
from cloister.engine.store.usage import _INSTANCE, _ROWS

if TYPE_CHECKING:
    from cloister.engine.testing import VirtualClock

OpenEngine = Callable[..., Engine]
KIB = 1024


class Hoarder(WorkflowEntrypoint):
    """Does what its params say: ["keep", bytes], ["stream", bytes], ["wait"], ["sleep"]."""

    async def run(self, event: Any, step: Any) -> Any:
        said: list[Any] = []
        for what, *more in event.payload.get("do", ()):
            try:
                said.append(await self._do(step, what, more))
            except Exception as error:  # noqa: BLE001 - whatever it is, it is told
                said.append(getattr(error, "name", type(error).__name__))
        return said

    async def _do(self, step: Any, what: str, more: list[int]) -> Any:
        if what == "wait":
            return len((await step.wait_for_event("w", type="t")).payload)
        if what == "sleep":
            return await step.sleep("s", "1 day")

        def body() -> Any:
            return (b"x" * (64 * KIB) for _ in range(more[0] // (64 * KIB))) if what == "stream" else "x" * more[0]

        kept = await step.do(what, {"retries": {"limit": 3, "delay": 0}}, body)
        return len(kept) if what == "keep" else kept.size


def counted(engine: Engine) -> dict[str, int]:
    """What the triggers have counted, by scope."""
    writer = engine._writer
    assert writer is not None
    assert writer._store is not None
    return dict(writer._store.execute("SELECT scope, bytes FROM usage WHERE bytes").fetchall())


def counted_anew(engine: Engine) -> dict[str, int]:
    """What is counted by looking at every row."""
    writer = engine._writer
    assert writer is not None
    assert writer._store is not None
    found: dict[str, int] = {}
    queries = [f"SELECT scope, {_INSTANCE.format('instances')} FROM instances"]
    queries += [
        f"SELECT i.scope, {bulk.format(table)} FROM {table} JOIN instances AS i ON i.number = {table}.instance"
        for table, bulk in _ROWS.items()
    ]
    for query in queries:
        for scope, size in writer._store.execute(query).fetchall():
            found[scope] = found.get(scope, 0) + size
    return found


def quota(most: int) -> WorkflowLimits:
    return WorkflowLimits(bytes_per_scope=most)


async def test_a_scope_that_stores_as_much_as_it_may_creates_nothing_more(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """It is told what to do, does it, and goes on; others never notice."""
    async with open_engine() as engine:
        workflow = engine.workflow("w", Hoarder, limits=quota(100 * KIB))
        for number in range(9):
            await (await workflow.create(id=f"i{number}", params={"x": "x" * 10 * KIB}, scope="a")).result()
        with pytest.raises(QuotaExceeded, match=r"'a' stores .* of the 102,400 .*delete instances"):
            await workflow.create(params={"x": "x" * 10 * KIB}, scope="a")
        with pytest.raises(QuotaExceeded):
            await workflow.create_batch([{"params": {"x": "x" * 4 * KIB}}] * 3, scope="a")
        with pytest.raises(QuotaExceeded):
            await engine.transact(lambda t: t.create(workflow, {"params": {"x": "x" * 10 * KIB}}, scope="a"))
        await workflow.create(params={"x": "x" * 10 * KIB}, scope="b")
        await (await workflow.get("i0", scope="a")).delete()
        await workflow.create(params={"x": "x" * 10 * KIB}, scope="a")


async def test_what_is_refused_takes_no_room_of_its_instance(open_engine: OpenEngine) -> None:
    """However often it is tried: an instance may have so many bytes of results, not of attempts at them."""

    class Asking(WorkflowEntrypoint):
        async def run(self, event: Any, step: Any) -> int:
            journal, told = step.journal, asyncio.get_running_loop().create_future()
            assert journal.record_result("at once", 1, b"x" * 60 * KIB, None, told.set_result)
            assert isinstance(await told, QuotaExceeded)
            with pytest.raises(QuotaExceeded):
                await journal.settle(Outcome("in a task", 1, 1, value=b"x" * 60 * KIB))
            await journal.settle(Outcome("small", 1, 1, value=b"x" * 60))
            return int(journal._room._stored)

    async with open_engine() as engine:
        instance = await engine.workflow("w", Asking, limits=quota(50 * KIB)).create(scope="a")
        assert await instance.result() == 60


async def test_a_step_whose_result_is_too_much_fails_and_what_is_left_of_it_goes(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """Once, whatever its retries; the workflow may catch it, go on and end, and a replay sees the same."""
    work = [["keep", 60 * KIB], ["keep", 60 * KIB], ["stream", 256 * KIB], ["sleep"], ["keep", 10 * KIB]]
    async with open_engine() as engine:
        workflow = engine.workflow("w", Hoarder, limits=quota(100 * KIB))
        instance = await workflow.create(params={"do": work}, scope="a")
        await clock.advance(90_000)
        refused = "QuotaExceeded"
        assert await instance.result() == [60 * KIB, refused, refused, None, 10 * KIB]
        attempts = [step["attempts"] for step in (await instance.status())["steps"] if step["kind"] == "do"]
        assert attempts == [1, 1, 1, 1]
        assert counted(engine) == counted_anew(engine)


class Failing(WorkflowEntrypoint):
    """Fails often and at length, or gives signs of life with much to say, and goes on when one is refused."""

    async def run(self, event: Any, step: Any) -> Any:
        async def fail() -> None:
            raise ValueError("x" * 8_000)

        async def beat(ctx: Any) -> str:
            for _ in range(2):
                with contextlib.suppress(QuotaExceeded):
                    await ctx.heartbeat("x" * 15 * KIB)
            return "done"

        if event.payload["beat"]:
            return [await step.do(f"beat {number}", beat) for number in range(20)]
        return await step.do("fail", {"retries": {"limit": 1_000, "delay": 0, "backoff": "constant"}}, fail)


async def test_attempts_that_fail_and_signs_of_life_are_bounded_as_results_are(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """Errors and what heartbeats say are stored as well."""
    async with open_engine() as engine:
        workflow = engine.workflow("w", Failing, limits=quota(100 * KIB))
        failing = await workflow.create(params={"beat": False}, scope="a")
        await clock.advance(60)
        with pytest.raises(InstanceFailed, match="QuotaExceeded"):
            await failing.result()
        beating = await workflow.create(params={"beat": True}, scope="b")
        await clock.advance(60)
        assert await beating.result() == ["done"] * 20
        assert max(counted(engine).values()) <= 120 * KIB


async def test_what_an_operator_adds_is_bounded_as_well(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """A copy, and an outcome that replaces another one: what does not fit changes nothing."""
    work = [["keep", 40 * KIB], ["stream", 64 * KIB], ["sleep"], ["wait"]]
    async with open_engine() as engine:
        workflow = engine.workflow("w", Hoarder, limits=quota(240 * KIB))
        instance = await workflow.create(params={"do": work}, scope="a")
        await clock.advance(1)
        before = await instance.fork(id="second", from_step="stream")
        await clock.run_until_idle()  # it stores as much as the first
        assert [step["name"] for step in (await before.status())["steps"]][:1] == ["keep"]
        with pytest.raises(QuotaExceeded):
            await instance.fork(id="third")
        with pytest.raises(QuotaExceeded):
            await instance.override("keep", result="x" * 90 * KIB, author="Ann", reason="why not")
        with pytest.raises(InstanceNotFound):
            await workflow.get("third", scope="a")
        assert await instance.interventions() == []
        assert len(await instance.step_result("keep")) == 40 * KIB
        await instance.override("keep", result="short", author="Ann", reason="to make room")
        await clock.run_until_idle()  # both run meanwhile
        assert counted(engine) == counted_anew(engine)


class Endless(WorkflowEntrypoint):
    """Fails for good at length, sleeps, waits and begins others, and takes no refusal for an answer."""

    async def run(self, event: Any, step: Any) -> list[str]:
        what, said = event.payload["what"], []

        def fail() -> None:
            raise NonRetryableError("x" * 8_000)

        for number in range(event.payload["times"]):
            name = f"{what} {number} {'y' * 200}"
            try:
                match what:
                    case "fail":
                        await step.do(name, fail)
                    case "sleep":
                        await step.sleep(name, 1)
                    case "wait":
                        await step.wait_for_event(name, type="t", timeout=1_000)
                    case "child":
                        await step.child(name, self.env[0], params={"what": "fail", "times": 0})
            except (NonRetryableError, QuotaExceeded, StepFailed, WaitTimeout) as error:
                said.append(getattr(error, "name", type(error).__name__))
        return said[-1:]


@pytest.mark.parametrize("what", ["fail", "sleep", "wait", "child"])
async def test_a_run_that_takes_no_refusal_for_an_answer_stores_a_bounded_amount(
    open_engine: OpenEngine, clock: VirtualClock, what: str
) -> None:
    """An eighth more than the quota, for what has to be on record. The run that wants more ends with that."""
    async with open_engine() as engine:
        env: list[Any] = []
        workflow = engine.workflow("w", Endless, limits=quota(100 * KIB), env=env)
        env.append(workflow)
        instance = await workflow.create(params={"what": what, "times": 700}, scope="")
        await clock.advance(3_600)
        with pytest.raises(InstanceFailed, match=r"^QuotaExceeded: "):
            await instance.result()
        assert max(counted(engine).values()) <= (100 + 13 + 2 * 64 + 20) * KIB
        assert counted(engine) == counted_anew(engine)


async def test_a_failure_that_is_too_much_is_on_record_in_short(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """By its own name, the same in the run that saw it and in every later one."""
    seen: list[str] = []

    class Verbose(WorkflowEntrypoint):
        async def run(self, event: Any, step: Any) -> None:
            def fail() -> None:
                raise LookupError("x" * 8_000)

            for number in range(40):
                try:
                    await step.do(f"fail {number}", {"retries": {"limit": 0, "delay": 0}}, fail)
                except LookupError as error:
                    seen.append(str(error))
            await step.sleep("night", "8 hours")

    async with open_engine() as engine:
        instance = await engine.workflow("w", Verbose, limits=quota(100 * KIB)).create(scope="a")
        await clock.advance(9 * 3_600)
        await instance.result()
    assert seen[:40] == seen[40:]
    assert {len(message) for message in seen} == {256, 8_000}


async def test_an_event_that_is_too_much_is_refused_to_whoever_sends_it(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """A repeat of one that was taken is not, and what is there can still be waited for."""
    async with open_engine() as engine:
        workflow = engine.workflow("w", Hoarder, limits=quota(100 * KIB))
        instance = await workflow.create(params={"do": [["sleep"], ["wait"], ["wait"]]}, scope="a")
        for number in range(2):
            await instance.send_event(type="t", payload="x" * 45 * KIB, id=f"e{number}")
        with pytest.raises(QuotaExceeded):
            await instance.send_event(type="t", payload="x" * 45 * KIB, id="e2")
        await instance.send_event(type="t", payload="x" * 45 * KIB, id="e1")
        await clock.advance(90_000)
        assert await instance.result() == [None, 45 * KIB, 45 * KIB]


async def test_what_is_counted_is_what_is_there_whatever_happens(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """Creates, steps, events, restarts, forks, deletes, ends, failed commits and a new host, in any order."""
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    works = [[["keep", 5 * KIB]], [["sleep"], ["keep", KIB]], [["wait"]], [["stream", 128 * KIB]], [["keep", KIB]] * 3]
    names: list[tuple[str, str]] = []
    for _ in range(3):
        async with open_engine() as engine:
            workflow = engine.workflow("w", Hoarder, limits=quota(1024**3), retention="2 days")
            for _ in range(40):
                what = chance.choice(["create", "create", "send", "restart", "delete", "fork", "terminate", "wait"])
                if what == "create" or not names:
                    scope = chance.choice("abc")
                    labels = {"colour": chance.choice(["red", "blue"])}
                    made = await workflow.create(params={"do": chance.choice(works)}, scope=scope, labels=labels)
                    names.append((made.id, scope))
                    continue
                name, scope = chance.choice(names)
                with contextlib.suppress(InstanceNotFound, InstanceFinished):
                    instance = await workflow.get(name, scope=scope)
                    if what == "send":
                        await instance.send_event(type="t", payload="x" * 500, id=str(chance.randrange(5)))
                    elif what == "fork":
                        names.append(((await instance.fork()).id, scope))
                    elif what == "wait":
                        await clock.advance(chance.choice([1, 90_000]))
                    else:
                        await getattr(instance, what)()
                await clock.run_until_idle()
                assert counted(engine) == counted_anew(engine)


async def test_a_quota_holds_after_the_file_was_opened_anew(
    open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the next host, and after a commit that failed."""
    async with open_engine() as engine:
        workflow = engine.workflow("w", Hoarder, limits=quota(100 * KIB))
        await (await workflow.create(params={"x": "x" * 90 * KIB}, scope="a")).result()
    async with open_engine() as engine:
        workflow = engine.workflow("w", Hoarder, limits=quota(100 * KIB))
        await workflow.create(scope="b")
        with pytest.raises(QuotaExceeded):
            await workflow.create(params={"x": "x" * 10 * KIB}, scope="a")
        with monkeypatch.context() as broken:
            broken.setattr(Store, "commit", lambda self: 1 / 0)
            with pytest.raises(StorageError):
                await workflow.create(scope="b")
        with pytest.raises(QuotaExceeded):
            await workflow.create(params={"x": "x" * 10 * KIB}, scope="a")


async def test_a_schedule_of_a_full_scope_does_not_fire(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """It is in the log, and the others fire."""
    async with open_engine() as engine:
        schedules = [Schedule("0 * * * *", scope=scope, params={"x": "x" * 5 * KIB}) for scope in "ab"]
        workflow = engine.workflow("w", Hoarder, limits=quota(100 * KIB), schedules=schedules)
        await (await workflow.create(params={"x": "x" * 98 * KIB}, scope="a")).result()
        await clock.advance(3 * 3600)
        assert len((await workflow.list(scope="a")).instances) == 1
        assert len((await workflow.list(scope="b")).instances) == 3


async def test_an_instance_buffers_so_many_events_and_no_more(
    open_engine: OpenEngine, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever sends one more is told; those that are there come in order, and then there is room again."""
    monkeypatch.setattr(events, "MAX_EVENTS", 20)
    async with open_engine() as engine:
        workflow = engine.workflow("w", Hoarder)
        instance = await workflow.create(params={"do": [["sleep"], *[["wait"]] * 21]})
        await asyncio.gather(*(instance.send_event(type="t", payload="x" * n, id=f"e{n}") for n in range(20)))
        with pytest.raises(EventBufferFull, match="20 events that nobody has waited for"):
            await instance.send_event(type="t", payload="", id="one more")
        await instance.send_event(type="t", payload="", id="e3")
        await clock.advance(90_000)
        await instance.send_event(type="t", payload="x" * 99, id="one more")
        assert await instance.result() == [None, *range(20), 99]


async def test_an_output_is_stored_even_if_it_is_too_much(open_engine: OpenEngine) -> None:
    """What has come to its end has ended."""

    class Large(WorkflowEntrypoint):
        async def run(self, event: Any, step: Any) -> str:
            return "x" * 200 * KIB

    async with open_engine() as engine:
        workflow = engine.workflow("w", Large, limits=quota(100 * KIB))
        assert len(await (await workflow.create(scope="a")).result()) == 200 * KIB
        with pytest.raises(QuotaExceeded):
            await workflow.create(scope="a")


async def test_a_workflow_that_does_not_catch_it_ends_with_it(open_engine: OpenEngine) -> None:
    """By name."""

    class Careless(WorkflowEntrypoint):
        async def run(self, event: Any, step: Any) -> None:
            await step.do("large", lambda: "x" * 200 * KIB)

    async with open_engine() as engine:
        instance = await engine.workflow("w", Careless, limits=quota(100 * KIB)).create(scope="a")
        with pytest.raises(InstanceFailed, match="QuotaExceeded"):
            await instance.result()


async def test_a_workflow_that_is_registered_while_another_one_is_counted_disturbs_nobody(
    open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counting takes its time, in a thread, and the loop goes on."""
    limits = WorkflowLimits(bytes_per_scope=KIB)
    async with open_engine() as engine:
        known_key = Store.known_key

        def slow(store: Store, workflow: str) -> int | None:
            if workflow == "first":
                store.quotas["second"] = KIB  # as the loop does
            return known_key(store, workflow)

        monkeypatch.setattr(Store, "known_key", slow)
        unlimited = engine.workflow("unlimited", Hoarder)
        engine.workflow("first", Hoarder, limits=limits)
        await unlimited.create(id="neighbour")
