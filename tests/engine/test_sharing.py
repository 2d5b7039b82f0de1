"""Slots and rates between scopes: nobody starves, weights count, limits hold, and refusals say when to come again."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.engine import (
    CreationRateExceeded,
    Engine,
    InstanceFinished,
    InstanceNotFound,
    QueueFull,
    WorkflowEntrypoint,
    WorkflowLimits,
)
from cloister.engine.sharing import Shares, Turn, share
from cloister.engine.store.backlog import Bounds

if TYPE_CHECKING:
    from cloister.engine.testing import VirtualClock

OpenEngine = Callable[..., Engine]


class Job(WorkflowEntrypoint):
    """Works for a minute; the env is the clock, and notes who began."""

    async def run(self, event: Any, step: Any) -> None:
        clock, log = self.env
        log.append(self.ctx.scope)
        await step.do("work", lambda: clock.sleep(60))


class Napper(WorkflowEntrypoint):
    """Sleeps, then works for a minute."""

    async def run(self, event: Any, step: Any) -> None:
        clock, log = self.env
        await step.sleep("nap", "1 hour")
        log.append(self.ctx.scope)
        await step.do("work", lambda: clock.sleep(60))


async def fill(workflow: Any, scope: str, count: int) -> None:
    for start in range(0, count, 100):
        await workflow.create_batch([{}] * min(100, count - start), scope=scope)


# The rule


@settings(deadline=None)
@given(
    slots=st.integers(0, 40),
    queued=st.dictionaries(st.text(max_size=2), st.integers(0, 12), max_size=8),
    busy=st.dictionaries(st.text(max_size=2), st.integers(0, 6), max_size=8),
    limit=st.none() | st.integers(1, 6),
)
def test_sharing_gives_all_it_can_and_most_to_who_has_least(
    slots: int, queued: dict[str, int], busy: dict[str, int], limit: int | None
) -> None:
    """No slot stays empty that somebody could have; nobody beyond the limit; and who could have had one more has not
    fewer than another that got one, but for the one.
    """
    left = Counter(queued)

    def next_of(scope: str) -> str | None:
        if not left[scope]:
            return None
        left[scope] -= 1
        return scope

    turn = Turn(slots, busy, WorkflowLimits(concurrency_per_scope=limit))
    shares = share(turn, list(queued), next_of)
    got = Counter(shares.given)
    room = {s: n if limit is None else max(0, min(n, limit - busy.get(s, 0))) for s, n in queued.items()}
    assert len(shares.given) == min(slots, sum(room.values()))
    assert shares.more == (sum(room.values()) > slots)
    if not shares.more:
        assert set(shares.held) == {scope for scope, count in queued.items() if count > room[scope]}
    for scope, count in got.items():
        assert count <= room[scope]
        for other in queued:
            if got[other] < room[other]:
                assert busy.get(scope, 0) + count <= busy.get(other, 0) + got[other] + 1


def test_the_last_slot_of_a_turn_is_where_the_next_turn_goes_on() -> None:
    """The scope that got it is told; with nothing given the place stays."""
    turn = Turn(2, {}, WorkflowLimits(), "z")
    assert share(turn, ["a", "b", "c"], lambda scope: scope) == Shares(["a", "b"], "b", True, [])
    assert share(turn, [], lambda scope: scope) == Shares([], "z", False, [])


# Slots


async def test_who_has_thousands_queued_starves_nobody(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """The others get the next slots that come free, however long the queue before them is."""
    log: list[str] = []
    async with open_engine() as engine:
        workflow = engine.workflow("w", Job, concurrency=4, env=(clock, log))
        await fill(workflow, "greedy", 2_000)
        await clock.advance(1)
        for number in range(8):
            await workflow.create(scope=f"modest {number}")
        await clock.advance(240)
        assert {scope for scope in log if scope != "greedy"} == {f"modest {number}" for number in range(8)}
        assert Counter(log)["greedy"] >= 6, "and the greedy one gets its share"


async def test_every_scope_has_its_turn_however_many_there_are(
    open_engine: OpenEngine, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also more than are looked at together: one round gives one slot to each, the nameless scope included."""
    monkeypatch.setattr("cloister.engine.store.queue.SCOPE_CHUNK", 4)
    log: list[str] = []
    async with open_engine() as engine:
        workflow = engine.workflow("w", Job, concurrency=3, env=(clock, log))
        await fill(workflow, "blocker", 3)
        await clock.advance(1)
        scopes = ["", *(f"s{number}" for number in range(20))]
        for scope in scopes:
            await fill(workflow, scope, 5)
        log.clear()
        await clock.advance(7 * 60)
        assert sorted(log) == sorted(scopes)


