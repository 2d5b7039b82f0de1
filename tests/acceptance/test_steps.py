"""A tenant's steps, as its author knows them: memoised, retried, waited between, in loops and side by side."""

from __future__ import annotations

import itertools
import textwrap
from typing import Any

import pytest

from cloister.loader import Host, InstanceFailed, Limits, WorkerCode


async def test_both_forms_of_a_step_run_sync_and_async_bodies(stage: Any) -> None:
    """As a decorator or as a call, with or without a context, and what comes back is what a record would give."""
    binding = stage.bind("""
        from workers import WorkflowEntrypoint
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                @step.do("decorated", config={"timeout": "1 minute"})
                async def decorated(ctx):
                    return [ctx.step.name, ctx.step["count"], ctx["attempt"], ctx.config.timeout]
                @step.do()
                def by_function_name():
                    return {"a": (1, 2)}
                async def body():
                    return "async"
                return [
                    await decorated(),
                    await by_function_name(),
                    await step.do("plain", lambda: "sync"),
                    await step.do("configured", {"retries": {"limit": 1, "delay": "1 second"}}, body),
                ]
    """)
    instance = await binding.create()
    assert await stage.outcome(instance) == [["decorated", 1, 1, 60_000], {"a": [1, 2]}, "sync", "async"]
    names = [step["name"] for step in (await instance.status())["steps"]]
    assert names == ["decorated", "by_function_name", "plain", "configured"]


@pytest.mark.parametrize(
    ("backoff", "delays"),
    [("constant", [10, 10, 10]), ("linear", [10, 20, 30]), ("exponential", [10, 20, 40])],
)
async def test_a_failing_step_is_retried_after_its_delays_and_never_early(
    stage: Any, eventually: Any, backoff: str, delays: list[int]
) -> None:
    """The body's starts are in the ledger by the engine's clock; the last error is the step's."""
    binding = stage.bind("""
        from workers import WorkflowEntrypoint
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                async def body(ctx):
                    n = await self.env.LEDGER.note("try")
                    raise ValueError(f"attempt {ctx.attempt} of start {n}")
                retries = {"limit": 3, "delay": "10 seconds", "backoff": event.payload}
                try:
                    await step.do("flaky", {"retries": retries}, body)
                except ValueError as error:
                    return str(error)
    """)
    instance = await binding.create(params=backoff)
    times, now = stage.ledger.times, stage.clock.now
    for attempt, delay in enumerate(delays, 1):
        await stage.rests(instance)
        assert len(times) == attempt
        began, failed_by = times[-1], now()
        await stage.clock.advance((began - now()) / 1000 + delay - 0.1)
        assert (await instance.status())["status"] == "waiting"
        await stage.clock.advance((failed_by - now()) / 1000 + delay + 0.1)
        await eventually(lambda count=attempt: len(times) > count)
    assert await stage.outcome(instance) == "ValueError: attempt 4 of start 4"
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert all(gap >= delay * 1000 for gap, delay in zip(gaps, delays, strict=True)), gaps
    (step,) = (await instance.status())["steps"]
    assert (step["status"], step["attempts"]) == ("failed", 4)


async def test_a_step_that_succeeds_at_last_is_a_success(stage: Any) -> None:
    """Two failures, a day's wait in all, and an eviction between them."""
    binding = stage.bind("""
        from workers import WorkflowEntrypoint
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                async def body(ctx):
                    if await self.env.LEDGER.note("try") < 3:
                        raise ConnectionError("not yet")
                    return ctx.attempt
                retries = {"limit": 5, "delay": "12 hours", "backoff": "constant"}
                return await step.do("flaky", {"retries": retries}, body)
    """)
    instance = await binding.create()
    await stage.rests(instance)
    assert stage.evict()

    async def over() -> bool:
        return bool((await instance.status())["status"] == "complete")

    await stage.until(over, step=3600)
    assert await instance.result() == 3
    assert stage.ledger.entries == ["try"] * 3


async def test_a_non_retryable_error_ends_its_step_at_once(stage: Any) -> None:
    """Whatever the retries; and it is that class which `run` can catch, in the first run and in a replay."""
    binding = stage.bind("""
        from workers import WorkflowEntrypoint
        from workers.workflows import NonRetryableError
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                async def body():
                    await self.env.LEDGER.note("try")
                    raise NonRetryableError("hopeless")
                try:
                    await step.do("hopeless", {"retries": {"limit": 9, "delay": "1 day"}}, body)
                except NonRetryableError as error:
                    caught = [type(error).__name__, str(error)]
                await step.sleep("night", "8 hours")
                if event.payload:
                    return caught
                raise NonRetryableError("uncaught")
    """)
    instances = [await binding.create(params=True), await binding.create(params=False)]
    for instance in instances:
        await stage.rests(instance)
    stage.evict()
    assert await stage.outcome(instances[0]) == ["NonRetryableError", "hopeless"]
    assert await stage.outcome(instances[1]) == {"name": "NonRetryableError", "message": "uncaught"}
    assert stage.ledger.entries == ["try"] * 2


