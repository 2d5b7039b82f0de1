"""A run that is put aside and replayed takes the path it took before, whatever it waited for side by side."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from cloister.engine.store import queue
from cloister.loader import Host, Limits, WorkerCode

HEAD = "import asyncio\nfrom workers import WorkflowEntrypoint\n"


async def test_the_winner_of_a_race_is_the_winner_in_every_replay(stage: Any) -> None:
    """The loser's deadline has long passed when the run is replayed; it was not the first, and is not now."""
    binding = stage.bind(
        HEAD
        + """
class TenantWorkflow(WorkflowEntrypoint):
    async def run(self, event, step):
        async def work():
            await step.do("a", lambda: 1)
            sum(range(1_000_000))  # the author's own code between two steps
            return await step.do("b", lambda: 2)
        deadline, working = step.sleep("deadline", "1 hour"), asyncio.create_task(work())
        done, pending = await asyncio.wait({deadline, working}, return_when=asyncio.FIRST_COMPLETED)
        for loser in pending:
            loser.cancel()
        winner = "work" if working in done else "deadline"
        await self.env.LEDGER.note(winner)
        await step.sleep("rest", "3 hours")
        await step.do("after", lambda: 3)
        await step.sleep("more rest", "3 hours")
        return winner
"""
    )
    instance = await binding.create()
    await stage.rests(instance)
    assert await stage.outcome(instance) == "work"
    assert len(stage.ledger.entries) >= 3
    assert set(stage.ledger.entries) == {"work"}


