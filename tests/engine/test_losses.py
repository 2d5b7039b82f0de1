"""Runs that are lost with their process: nothing of theirs is lost, and a poison pill ends."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from cloister.engine import Engine, InstanceFailed, RunInterrupted, RunPostponed, StorageError, WorkflowEntrypoint
from cloister.engine.store.store import Store

if TYPE_CHECKING:
    from pathlib import Path

    from cloister.engine.testing import VirtualClock

OpenEngine = Callable[..., Engine]


class Fragile(WorkflowEntrypoint):
    """Its env: how many of the next runs are lost, before (`early`) or after its step."""

    async def run(self, event: Any, step: Any) -> str:
        self.env["runs"].append(event.instance_id)
        if self.env["early"]:
            self.env["early"] -= 1
            raise RunInterrupted("killed by SIGKILL")
        for number in range(event.payload):
            before = len(self.env["calls"])
            await step.do("step", lambda number=number: self.env["calls"].append(number))
            if self.env["late"] and len(self.env["calls"]) > before:
                self.env["late"] -= 1
                raise RunInterrupted("out of memory")
        return "whole"


def env(*, early: int = 0, late: int = 0) -> dict[str, Any]:
    return {"early": early, "late": late, "runs": [], "calls": []}


async def test_a_lost_run_restarts_at_once_and_nobody_notices(open_engine: OpenEngine) -> None:
    """One loss takes no time, and no recorded step runs again."""
    async with open_engine() as engine:
        fragile = env(late=1)
        instance = await engine.workflow("w", Fragile, env=fragile).create(params=3)
        assert await instance.result() == "whole"
        assert fragile["calls"] == [0, 1, 2]
        assert engine.statistics().lost == 1


async def test_losses_in_a_row_are_spaced_out(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """The second restart waits 0.2 s, the third twice as long."""
    async with open_engine() as engine:
        fragile = env(early=4)
        instance = await engine.workflow("w", Fragile, env=fragile).create(params=1)
        await clock.advance(0.199)
        assert len(fragile["runs"]) == 2
        await clock.advance(0.001)
        assert len(fragile["runs"]) == 3
        await clock.advance(0.4)
        assert len(fragile["runs"]) == 4
        await clock.advance(10)
        assert await instance.result() == "whole"


async def test_ten_losses_without_progress_end_the_instance(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """A poison pill is errored with `CrashLoop` and the last reason; others are not held up."""
    async with open_engine() as engine:
        fragile = env(early=1000)
        instance = await engine.workflow("w", Fragile, env=fragile).create(params=1)
        await clock.advance(3600)
        with pytest.raises(InstanceFailed, match=r"CrashLoop.*SIGKILL"):
            await instance.result()
        assert len(fragile["runs"]) == 10


async def test_progress_between_losses_forgives_them(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """Thirty losses, each after one more step, are thirty times the first."""
    async with open_engine() as engine:
        fragile = env(late=30)
        instance = await engine.workflow("w", Fragile, env=fragile).create(params=40)
        await clock.advance(1)
        assert await instance.result() == "whole"
        assert fragile["calls"] == list(range(40))


async def test_a_night_slept_through_is_progress(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """Whose every second run is lost right after a sleep goes on for as many nights as there are."""

    class Restless(WorkflowEntrypoint):
        async def run(self, event: Any, step: Any) -> str:
            for night in range(event.payload):
                await step.sleep("night", "8 hours")
                if night not in self.env:
                    self.env.add(night)
                    raise RunInterrupted("killed by SIGKILL")
            return "rested"

    async with open_engine() as engine:
        instance = await engine.workflow("w", Restless, env=set()).create(params=30)
        for _ in range(30):
            await clock.advance(8 * 3600)
        assert await instance.result() == "rested"


async def test_losses_do_not_use_up_the_retries_of_a_step(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """With limit 0 there is one attempt; nine lost ones are none."""
    losses = 9

    class OneTry(WorkflowEntrypoint):
        async def run(self, event: Any, step: Any) -> Any:
            async def body(ctx: Any) -> int:
                return int(ctx.attempt)

            step.journal.started("once", 1, 1)
            nonlocal losses
            if losses:
                losses -= 1
                raise RunInterrupted("killed")
            return await step.do("once", {"retries": {"limit": 0, "delay": 0}}, body)

    async with open_engine() as engine:
        instance = await engine.workflow("w", OneTry).create()
        await clock.advance(120)
        assert await instance.result() == 1


async def test_a_host_that_died_has_lost_what_it_was_running(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """Rows found running at start are counted like any loss, and progress forgives there too."""

    class Stuck(WorkflowEntrypoint):
        async def run(self, event: Any, step: Any) -> None:
            await step.sleep("soon", 10)
            await clock.sleep(10_000)

    async with open_engine() as engine:
        instance = await engine.workflow("w", Stuck).create(id="x")
        await clock.advance(1)
    for death in range(1, 12):
        async with open_engine() as engine:
            instance = await engine.workflow("w", Stuck).get("x")
            await clock.advance(31)
            if death <= 10:
                assert (await instance.status())["status"] == "running"
                # As a host that dies leaves it: the row stays claimed.
                engine._schedulers["w"].active.clear()
    status = None
    async with open_engine() as engine:
        status = await (await engine.workflow("w", Stuck).get("x")).status()
    assert status["error"]["name"] == "CrashLoop"
    assert "host process died" in status["error"]["message"]


async def test_closing_the_engine_is_no_loss(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """An instance outlives any number of orderly restarts, in the middle of a step or not."""

    class Patient(WorkflowEntrypoint):
        async def run(self, event: Any, step: Any) -> str:
            await step.do("long", lambda: clock.sleep(100))
            return "done"

    async with open_engine() as engine:
        await engine.workflow("w", Patient).create(id="x")
    for _ in range(25):
        async with open_engine() as engine:
            instance = await engine.workflow("w", Patient).get("x")
            await clock.advance(1)
            assert (await instance.status())["status"] == "running"
    async with open_engine() as engine:
        instance = await engine.workflow("w", Patient).get("x")
        await clock.advance(101)
        assert await instance.result() == "done"


class Program(WorkflowEntrypoint):
    """A deterministic program over its params: a list of what to do.

    Its env says after which records it is lost.
    """

    async def run(self, event: Any, step: Any) -> list[Any]:
        seen: list[Any] = []
        for kind, number in event.payload:
            match kind:
                case "do":
                    seen.append(await step.do("do", lambda number=number: number * 2))
                case "fail":
                    try:
                        await step.do("fail", {"retries": {"limit": 1, "delay": number}}, self._fail)
                    except ValueError as error:
                        seen.append(str(error))
                case "sleep":
                    await step.sleep("sleep", number)
                case "event":
                    seen.append((await step.wait_for_event("event", type="t")).payload)
            if self.env.random() < 0.01:  # ten in a row would be a poison pill
                raise RunInterrupted("chaos")
        return seen

    def _fail(self) -> None:
        raise ValueError("always")


@pytest.mark.parametrize("story", range(6))
async def test_the_outcome_is_the_same_with_any_number_of_losses_and_restarts(
    story: int, clock: VirtualClock, tmp_path: Path
) -> None:
    """Transparent eviction: what a deterministic program sees does not depend on what befalls its runs."""
    seed = random.randrange(2**32)
    print("story", story, "seed", seed)
    chance = random.Random(seed)
    kinds = ["do", "do", "fail", "sleep", "event"]
    plan = [(chance.choice(kinds), chance.choice([0, 5, 200, 60_000])) for _ in range(25)]
    expected: list[Any] = []
    events = 0
    for kind, number in plan:
        match kind:
            case "do":
                expected.append(number * 2)
            case "fail":
                expected.append("always")
            case "event":
                expected.append(events)
                events += 1
    unsent = list(range(events))
    for host in range(200):
        async with Engine(tmp_path / "app.db", clock=clock) as engine:
            workflow = engine.workflow("w", Program, env=random.Random(chance.random()))
            instance = await (workflow.get("x") if host else workflow.create(id="x", params=plan))
            if unsent and chance.random() < 0.7:
                await instance.send_event(type="t", payload=unsent.pop(0))
            await clock.advance(chance.choice([0, 0.1, 30, 600]))
            status = await instance.status()
        if status["status"] not in {"queued", "running", "waiting"}:
            break
    assert (status["error"], status["output"]) == (None, expected)


async def test_a_failed_commit_acknowledges_nothing_and_the_run_goes_on_later(
    open_engine: OpenEngine, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk costs the run its place in memory, not its history: it is started again from what was
    stored.
    """
    fragile = env()
    failing: list[str] = []
    real = Store.commit

    def commit(store: Store) -> None:
        if failing:
            failing.pop()
            raise OSError("disk full")
        real(store)

    monkeypatch.setattr(Store, "commit", commit)

    class Filler(Fragile):
        async def run(self, event: Any, step: Any) -> str:
            result = await super().run(event, step)
            await step.do("fill", lambda: failing.extend("xxx") if not fragile.pop("full", None) else None)
            return result

    async with open_engine() as engine:
        instance = await engine.workflow("w", Filler, env=fragile).create(params=3)
        fragile["full"] = False
        await clock.advance(1)
        assert (await instance.status())["status"] != "errored"
        fragile["full"] = True
        await clock.advance(60)
        assert await instance.result() == "whole"
        assert fragile["calls"] == [0, 1, 2]