async def test_a_failure_that_was_caught_is_remembered(stage: Any) -> None:
    """After a replay the step raises the same class and words again, without running again."""
    binding = stage.bind("""
        from workers import WorkflowEntrypoint
        class Custom(Exception):
            pass
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                caught = []
                for kind in (KeyError, Custom, ZeroDivisionError):
                    async def body():
                        await self.env.LEDGER.note(kind.__name__)
                        raise kind("why")
                    try:
                        await step.do("fail", {"retries": {"limit": 0, "delay": 0}}, body)
                    except Exception as error:
                        caught.append([type(error).__name__, str(error)])
                await self.env.LEDGER.note(repr(caught))
                await step.sleep("nap", "1 hour")
                return caught
    """)
    instance = await binding.create()
    await stage.rests(instance)
    stage.evict()
    output = await stage.outcome(instance)
    *bodies, first, second = stage.ledger.entries
    assert bodies == ["KeyError", "Custom", "ZeroDivisionError"]
    assert first == second == repr(output)
    assert output[0][0] == "KeyError"
    assert all(kind in words for kind, (_, words) in zip(bodies, output, strict=True))


async def test_an_uncaught_failure_ends_the_instance_with_its_name_and_words(stage: Any) -> None:
    """And says nothing of the machinery."""
    binding = stage.bind("""
        from workers import WorkflowEntrypoint
        class OutOfStock(Exception):
            pass
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                if event.payload == "in run":
                    raise OutOfStock("no umbrellas")
                def body():
                    raise OutOfStock("no umbrellas")
                await step.do("order", {"retries": {"limit": 0, "delay": 0}}, body)
    """)
    for place in ("in run", "in a step"):
        error = await stage.outcome(await binding.create(params=place))
        assert error == {"name": "OutOfStock", "message": "no umbrellas"}


async def test_steps_in_a_loop_are_told_apart_by_their_order(stage: Any) -> None:
    """One name, twenty uses, an eviction in the middle: each has its own record."""
    binding = stage.bind("""
        from workers import WorkflowEntrypoint
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                total = 0
                for number in range(20):
                    async def body(ctx):
                        await self.env.LEDGER.note(f"{number} is use {ctx.step.count}")
                        return number
                    total += await step.do("add", body)
                    if number % 7 == 6:
                        await step.sleep("breath", "1 minute")
                return total
    """)
    instance = await binding.create()
    await stage.rests(instance)
    stage.evict()
    assert await stage.outcome(instance) == sum(range(20))
    assert stage.ledger.entries == [f"{number} is use {number + 1}" for number in range(20)]


async def test_steps_side_by_side_run_at_the_same_time(stage: Any) -> None:
    """Four bodies meet at the ledger before any of them is done."""
    binding = stage.bind("""
        import asyncio
        from workers import WorkflowEntrypoint
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                inside, all_inside = [], asyncio.Event()
                async def body(number):
                    inside.append(number)
                    if len(inside) == 4:
                        all_inside.set()
                    await all_inside.wait()
                    return number * 10
                results = await asyncio.gather(*(step.do(f"part {n}", lambda n=n: body(n)) for n in range(4)))
                async def fail():
                    raise ValueError("one of them")
                once = {"retries": {"limit": 0, "delay": 0}}
                mixed = await asyncio.gather(
                    step.do("good", lambda: "good"), step.do("bad", once, fail), return_exceptions=True)
                return [results, [str(part) for part in mixed]]
    """)
    assert await stage.outcome(await binding.create()) == [[0, 10, 20, 30], ["good", "ValueError: one of them"]]


async def test_waits_side_by_side_are_parked_together_and_wake_one_by_one(stage: Any) -> None:
    """A sleep, an event and a retry at once; whichever is first, the others keep waiting across evictions."""
    binding = stage.bind("""
        import asyncio
        from workers import WorkflowEntrypoint
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                async def flaky():
                    if await self.env.LEDGER.note("try") < 2:
                        raise ValueError("again")
                    return "retried"
                async def waiting():
                    got = await step.wait_for_event("answer", "answer")
                    return await step.do("use", lambda: got.payload)
                async def sleeping():
                    await step.sleep("night", "1 hour")
                    return "slept"
                retries = {"retries": {"limit": 1, "delay": "30 minutes"}}
                return await asyncio.gather(step.do("flaky", retries, flaky), waiting(), sleeping())
    """)
    instance = await binding.create()
    for _ in range(3):
        await stage.rests(instance)
        stage.evict()
        await stage.clock.advance(600)
    await instance.send_event(type="answer", payload=42)
    assert await stage.outcome(instance) == ["retried", 42, "slept"]
    assert stage.ledger.entries == ["try"] * 2