async def test_the_waking_of_one_tenant_does_not_hold_up_anothers(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """Hundreds that are due at once, and one of somebody else's."""
    log: list[str] = []
    async with open_engine() as engine:
        workflow = engine.workflow("w", Napper, concurrency=10, env=(clock, log))
        await fill(workflow, "many", 300)
        await clock.advance(600)
        await workflow.create(scope="one")
        await clock.advance(3600 - 600)
        log.clear()
        await clock.advance(600)
        await clock.advance(120)
        assert "one" in log


async def test_of_one_scope_those_that_ran_before_come_first(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """What wakes up goes on before anything new begins."""
    log: list[str] = []

    class Two(WorkflowEntrypoint):
        async def run(self, event: Any, step: Any) -> None:
            if event.payload == "sleeper":
                await step.sleep("nap", "90 seconds")
            log.append(event.payload)
            await step.do("work", lambda: clock.sleep(60))

    async with open_engine() as engine:
        workflow = engine.workflow("w", Two, concurrency=1)
        await workflow.create(params="sleeper")
        await clock.advance(1)
        for number in range(5):
            await workflow.create(params=f"new {number}")
        await clock.advance(400)
        assert log[:4] == ["new 0", "new 1", "sleeper", "new 2"]


async def test_weights_share_out_the_slots(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """Three to one, and as soon as they are changed, otherwise."""
    weights: dict[str, float] = {"heavy": 3}
    log: list[str] = []
    async with open_engine() as engine:
        limits = WorkflowLimits(weights=weights)
        workflow = engine.workflow("w", Job, concurrency=8, limits=limits, env=(clock, log))
        await fill(workflow, "blocker", 8)
        await clock.advance(1)
        await fill(workflow, "heavy", 200)
        await fill(workflow, "light", 200)
        log.clear()
        await clock.advance(60)
        assert Counter(log) == {"heavy": 6, "light": 2}
        weights["light"], weights["heavy"] = 3, 1
        log.clear()
        await clock.advance(120)
        assert Counter(log)["light"] > 2 * Counter(log)["heavy"]


async def test_a_scope_runs_no_more_than_it_may_and_stands_in_nobodys_way(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """The excess queues, is never refused, and others start at once although it queues."""
    log: list[str] = []
    async with open_engine() as engine:
        limits = WorkflowLimits(concurrency_per_scope=2)
        workflow = engine.workflow("w", Job, concurrency=10, limits=limits, env=(clock, log))
        created = [await workflow.create(scope="a") for _ in range(5)]
        await clock.advance(1)
        assert [(await one.status())["status"] for one in created] == ["running"] * 2 + ["queued"] * 3
        assert engine._schedulers["w"].admits("b")
        assert not engine._schedulers["w"].admits("a")
        await workflow.create(scope="b")
        await clock.run_until_idle()
        assert Counter(log) == {"a": 2, "b": 1}
        await clock.advance(60)
        assert Counter(log) == {"a": 4, "b": 1}
        await clock.advance(120)
        assert [(await one.status())["status"] for one in created] == ["complete"] * 5
        slots = engine._schedulers["w"].slots
        assert (slots.busy, slots.held, slots.reserved) == ({}, set(), 0)


async def test_limits_hold_over_a_restart_of_the_host_and_for_batches(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """What another host left running or queued is counted like anything else."""
    log: list[str] = []
    options: dict[str, Any] = {"limits": WorkflowLimits(concurrency_per_scope=3), "env": (clock, log)}
    async with open_engine() as engine:
        await fill(engine.workflow("w", Job, **options), "a", 50)
        await clock.advance(1)
        assert log == ["a"] * 3
    log.clear()
    async with open_engine() as engine:
        workflow = engine.workflow("w", Job, **options)
        await clock.advance(1)
        await workflow.create(scope="a")
        await clock.advance(30)
        assert log == ["a"] * 3
        assert len((await workflow.list(status="running")).instances) == 3


async def test_a_thousand_runs_in_a_random_order_never_break_a_limit(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """Creates, pauses, terminations, deletions and restarts among them, with slots that come and go."""
    alive: Counter[str] = Counter()
    most: Counter[str] = Counter()

    class Busy(WorkflowEntrypoint):
        async def run(self, event: Any, step: Any) -> None:
            alive[self.ctx.scope] += 1
            most[self.ctx.scope] = max(most[self.ctx.scope], alive[self.ctx.scope])
            try:
                await step.do("work", lambda: clock.sleep(event.payload))
            finally:
                alive[self.ctx.scope] -= 1

    async with open_engine() as engine:
        workflow = engine.workflow("w", Busy, concurrency=7, limits=WorkflowLimits(concurrency_per_scope=2))
        for number in range(300):
            scope = f"s{number % 5}"
            instance = await workflow.create(params=number % 11, scope=scope)
            match number % 10:
                case 3:
                    await instance.terminate()
                case 5:
                    await instance.delete()
                case 7:
                    await instance.restart()
            if number % 4 == 0:
                await clock.advance(1)
        await clock.advance(4000)
        assert max(most.values()) <= 2
        assert engine.statistics().running == 0
        left = (await workflow.list(limit=1000)).instances
        assert {summary.status.value for summary in left} == {"complete", "terminated"}


async def test_short_runs_of_scopes_at_their_limit_all_run(open_engine: OpenEngine) -> None:
    """Slots that come free while the queue is being asked are not forgotten, in whatever order it happens."""

    class Short(WorkflowEntrypoint):
        async def run(self, event: Any, step: Any) -> None:
            await asyncio.sleep(0)

    async with open_engine() as engine:
        limits = WorkflowLimits(concurrency_per_scope=1)
        workflow = engine.workflow("w", Short, concurrency=3, limits=limits)
        made = await asyncio.gather(*(workflow.create_batch([{}] * 60, scope=f"s{number}") for number in range(6)))
        async with asyncio.timeout(100):
            await asyncio.gather(*(instance.result() for batch in made for instance in batch))


# Rates


async def test_who_creates_too_fast_is_told_when_to_come_again(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """Its own scope only; what it says is enough and not more than needed; nothing was created."""
    async with open_engine() as engine:
        limits = WorkflowLimits(creates_per_second=10, creates_at_once=20)
        workflow = engine.workflow("w", Napper, limits=limits, env=(clock, []))
        await workflow.create_batch([{}] * 15, scope="a")
        instance = await workflow.create(scope="a", id="x")
        with pytest.raises(CreationRateExceeded, match=r"try again in 600 ms") as caught:
            await workflow.create_batch([{}] * 10, scope="a")
        assert caught.value.retry_after_ms == 600
        await workflow.create_batch([{}] * 20, scope="b")
        await clock.advance(0.599)
        with pytest.raises(CreationRateExceeded):
            await workflow.create_batch([{}] * 10, scope="a")
        await clock.advance(0.001)
        await workflow.create_batch([{}] * 10, scope="a")
        with pytest.raises(CreationRateExceeded, match="100 ms"):
            await instance.restart()
        with pytest.raises(CreationRateExceeded, match="ever") as never:
            await workflow.create_batch([{}] * 21, scope="c")
        assert never.value.retry_after_ms is None
        assert len((await workflow.list(scope="a")).instances) == 26


async def test_a_clock_set_back_gives_nobody_more_and_takes_nothing_for_good(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """The rate goes by the time that passes."""
    async with open_engine() as engine:
        limits = WorkflowLimits(creates_per_second=1, creates_at_once=1)
        workflow = engine.workflow("w", Napper, limits=limits, env=(clock, []))
        await workflow.create()
        clock.set_wall(-3600)
        with pytest.raises(CreationRateExceeded):
            await workflow.create()
        await clock.advance(1)
        await asyncio.wait_for(workflow.create(), 100)


async def test_bulk_restarts_keep_to_the_rate(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """They wait for their turn instead of failing in the middle."""
    async with open_engine() as engine:
        limits = WorkflowLimits(creates_per_second=10, creates_at_once=10)
        workflow = engine.workflow("w", Napper, limits=limits, env=(clock, []))
        await workflow.create_batch([{}] * 10)
        await clock.advance(1)
        restarting = asyncio.create_task(workflow.bulk("restart"))
        await clock.advance(60)
        assert await restarting == {"done": 10, "skipped": 0}


@pytest.mark.parametrize(
    "limits",
    [{"concurrency_per_scope": 0}, {"concurrency_per_scope": 1.5}, {"creates_per_second": 0}, {"creates_at_once": -1},
     {"queued": 0}, {"queued_per_scope": "many"}, {"creates_per_second": "1"}, {"creates_per_second": True},
     {"weights": 3}],
)  # fmt: skip
def test_limits_that_make_no_sense_are_refused(limits: dict[str, Any]) -> None:
    """When they are written, not when they are first needed."""
    with pytest.raises((ValueError, TypeError)):
        WorkflowLimits(**limits)


# Queues

QUEUED = (
    "SELECT scope, count(*) FROM instances WHERE workflow = ? AND status = 'queued' AND started IS NULL GROUP BY scope"
)


async def test_a_queue_that_is_full_takes_nobody_until_somebody_has_begun(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """By scope and in all, whichever way an instance is created; whoever is refused is told what to do."""
    async with open_engine() as engine:
        limits = WorkflowLimits(queued_per_scope=10, queued=14)
        workflow = engine.workflow("w", Job, concurrency=1, limits=limits, env=(clock, []))
        await workflow.create(scope="a")
        await workflow.create_batch([{"id": f"a{number}"} for number in range(10)], scope="a")
        with pytest.raises(QueueFull, match=r"'a' has 10 instances queued of the 10 .*queued_per_scope"):
            await workflow.create(scope="a")
        with pytest.raises(QueueFull):
            await engine.transact(lambda t: t.create(workflow, scope="a"))
        await workflow.create_batch([{}] * 4, scope="b")
        with pytest.raises(QueueFull, match="all scopes together"):
            await workflow.create(scope="b")
        await (await workflow.get("a0", scope="a")).delete()
        await workflow.create(scope="b")
        await (await workflow.get("a1", scope="a")).terminate()
        held = await workflow.get("a2", scope="a")
        await held.pause()
        await workflow.create_batch([{}] * 2, scope="a")
        await held.resume()  # it was let in before
        with pytest.raises(QueueFull):
            await workflow.create(scope="a")
        assert len((await workflow.list(limit=100)).instances) == 17
        await clock.advance(100_000)
        await workflow.create_batch([{}] * 10, scope="c")


async def test_what_is_queued_is_counted_right_whatever_happens(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """Creates, pauses, restarts, forks, ends, refused transactions, failed commits and a new host, in any order."""
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    actions = ["create", "batch", "pause", "resume", "restart", "fork", "terminate", "delete", "undo", "wait", "fail"]
    names: list[tuple[str, str]] = []
    for _ in range(3):
        async with open_engine() as engine:
            workflow = engine.workflow("w", Job, concurrency=2, env=(clock, []))
            for _ in range(60):
                what = chance.choice(actions)
                if what in {"create", "batch"} or not names:
                    scope = chance.choice("ab")
                    made = await workflow.create_batch([{}] * (1 if what == "create" else 3), scope=scope)
                    names += [(each.id, scope) for each in made]
                    continue
                name, scope = chance.choice(names)
                with contextlib.suppress(InstanceNotFound, InstanceFinished, ZeroDivisionError):
                    instance = await workflow.get(name, scope=scope)
                    if what == "wait":
                        await clock.advance(chance.choice([0, 1]))
                    elif what == "fail":
                        await engine.transact(lambda t: [t.create(workflow, scope="a"), 1 / 0])  # noqa: B023
                    elif what == "undo":
                        await instance.terminate(rollback=True)
                    elif what == "fork":
                        names.append(((await instance.fork()).id, scope))
                    else:
                        await getattr(instance, what)()
                await clock.run_until_idle()
                store: Any = engine._open_writer()._store
                known = dict(store.execute(QUEUED, (store.key("w"),)).fetchall())
                store.backlog.check(store.key("w"), "", 0, Bounds(None, None))
                assert store.backlog._totals[store.key("w")] == sum(known.values())
                for one in "ab":  # which is counted once, and known from what is said from then on
                    assert store.backlog._of_scope(store.key("w"), one) == known.get(one, 0)