async def test_a_commit_of_unknown_outcome_leaves_nothing_claimed_by_nobody(
    open_engine: OpenEngine, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sync failed, yet the data is there: what it claimed is found and run."""
    real, doubtful = Store.commit, [True]

    def commit(store: Store) -> None:
        real(store)
        if doubtful:
            doubtful.clear()
            raise OSError("nobody knows")

    async with open_engine() as engine:
        workflow = engine.workflow("w", Fragile, env=env())
        await clock.run_until_idle()
        monkeypatch.setattr(Store, "commit", commit)
        with pytest.raises(StorageError):
            await workflow.create(id="x", params=1)
        assert await (await workflow.get("x")).result() == "whole"
        await workflow.create(id="busy", params=0)
        await clock.run_until_idle()
        doubtful.append(True)
        with pytest.raises(StorageError):
            await workflow.create_batch([{"id": "y", "params": 2}])
        await workflow.create(id="z", params=0)
        await clock.advance(5)
        assert await (await workflow.get("y")).result() == "whole"


async def test_a_run_cancelled_by_the_host_goes_on_later(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """Whoever tears the event loop down does not end anybody's instance."""
    async with open_engine() as engine:

        class Patient(WorkflowEntrypoint):
            async def run(self, event: Any, step: Any) -> str:
                await step.do("long", lambda: clock.sleep(100))
                return "done"

        instance = await engine.workflow("w", Patient).create(id="x")
        await clock.advance(1)
        for run in engine._schedulers["w"].active.values():
            run.task.cancel()
        await clock.advance(101)
        assert await instance.result() == "done"


async def test_a_run_that_the_host_cannot_begin_is_put_off_for_as_long_as_it_takes(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """What the host could not do is never counted against the instance, and is tried ever less often."""
    tries: list[int] = []

    class Unavailable(WorkflowEntrypoint):
        async def run(self, event: Any, step: Any) -> str:
            tries.append(clock.now())
            if len(tries) <= 20:
                raise RunPostponed("no code to be had")
            return "at last"

    async with open_engine() as engine:
        instance = await engine.workflow("w", Unavailable).create(id="x")
        await clock.advance(3600)
        assert await instance.result() == "at last"
        pauses = [later - earlier for earlier, later in itertools.pairwise(tries)]
        assert pauses == sorted(pauses)
        assert (pauses[0], pauses[-1]) == (100, 300_000)
        assert (engine.statistics().postponed, engine.statistics().lost) == (20, 0)