async def test_dependencies_by_name_form_a_graph_whose_root_runs_once(stage: Any) -> None:
    """A diamond: both arms get the root's result, the tip gets both, and `ctx` is nobody's dependency."""
    binding = stage.bind("""
        from workers import WorkflowEntrypoint
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                @step.do()
                async def root():
                    await self.env.LEDGER.note("root")
                    return 1
                @step.do()
                async def left(root):
                    return root + 10
                @step.do()
                async def right(ctx, root):
                    return root + 100 * ctx.attempt
                @step.do("tip", concurrent=event.payload)
                async def tip(left, right):
                    return [left, right]
                result = await tip()
                await step.sleep("night", "8 hours")
                return result
    """)
    for concurrent in (False, True):
        instance = await binding.create(params=concurrent)
        await stage.rests(instance)
        stage.evict()
        assert await stage.outcome(instance) == [11, 101]
    assert stage.ledger.entries == ["root"] * 2


async def test_dependencies_by_list_are_bound_by_position(stage: Any) -> None:
    """The older form, under which names are free; a wrong number of them is an error that says so."""
    binding = stage.bind("""
        from workers import WorkflowEntrypoint
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                @step.do("first")
                async def first():
                    return 1
                @step.do("second")
                async def second():
                    return 2
                @step.do("sum", depends=[first, second], concurrent=True)
                async def total(a, ctx, b):
                    return [a, b, ctx.step.name]
                @step.do("wrong", depends=[first])
                async def wrong(a, b):
                    pass
                @step.do("unknown")
                async def unknown(nothing_of_that_name):
                    pass
                told = []
                for bad in (wrong, unknown):
                    try:
                        await bad()
                    except TypeError as error:
                        told.append(str(error))
                return [await total(), *told]
    """)
    result, wrong, unknown = await stage.outcome(await binding.create())
    assert result == [1, 2, "sum"]
    assert "declares 2" in wrong
    assert "1 item" in wrong
    assert "nothing_of_that_name" in unknown


async def test_a_dependency_that_is_under_way_is_waited_for_and_a_failed_one_is_tried_anew(stage: Any) -> None:
    """Whoever called it; a step goes by its own name before it goes by that of its function."""
    binding = stage.bind("""
        import asyncio
        from workers import WorkflowEntrypoint
        from workers.workflows import NonRetryableError
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                @step.do("root")
                async def begin():
                    await self.env.LEDGER.note("root")
                    await asyncio.sleep(0.01)
                    return 1
                @step.do("other")
                async def root():
                    return 100
                @step.do()
                async def leaf(root):
                    return root + 1
                @step.do()
                async def frail(ctx):
                    if ctx.step.count < 3:
                        raise NonRetryableError("no tea")
                    return 7
                @step.do()
                async def of_frail(frail):
                    return frail
                @step.do("undecorated", depends=[lambda: 5])
                async def undecorated(five):
                    return five
                both = await asyncio.gather(begin(), leaf())
                errors = []
                for attempt in range(2):
                    try:
                        await of_frail()
                    except NonRetryableError as error:
                        errors.append(str(error))
                try:
                    await undecorated()
                except TypeError as error:
                    errors.append(str(error))
                return [*both, len(errors), await of_frail(), errors[-1]]
    """)
    *found, words = await stage.outcome(await binding.create())
    assert found == [1, 2, 3, 7]
    assert words == "'depends' entry for parameter 'five' is not a function decorated with step.do"
    assert stage.ledger.entries == ["root"]


async def test_a_dependency_that_fails_keeps_its_dependents_from_starting(stage: Any) -> None:
    """Its error reaches whoever awaits them."""
    binding = stage.bind("""
        from workers import WorkflowEntrypoint
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                @step.do(config={"retries": {"limit": 0, "delay": 0}})
                async def root():
                    raise ValueError("the root is rotten")
                @step.do()
                async def leaf(root):
                    await self.env.LEDGER.note("leaf")
                await leaf()
    """)
    instance = await binding.create()
    error = await stage.outcome(instance)
    assert error["name"] == "ValueError"
    assert "the root is rotten" in error["message"]
    assert [step["name"] for step in (await instance.status())["steps"]] == ["root"]
    assert stage.ledger.entries == []