async def test_an_engine_that_forgets_which_outcome_came_first_is_found_out(
    stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong on purpose: its history is in the order in which steps began."""
    real = queue._read_claim

    def in_order_of_beginning(store: Any, *rest: Any) -> Any:
        claim = real(store, *rest)
        began = [
            tuple(row)
            for row in store.execute("SELECT kind, name, count FROM steps WHERE instance = ? ORDER BY position",
                                     (claim.number,))
        ]  # fmt: skip
        key = [(record.kind, record.name, record.count) for record in claim.history]
        history = [claim.history[key.index(each)] for each in began if each in key]
        return claim._replace(history=tuple(history))

    monkeypatch.setattr(queue, "_read_claim", in_order_of_beginning)
    with pytest.raises(AssertionError):
        await test_the_winner_of_a_race_is_the_winner_in_every_replay(stage)


async def test_branches_that_wake_together_ask_in_the_same_order_again(stage: Any) -> None:
    """Two steps of one name, one of them behind several tasks: each branch is given its own result."""
    binding = stage.bind(
        HEAD
        + """
class TenantWorkflow(WorkflowEntrypoint):
    async def run(self, event, step):
        async def deep(left, who):
            if left:
                return await asyncio.wait_for(deep(left - 1, who), 100_000)
            return await step.do("send", lambda: who)
        async def branch(who, depth):
            await step.sleep("nap", "1 minute")
            return await deep(depth, who)
        results = await asyncio.gather(branch("a", event.payload.depth), branch("b", 0), branch("c", 2))
        await step.sleep("rest", "1 hour")
        return results
"""
    )
    for depth in (0, 1, 3, 10):
        instance = await binding.create(params={"depth": depth})
        assert await stage.outcome(instance) == ["a", "b", "c"]


async def test_steps_in_the_body_of_a_step_are_not_asked_for_again(stage: Any) -> None:
    """A body that is not run again takes its inner steps along: they neither hold others up nor lend them numbers."""
    binding = stage.bind(
        HEAD
        + """
class TenantWorkflow(WorkflowEntrypoint):
    async def run(self, event, step):
        async def note(entry):
            await self.env.LEDGER.note(entry)
            return entry
        async def inner():
            return await step.do("same name", lambda: note("inner"))
        async def outer():
            found = await inner()
            await step.sleep("nap", "1 hour")
            return [found, await step.do("deeper", inner)]
        results = [await step.do("outer", outer)]
        await step.sleep("rest", "1 hour")
        results.append(await step.do("same name", lambda: note("outside")))
        await step.sleep("rest", "1 hour")
        return results
"""
    )
    instance = await binding.create()
    assert await stage.outcome(instance) == [["inner", "inner"], "outside"]
    assert stage.ledger.entries.count("outside") == 1


async def test_an_attempt_does_not_find_what_an_earlier_one_did_inside(stage: Any) -> None:
    """A body that is tried again is tried as a whole, in the same sandbox or in the next."""
    binding = stage.bind(
        HEAD
        + """
class TenantWorkflow(WorkflowEntrypoint):
    async def run(self, event, step):
        async def outer(ctx):
            number = await step.do("inner", lambda: self.env.LEDGER.note("inner"))
            if ctx.attempt < 3:
                raise ValueError(number)
            return number
        settings = {"retries": {"limit": 5, "delay": "1 hour"}}
        return await step.do("outer", settings, outer)
"""
    )
    instance = await binding.create()
    assert await stage.outcome(instance) == 3


async def test_nobody_waits_for_what_an_attempt_that_has_failed_did_inside(stage: Any) -> None:
    """The step is tried again in an hour; what goes on beside it goes on meanwhile."""
    binding = stage.bind(
        HEAD
        + """
class TenantWorkflow(WorkflowEntrypoint):
    async def run(self, event, step):
        async def outer(ctx):
            inner = await step.do("inner", lambda: ctx["attempt"])
            if ctx["attempt"] == 1:
                raise ConnectionError("not yet")
            return inner
        async def beside():
            await step.sleep("a while", "10 minutes")
            await step.do("beside", lambda: self.env.LEDGER.note("beside"))
        again = {"retries": {"limit": 2, "delay": "365 days"}}
        found, _ = await asyncio.gather(step.do("outer", again, outer), beside())
        return found
"""
    )
    instance = await binding.create()
    await stage.rests(instance)

    async def noted() -> bool:
        return bool(stage.ledger.entries)

    before = stage.clock.now()
    await stage.until(noted, step=60)
    assert stage.clock.now() - before < 300 * 86_400_000
    assert await stage.outcome(instance, step=86_400 * 20) == 2


async def test_random_programs_end_the_same_with_and_without_evictions(path: Any) -> None:
    """Branches of sleeps, steps and events in any nesting, on a real clock, with a sandbox that is taken away."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)

    def branch(depth: int) -> str:
        kinds = ["do", "do", "sleep", "same", *(["race", "gather"] if depth else [])]
        parts = []
        for _ in range(chance.randint(1, 3)):
            match chance.choice(kinds):
                case "do":
                    parts.append(f"trace.append(await step.do('d{chance.randrange(9**9)}', lambda: len(trace)))")
                case "same":
                    parts.append(f"trace.append(await step.do('same', lambda: {chance.randrange(9**9)}))")
                case "sleep":
                    parts.append(f"await step.sleep('s{chance.randrange(3)}', {chance.choice([1, 20, 90, 90])})")
                case "gather":
                    inner = ", ".join(branch(depth - 1) for _ in range(chance.randint(2, 3)))
                    parts.append(f"await asyncio.gather({inner})")
                case "race":
                    inner = ", ".join(branch(depth - 1) for _ in range(2))
                    parts.append(f"trace.append(await race({inner}))")
        return "seq([" + ", ".join(f"lambda: one({part!r})" for part in parts) + "])"

    program = (
        HEAD
        + """
class TenantWorkflow(WorkflowEntrypoint):
    async def run(self, event, step):
        trace = []
        async def one(source):
            names = dict(step=step, trace=trace, asyncio=asyncio, one=one, seq=seq, race=race)
            exec("async def part():\\n    " + source, names)
            await names["part"]()
        async def seq(parts):
            for part in parts:
                await part()
        async def race(*branches):
            tasks = [asyncio.ensure_future(branch) for branch in branches]
            done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in pending:
                task.cancel()
            return [task in done for task in tasks].index(True)
        await eval(event.payload.source, dict(one=one, seq=seq))
        before = list(trace)
        recorded = await step.do("record", lambda: before)
        await step.sleep("rest", 150)
        return [before, recorded]
"""
    )
    async with Host(path, get_code=lambda _: WorkerCode(main_module="m.py", modules={"m.py": program})) as host:
        instances = [await host.workflows("t").create(params={"source": branch(2)}) for _ in range(40)]
        for _ in range(4):
            await asyncio.sleep(0.05)  # not waiting for anything: an instant to be evicted at
            host.loader.evict("t")
        for instance in instances:
            before, recorded = await instance.result(timeout=100)
            records = {step["name"]: step for step in (await instance.status())["steps"]}
            assert before == recorded, f"seed {seed}"
            assert records["record"]["status"] == "done"


async def test_a_step_that_was_given_up_takes_what_was_recorded_inside_along(stage: Any) -> None:
    """A race's loser had a step of its own inside, which the replay's loser may not come to before it is cancelled."""
    binding = stage.bind(
        HEAD
        + """
class TenantWorkflow(WorkflowEntrypoint):
    async def run(self, event, step):
        starts = await self.env.LEDGER.note("start")
        async def body():
            await asyncio.sleep(0.3 if starts > 1 else 0)
            await step.do("inner", lambda: 1)
            await asyncio.sleep(60)
        async def winner():
            await asyncio.sleep(0.1)
            return "W"
        loser = asyncio.ensure_future(step.do("loser", body))
        result = await step.do("W", winner)
        loser.cancel()
        await step.do("z", lambda: 3)
        await step.sleep("park", "1 hour")
        return result
"""
    )
    instance = await binding.create()
    await stage.rests(instance)
    stage.evict()
    assert await stage.outcome(instance) == "W"


async def test_a_step_that_was_given_up_holds_up_neither_parking_nor_a_pause(stage: Any) -> None:
    """Its attempt had been announced; nobody will settle it."""
    binding = stage.bind(
        HEAD
        + """
class TenantWorkflow(WorkflowEntrypoint):
    async def run(self, event, step):
        try:
            await asyncio.wait_for(step.do("slow", lambda: asyncio.sleep(60)), 0.1)
        except TimeoutError:
            pass
        await step.sleep("night", "8 hours")
        return "morning"
"""
    )
    instance = await binding.create()
    await stage.rests(instance)
    assert await stage.outcome(instance) == "morning"


async def test_a_replay_that_waits_for_another_call_of_its_tenant_is_not_called_lost(
    stage: Any, loader: Any, eventually: Any
) -> None:
    """A lock of the module's is held elsewhere for a while; the recorded step behind it is asked for later."""
    source = (
        HEAD
        + """
from workers import WorkerEntrypoint
lock = asyncio.Lock()
class Default(WorkerEntrypoint):
    async def hold(self):
        async with lock:
            await self.env.LEDGER.note("held")
            await asyncio.sleep(2)
class TenantWorkflow(WorkflowEntrypoint):
    async def run(self, event, step):
        async def guarded():
            async with lock:
                return await step.do("guarded", lambda: 1)
        results = await asyncio.gather(guarded(), step.do("free", lambda: asyncio.sleep(0.05)))
        await step.sleep("night", "8 hours")
        return results
"""
    )
    binding = stage.bind(source)
    instance = await binding.create()
    await stage.rests(instance)
    stage.evict()
    holding = asyncio.ensure_future(loader.get(stage.name, stage.code).get_entrypoint().hold())
    await eventually(lambda: "held" in stage.ledger.entries)
    assert await stage.outcome(instance) == [1, None]
    await holding


async def test_what_a_run_asks_its_journal_is_no_subrequest(stage: Any) -> None:
    """Neither the outcomes of many steps at once, nor the values that a replay has to ask for."""
    stage.options["limits"] = Limits(subrequests=20)
    binding = stage.bind(
        HEAD
        + """
class TenantWorkflow(WorkflowEntrypoint):
    async def run(self, event, step):
        results = await asyncio.gather(*(step.do(f"s{n}", lambda: "x" * 100_000) for n in range(60)))
        await step.sleep("night", "8 hours")
        return len(results)
"""
    )
    instance = await binding.create()
    await stage.rests(instance)
    stage.evict()
    assert await stage.outcome(instance) == 60


async def test_a_limit_is_not_forgiven_for_what_is_refused(stage: Any) -> None:
    """Only a new record begins the count anew: one that is refused, or was there already, does not."""
    stage.options["limits"] = Limits(subrequests=20)
    binding = stage.bind(
        HEAD
        + """
class TenantWorkflow(WorkflowEntrypoint):
    async def run(self, event, step):
        journal = step._journal
        await step.sleep("nap", 1)
        for _ in range(200):
            try:
                await journal.ask("settle", "none", 1, 77, None, b"", None, False, None)
            except Exception:
                pass
            await journal.ask("sleep", "nap", 1, 1, None, None)
            await self.env.LEDGER.note("call")
        return "walked around"
"""
    )
    instance = await binding.create()
    error = await stage.outcome(instance)
    assert "limit of subrequests" in error["message"]
    assert len(stage.ledger.entries) <= 21