async def test_sleep_until_wakes_at_the_moment_and_never_before(stage: Any) -> None:
    """As a datetime with or without a zone, or as milliseconds; also when replayed after the moment has passed."""
    binding = stage.bind("""
        import datetime
        from workers import WorkflowEntrypoint
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                base = event.payload
                aware = datetime.datetime.fromtimestamp(base / 1000 + 3600, datetime.timezone.utc)
                await step.sleep_until("aware", aware)
                await self.env.LEDGER.note("1 h")
                await step.sleep_until("naive", (aware + datetime.timedelta(hours=1)).replace(tzinfo=None))
                await self.env.LEDGER.note("2 h")
                await step.sleep_until("number", base + 3 * 3_600_000)
                await self.env.LEDGER.note("3 h")
                await step.sleep_until("past", base)
                return "awake"
    """)
    base = stage.clock.now()
    instance = await binding.create(params=base)
    await stage.rests(instance)

    async def over() -> bool:
        status = (await instance.status())["status"]
        if status == "waiting":
            stage.evict()
        return status in {"complete", "errored"}

    await stage.until(over, step=60)
    assert await instance.result() == "awake"
    seen: dict[str, int] = {}
    for entry, time in zip(stage.ledger.entries, stage.ledger.times, strict=True):
        seen.setdefault(entry, time)
    assert list(seen) == ["1 h", "2 h", "3 h"]
    assert all(time >= base + hours * 3_600_000 for hours, time in enumerate(seen.values(), 1))


async def test_a_sleep_begins_when_it_is_called_and_not_when_it_is_awaited(stage: Any) -> None:
    """So that one can sleep while one works, as in the original."""
    binding = stage.bind("""
        from workers import WorkflowEntrypoint
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                first = step.sleep("first", "1 hour")
                second = step.sleep("second", "1 hour")
                await step.do("work", lambda: 1)
                await first
                await second
                await self.env.LEDGER.note("awake")
    """)
    began = stage.clock.now()
    await stage.outcome(await binding.create(), step=60)
    assert 3_600_000 <= stage.ledger.times[-1] - began < 2 * 3_600_000


async def test_an_event_that_does_not_come_is_an_error_that_is_remembered(stage: Any) -> None:
    """Caught in `run`, the same in the replay; and one that came too late is there for the next wait."""
    binding = stage.bind("""
        from workers import WorkflowEntrypoint
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                try:
                    await step.wait_for_event("answer", "answer", timeout="10 minutes")
                except Exception as error:
                    told = [str(error)]
                await self.env.LEDGER.note(told[0])
                late = await step.wait_for_event("late", "answer", timeout="1 day")
                return [*told, late.payload, late.type]
    """)
    began = stage.clock.now()
    instance = await binding.create()

    async def given_up() -> bool:
        return bool(stage.ledger.entries)

    await stage.until(given_up, step=10)
    assert stage.ledger.times[0] - began >= 600_000
    await stage.rests(instance)
    stage.evict()
    await instance.send_event(type="answer", payload="too late")
    told, payload, kind = await stage.outcome(instance)
    assert "600000ms" in told
    assert (payload, kind) == ("too late", "answer")
    assert stage.ledger.entries == [told] * 2


async def test_events_are_taken_in_the_order_they_were_sent(stage: Any) -> None:
    """Before the wait, during it, or while the sandbox is gone; each type is a queue of its own."""
    binding = stage.bind("""
        from workers import WorkflowEntrypoint
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                got = []
                for number in range(6):
                    kind = "even" if number % 2 == 0 else "odd"
                    got.append((await step.wait_for_event(f"wait {number}", kind)).payload)
                return got
    """)
    instance = await binding.create()
    for number in (0, 2):
        await instance.send_event(type="even", payload=number)
    await stage.rests(instance)
    stage.evict()
    for number in (1, 3):
        await instance.send_event(type="odd", payload=number)
    await stage.rests(instance)
    await instance.send_event(type="even", payload=4)
    await stage.rests(instance)
    stage.evict()
    await instance.send_event(type="odd", payload=5)
    assert await stage.outcome(instance) == [0, 1, 2, 3, 4, 5]


async def test_a_step_that_takes_too_long_times_out_and_is_retried(stage: Any) -> None:
    """An async body is cancelled, what waits for nothing is done in time, and the last timeout is the error."""
    binding = stage.bind("""
        import asyncio
        from workers import WorkflowEntrypoint
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                config = {"timeout": 30, "retries": {"limit": 2, "delay": 0}}
                async def body(ctx):
                    if ctx.attempt == 3:
                        return "quick"
                    try:
                        await asyncio.sleep(1000)
                    except asyncio.CancelledError:
                        await self.env.LEDGER.note("cancelled")
                        raise
                first = await step.do("slow", config, body)
                once = {"timeout": 30, "retries": {"limit": 0, "delay": 0}}
                try:
                    await step.do("never", once, lambda: asyncio.sleep(1000))
                except Exception as error:
                    return [first, str(error)]
    """)
    first, told = await stage.outcome(await binding.create())
    assert first == "quick"
    assert "timed out after 30ms" in told
    assert stage.ledger.entries == ["cancelled", "cancelled"]


async def test_a_step_that_spins_is_ended_from_outside_and_is_a_poison_pill_in_the_end(stage: Any) -> None:
    """A sync loop hears nothing: its sandbox is ended by its CPU limit, ten times, and then the instance."""
    stage.options = {"limits": Limits(cpu_ms=40)}
    binding = stage.bind("""
        from workers import WorkflowEntrypoint
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                await step.do("good", lambda: self.env.LEDGER.note("good"))
                async def spin():
                    await self.env.LEDGER.note("spin")
                    while True: pass
                await step.do("spin", {"timeout": "1 minute", "retries": {"limit": 0, "delay": 0}}, spin)
    """)
    error = await stage.outcome(await binding.create())
    assert error["name"] == "CrashLoop"
    assert "40 ms of CPU" in error["message"]
    assert stage.ledger.entries == ["good", *["spin"] * 10]


async def test_cpu_time_counts_from_record_to_record_and_not_over_the_life_of_a_run(stage: Any) -> None:
    """Five steps that each take most of the limit are no reason to end anything."""
    stage.options = {"limits": Limits(cpu_ms=300)}
    binding = stage.bind("""
        import time
        from workers import WorkflowEntrypoint
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                def work():
                    until = time.process_time() + 0.15
                    while time.process_time() < until: pass
                    return 1
                return sum([await step.do("work", work) for _ in range(5)])
    """)
    assert await stage.outcome(await binding.create()) == 5
    assert stage.engine.statistics().lost == 0


@pytest.mark.parametrize("size", [1024 * 1024 + 1, 3 * 1024 * 1024, 16 * 1024 * 1024 - 30])
async def test_a_step_result_of_more_than_a_mebibyte_fails_that_step_without_retries(stage: Any, size: int) -> None:
    """With a clear error that `run` can catch; a mebibyte less its wrapping is fine."""
    binding = stage.bind("""
        from workers import WorkflowEntrypoint
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                fits = await step.do("fits", lambda: bytes(1024 * 1024 - 5))
                async def body():
                    await self.env.LEDGER.note("start")
                    return bytes(event.payload)
                try:
                    await step.do("too large", {"retries": {"limit": 5, "delay": "1 day"}}, body)
                except Exception as error:
                    return [len(fits), str(error)]
    """)
    instance = await binding.create(params=size)
    fits, told = await stage.outcome(instance)
    assert fits == 1024 * 1024 - 5
    assert "bytes; at most" in told
    assert stage.ledger.entries == ["start"]
    assert [step["status"] for step in (await instance.status())["steps"]] == ["done", "failed"]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ('step.do("x" * 257, work)', "256 characters"),
        ('step.do("a\\x00b", work)', "control"),
        ('step.do("x", {"retries": {"limit": 1}}, work)', "delay"),
        ('step.do("x", {"retries": {"limit": -1, "delay": 0}}, work)', "limit"),
        ('step.do("x", {"timeout": 0}, work)', "timeout"),
        ('step.do("x", {"surprise": 1}, work)', "surprise"),
        ('step.sleep("x", "a while")', "a while"),
        ('step.sleep("x", "2 years")', "365 days"),
        ('step.sleep("x", -1)', "-1"),
        ('step.wait_for_event("x", "a" * 300)', "event type"),
    ],
)
async def test_a_step_that_makes_no_sense_is_refused_with_the_reason(stage: Any, call: str, words: str) -> None:
    """The body does not run, `run` can catch it, and nothing is recorded."""
    binding = stage.bind(f"""
        from workers import WorkflowEntrypoint
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                work = lambda: self.env.LEDGER.note("ran")
                try:
                    await {call}
                except Exception as error:
                    caught = str(error)
                return [caught, await step.do("good", lambda: "fine")]
    """)
    instance = await binding.create()
    told, fine = await stage.outcome(instance)
    assert words in told
    assert fine == "fine"
    status = await instance.status()
    assert [step["name"] for step in status["steps"] if step["status"] == "done"] == ["good"]


async def test_what_a_step_returns_is_the_same_in_every_run(stage: Any) -> None:
    """It comes back as it would be read from the record, and is nobody's to change for the others."""
    binding = stage.bind("""
        from workers import WorkflowEntrypoint
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                kept = []
                def body():
                    kept.append({"n": (1, 2), "s": {3}})
                    return kept[-1]
                first = await step.do("make", body)
                if kept:
                    kept[0]["n"] = "changed behind its back"
                await self.env.LEDGER.note(repr(first))
                await step.sleep("nap", "1 hour")
                return [first, first.n == [1, 2]]
    """)
    instance = await binding.create()
    await stage.rests(instance)
    stage.evict()
    assert await stage.outcome(instance) == [{"n": [1, 2], "s": {3}}, True]
    assert len(set(stage.ledger.entries)) == 1


async def test_a_run_that_only_waits_cannot_reach_the_host_from_its_finally_blocks(stage: Any) -> None:
    """When it is parked its code is unwound, but what it does then is neither called nor recorded."""
    binding = stage.bind("""
        import asyncio
        from workers import WorkflowEntrypoint
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                await self.env.LEDGER.note("begin")
                try:
                    await step.sleep("night", "8 hours")
                except BaseException:
                    await self.env.LEDGER.note("except")
                finally:
                    try:
                        await self.env.LEDGER.note("finally")
                    finally:
                        await step.do("clean up", lambda: self.env.LEDGER.note("step"))
                await self.env.LEDGER.note("end")
                return "morning"
    """)
    instance = await binding.create()
    await stage.rests(instance)
    assert stage.ledger.entries == ["begin"]
    assert [step["name"] for step in (await instance.status())["steps"]] == ["night"]
    assert await stage.outcome(instance) == "morning"
    assert stage.ledger.entries == ["begin", "begin", "finally", "step", "end"]


async def test_a_run_that_refuses_to_be_parked_records_nothing_more(stage: Any) -> None:
    """It swallows whatever it is thrown and goes on; its steps go nowhere, and the next run is the one that counts."""
    binding = stage.bind("""
        import asyncio
        from workers import WorkflowEntrypoint
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                try:
                    await step.sleep("night", "8 hours")
                except BaseException:
                    for _ in range(3):
                        try:
                            await step.do("sneaked in", lambda: "never")
                        except BaseException:
                            pass
                    return "sneaked out"
                return "morning"
    """)
    instance = await binding.create()
    await stage.rests(instance)
    assert await stage.outcome(instance) == "morning"
    assert [step["name"] for step in (await instance.status())["steps"]] == ["night"]


async def test_a_replay_that_takes_another_path_is_found_out(stage: Any) -> None:
    """The same code, but what the host's binding says has changed: recorded steps are not reached, and that is told."""
    answers = ["long", "short"]
    stage.env["PATH"] = lambda: answers.pop(0)
    binding = stage.bind("""
        from workers import WorkflowEntrypoint
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                if await self.env.PATH() == "long":
                    await step.do("first", lambda: 1)
                    await step.do("second", lambda: 2)
                await step.sleep("night", "8 hours")
                return "ended"
    """)
    instance = await binding.create()
    await stage.rests(instance)
    stage.evict()
    error = await stage.outcome(instance)
    assert error["name"] == "NonDeterminismError"
    assert "first" in error["message"]
    assert "second" in error["message"]
    with pytest.raises(InstanceFailed, match="NonDeterminismError"):
        await instance.result()


async def test_a_pause_holds_a_run_and_a_terminated_one_stays_so(stage: Any) -> None:
    """Deadlines move by the length of the pause, and what is ended takes nothing any more."""
    binding = stage.bind("""
        from workers import WorkflowEntrypoint
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                await step.sleep("hour", "1 hour")
                await self.env.LEDGER.note("awake")
                await step.wait_for_event("never", "never")
    """)
    instance = await binding.create()
    began = stage.clock.now()
    await stage.rests(instance)
    await instance.pause()
    await stage.clock.advance(7200)
    assert (await instance.status())["status"] == "paused"
    await instance.resume()

    async def awake() -> bool:
        return bool(stage.ledger.entries)

    await stage.until(awake, step=10)
    assert stage.ledger.times[0] - began >= 3 * 3_600_000
    await instance.terminate()
    assert await stage.outcome(instance) == {"name": "Terminated", "message": "the instance was terminated"}
    with pytest.raises(Exception, match="ended"):
        await instance.send_event(type="never")


async def test_a_step_may_be_a_partial_or_a_method(stage: Any) -> None:
    """Whatever can be called is a body."""
    binding = stage.bind("""
        import functools
        from workers import WorkflowEntrypoint
        class Priced:
            def __init__(self, price): self.price = price
            def total(self): return self.price * 2
            async def __call__(self): return self.price
        def add(a, b): return a + b
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                return [
                    await step.do("method", Priced(21).total),
                    await step.do("partial", functools.partial(add, 40, 2)),
                    await step.do("object", Priced(42)),
                ]
    """)
    assert await stage.outcome(await binding.create()) == [42, 42, 42]


@pytest.mark.parametrize("order", ["wait first", "body first", "body awaits first"])
async def test_a_body_that_blocks_is_not_mistaken_for_a_run_that_only_waits(
    path: Any, eventually: Any, order: str
) -> None:
    """Beside a wait of a day, work that never gives way is recorded when it is done, and done once."""
    source = """
        import asyncio, time
        from workers import WorkflowEntrypoint
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                def blocking():
                    time.sleep(0.3)
                    return "rendered"
                async def awaiting():
                    await self.env.NOTE()
                    return blocking()
                wait = lambda: step.wait_for_event("approval", "approval")
                work = lambda: step.do("render", awaiting if event.payload == "body awaits first" else blocking)
                pair = [wait, work] if event.payload == "wait first" else [work, wait]
                results = await asyncio.gather(*(part() for part in pair))
                return [part for part in results if isinstance(part, str)]
    """
    notes: list[int] = []
    code = WorkerCode(
        main_module="main.py",
        modules={"main.py": textwrap.dedent(source)},
        env={"NOTE": lambda: notes.append(1)},
    )
    async with Host(path, get_code=lambda _: code, spares=1) as host:
        instance = await host.workflows("t").create(params=order)

        async def rendered() -> bool:
            return any(step["status"] == "done" for step in (await instance.status())["steps"])

        await eventually(rendered)
        await instance.send_event(type="approval")
        assert await instance.result() == ["rendered"]
        assert len(notes) <= 1
        assert host.loader.statistics().deaths == 0


async def test_what_a_body_does_to_its_context_concerns_nobody_else(stage: Any) -> None:
    """Neither the next attempt nor any other step, of the same configuration or of none."""
    binding = stage.bind("""
        import asyncio
        from workers import WorkflowEntrypoint
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                async def body(ctx):
                    seen = [ctx.config.timeout, ctx.config.retries.limit, ctx.step.name, ctx.attempt]
                    ctx.config["timeout"] = 1
                    ctx.config["retries"]["limit"] = 0
                    ctx.step["name"], ctx["attempt"] = "another", 9
                    await asyncio.sleep(0.01)
                    if seen[-1] == 1:
                        raise ValueError
                    return seen
                config = {"retries": {"limit": 1, "delay": 0}, "timeout": "1 minute"}
                steps = ["a"], ["b"], ["c", config], ["d", config]
                return [await step.do(*given, body) for given in steps]
    """)
    assert await stage.outcome(await binding.create()) == [
        [600_000, 5, "a", 2],
        [600_000, 5, "b", 2],
        [60_000, 1, "c", 2],
        [60_000, 1, "d", 2],
    ]


async def test_an_event_is_waited_for_for_a_second_at_least(stage: Any) -> None:
    """And for a year at most; what is neither is refused in words."""
    binding = stage.bind("""
        from workers import WorkflowEntrypoint
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                said = []
                for timeout in (999, 0, "366 days", "soon", 1000):
                    try:
                        await step.wait_for_event("w", "t", timeout=timeout)
                    except Exception as error:
                        said.append(str(error))
                return said
    """)
    short, none, long, odd, late = await stage.outcome(await binding.create(), step=1)
    assert "less than a second" in short
    assert "less than a second" in none
    assert "up to 365 days" in long
    assert "'soon'" in odd
    assert "timed out after 1000ms" in late


async def test_an_error_is_of_its_class_again_where_the_program_has_it(stage: Any) -> None:
    """The tenant's own, a library's, a built-in one; in the run that raised it and in a replay. What is made of more
    than its words, or is ambiguous, is an error of its name."""
    binding = stage.bind("""
    import json
    from pyodide.ffi import JsException
    from workers import WorkflowEntrypoint
    from workers.workflows import NonRetryableError

    class Declined(ValueError):
        pass

    class Odd(Exception):
        def __init__(self, code, when):
            self.code, self.when = code, when
        def __str__(self):
            return f"{self.code} {self.when}"

    class TenantWorkflow(WorkflowEntrypoint):
        async def run(self, event, step):
            seen = []
            never = {"retries": {"limit": 0, "delay": 0}}
            for error in (Declined("no"), Odd(1, 2), json.JSONDecodeError("bad", "x", 0), TypeError("t"),
                          NonRetryableError("n")):
                @step.do(type(error).__name__, config=never)
                async def fails():
                    raise error
                try:
                    await fails()
                except Declined as caught:
                    seen.append(["Declined", isinstance(caught, ValueError), str(caught)])
                except json.JSONDecodeError as caught:
                    seen.append(["JSONDecodeError", str(caught)])
                except NonRetryableError as caught:
                    seen.append(["NonRetryableError", str(caught)])
                except JsException as caught:
                    seen.append(["JsException", caught.name, str(caught)])
                except TypeError as caught:
                    seen.append(["TypeError", str(caught)])
            await step.sleep("a while", "1 hour")
            return seen
    """)
    instance = await binding.create()
    await stage.rests(instance)
    stage.evict()
    assert await stage.outcome(instance) == [
        ["Declined", True, "Declined: no"],
        ["JsException", "Odd", "Odd: 1 2"],
        ["JSONDecodeError", "JSONDecodeError: bad: line 1 column 1 (char 0)"],
        ["TypeError", "TypeError: t"],
        ["NonRetryableError", "n"],
    ]


async def test_the_error_of_an_instance_says_its_class_once(stage: Any) -> None:
    """Also of one that came out of a step, or of a step in the body of another one; in a replay too."""
    binding = stage.bind("""
    from workers import WorkflowEntrypoint
    from workers.workflows import NonRetryableError

    class Declined(ValueError):
        pass

    class Odd(Exception):
        def __init__(self, code, when):
            self.code, self.when = code, when
        def __str__(self):
            return f"{self.code} {self.when}"

    ERRORS = [TypeError("t"), KeyError("k"), UnicodeDecodeError("utf-8", b"x", 0, 1, "u"), Declined("no"), Odd(1, 2),
              NonRetryableError("n"), OSError(2, "gone")]

    class TenantWorkflow(WorkflowEntrypoint):
        async def run(self, event, step):
            number, inside, again = event.payload
            never = {"retries": {"limit": 0, "delay": 0}}
            async def fails():
                raise ERRORS[number]
            async def outer():
                await step.do("inner", never, fails)
            try:
                await step.do("outer", never, outer if inside else fails)
            except Exception:
                await step.sleep("a while", "1 hour")
                if not again:
                    raise
                await step.do("again", never, outer)
    """)
    said = ["t", "'k'", "'utf-8' codec can't decode byte 0x78 in position 0: u", "no", "1 2", "n", "[Errno 2] gone"]
    kinds = ["TypeError", "KeyError", "UnicodeDecodeError", "Declined", "Odd", "NonRetryableError", "FileNotFoundError"]
    for number, (kind, words) in enumerate(zip(kinds, said, strict=True)):
        for inside, again in ((False, False), (True, False), (False, True)):
            instance = await binding.create(params=[number, inside, again])
            assert await stage.outcome(instance) == {"name": kind, "message": words}
            status = await instance.status()
            assert {(step["error"] or {}).get("message", words) for step in status["steps"]} == {words}


async def test_an_event_that_came_along_with_the_run_is_on_record_soon(stage: Any, eventually: Any) -> None:
    """Also if the program asks for nothing more: it is shown with its event, and can be begun from again."""
    binding = stage.bind("""
    import asyncio
    from workers import WorkflowEntrypoint
    class TenantWorkflow(WorkflowEntrypoint):
        async def run(self, event, step):
            await step.sleep("nap", "1 hour")
            got = await step.wait_for_event("go", "go")
            await self.env.LEDGER.note(f"got {got.payload}")
            await asyncio.Event().wait()
    """)
    instance = await binding.create()

    async def waits() -> list[str]:
        return [step["status"] for step in (await instance.status())["steps"] if step["kind"] == "wait"]

    await stage.rests(instance)
    await instance.send_event(type="go", payload=1)
    await stage.clock.advance(3600)
    await eventually(lambda: stage.ledger.entries == ["got 1"])

    async def is_told() -> bool:
        return await waits() == ["done"]

    await eventually(is_told)
    await instance.restart(from_step={"name": "go", "type": "wait"})

    async def waits_again() -> bool:
        return await waits() == ["waiting"]

    await eventually(waits_again)
    await instance.send_event(type="go", payload=2)
    await eventually(lambda: stage.ledger.entries == ["got 1", "got 2"])


async def test_lengths_of_time_and_names_are_taken_in_either_form(stage: Any) -> None:
    """A timedelta where a duration is taken, a datetime where a moment is; camel case beside snake case, and options
    as JavaScript has them."""
    binding = stage.bind("""
    from datetime import timedelta
    from workers import WorkflowEntrypoint
    class TenantWorkflow(WorkflowEntrypoint):
        async def run(self, event, step):
            config = {"retries": {"limit": 1, "delay": timedelta(seconds=5), "backoff": "constant"},
                      "timeout": timedelta(minutes=1)}
            @step.do("timed", config=config)
            async def timed(ctx):
                assert (ctx.config.timeout, ctx.config.retries.delay) == (60_000, 5_000)
                if ctx.attempt < 2:  # and not in how many tries this process knows of: it may be put aside between two
                    raise ValueError("again")
                return ctx["attempt"]
            found = [await timed()]
            found.append(await step.do("plain", {"timeout": "1 minute"}, lambda: "plain"))
            await step.sleep("a", timedelta(hours=1))
            await step.sleepUntil("b", event["timestamp"] + timedelta(hours=3))
            got = await step.waitForEvent("c", {"type": "go", "timeout": "2 hours"})
            found.append(got.payload)
            try:
                await step.wait_for_event("d", "never", timeout=timedelta(hours=1))
            except Exception as error:
                found.append(str(error))
            return found
    """)
    instance = await binding.create()
    await instance.send_event(type="go", payload=5)
    *found, late = await stage.outcome(instance)
    assert found == [2, "plain", 5]
    assert "timed out after 3600000ms" in late
