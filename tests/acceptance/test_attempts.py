"""What surrounds an attempt of a tenant's step: delays that it says, streams, signs of life, tokens, values."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import pytest

from cloister.engine import Attempt, WorkflowEntrypoint, current_attempt
from cloister.loader import RpcTarget, pulses


class Register(RpcTarget):
    """A store of the host's that asks on whose behalf it is called."""

    def __init__(self) -> None:
        self.seen: list[Attempt | None] = []

    def put(self, value: str) -> str:
        self.seen.append(current_attempt())
        return value


async def test_a_tenants_function_says_how_long_to_wait(stage: Any) -> None:
    """With the context, which shows no delay, and the error; what it says lasts over an eviction."""
    binding = stage.bind("""
        from workers import WorkflowEntrypoint
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                async def delay(ctx, error):
                    await self.env.LEDGER.note(f"asked {ctx.attempt} {error}")
                    return "1 hour"
                async def body(ctx):
                    if await self.env.LEDGER.note("try") < 3:
                        raise ConnectionError("down")
                    return sorted(ctx.config.retries)
                retries = {"limit": 5, "delay": delay, "backoff": "linear"}
                return await step.do("flaky", {"retries": retries}, body)
    """)
    instance = await binding.create()
    await stage.rests(instance)
    assert stage.evict()
    began = stage.clock.now()
    assert await stage.outcome(instance) == ["backoff", "limit"]
    assert stage.ledger.entries == ["try", "asked 1 down", "try", "asked 2 down", "try"]
    assert stage.clock.now() - began >= 3 * 3_600_000


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("lambda: 1 / 0", "it raised ZeroDivisionError: division by zero"),
        ("lambda: 'soon'", "'soon' is neither milliseconds nor text"),
        ("'dynamic'", "it raised TypeError"),
    ],
)
async def test_a_function_that_cannot_say_fails_the_step(stage: Any, function: str, words: str) -> None:
    """At once, whatever its retries."""
    binding = stage.bind(f"""
        from workers import WorkflowEntrypoint
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                async def body():
                    await self.env.LEDGER.note("try")
                    raise ValueError
                await step.do("flaky", {{"retries": {{"limit": 5, "delay": {function}}}}}, body)
    """)
    error = await stage.outcome(await binding.create())
    assert error["name"] == "NonRetryableDelayError"
    assert words in error["message"]
    assert stage.ledger.entries == ["try"]


async def test_a_stream_is_stored_in_pieces_and_read_again_after_an_eviction(stage: Any) -> None:
    """Three megabytes, more than a value may have; the source runs once."""
    binding = stage.bind("""
        import hashlib
        from workers import WorkflowEntrypoint
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                async def source():
                    await self.env.LEDGER.note("source")
                    for n in range(30):
                        yield bytes([n]) * 100_000
                stream = await step.do("large", source)
                await step.sleep("night", "8 hours")
                digest = hashlib.sha256()
                async for chunk in stream:
                    digest.update(chunk)
                return [stream.size, digest.hexdigest(), hashlib.sha256(await stream.read()).hexdigest()]
    """)
    instance = await binding.create()
    await stage.rests(instance)
    assert stage.evict()
    size, first, second = await stage.outcome(instance)
    assert (size, first) == (3_000_000, second)
    assert first == hashlib.sha256(b"".join(bytes([n]) * 100_000 for n in range(30))).hexdigest()
    assert stage.ledger.entries == ["source"]


async def test_a_stream_of_text_fails_its_step_once(stage: Any) -> None:
    """As would a generator that yields too much at once."""
    binding = stage.bind("""
        from workers import WorkflowEntrypoint
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                def source():
                    yield b"bytes"
                    yield "text"
                async def body():
                    await self.env.LEDGER.note("try")
                    return source()
                try:
                    await step.do("text", body)
                except Exception as error:
                    return [error.name, error.message]
    """)
    name, message = await stage.outcome(await binding.create())
    assert (name, message) == ("StreamError", "the stream of step 'text' yields str; it may yield bytes")
    assert stage.ledger.entries == ["try"]


async def test_what_is_too_large_fails_its_step_once_and_says_so(stage: Any) -> None:
    """A result of more than 1 MiB that is no stream."""
    binding = stage.bind("""
        from workers import WorkflowEntrypoint
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                async def body():
                    await self.env.LEDGER.note("try")
                    return "x" * 1_048_577
                try:
                    await step.do("large", body)
                except Exception as error:
                    return [error.name, error.message]
    """)
    name, message = await stage.outcome(await binding.create())
    assert name == "PayloadTooLarge"
    assert "1,048,576" in message
    assert stage.ledger.entries == ["try"]


async def test_a_heartbeat_of_a_tenants_step_is_there_after_its_sandbox_was_lost(stage: Any, eventually: Any) -> None:
    """The next attempt goes on from what it said."""
    binding = stage.bind("""
        import asyncio
        from workers import WorkflowEntrypoint
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                async def copy(ctx):
                    done = ctx.details or 0
                    await self.env.LEDGER.note(f"from {done}")
                    going_on = await ctx.heartbeat(done + 10)
                    if done == 0:
                        await self.env.LEDGER.note("beaten")
                        await asyncio.sleep(3600)
                    return [done, going_on, ctx.attempt]
                return await step.do("copy", copy)
    """)
    instance = await binding.create()
    await eventually(lambda: "beaten" in stage.ledger.entries)
    assert stage.evict()
    assert await stage.outcome(instance) == [10, True, 1]
    assert stage.ledger.entries == ["from 0", "beaten", "from 10"]


SILENT = """
import asyncio
from workers import WorkflowEntrypoint
class TenantWorkflow(WorkflowEntrypoint):
    async def run(self, event, step):
        async def copy(ctx):
            await self.env.LEDGER.note(f"from {ctx.details} {ctx.config.heartbeatTimeout}")
            for done in range(3):
                await asyncio.sleep(0.02)
                await ctx.heartbeat(done)
            if ctx.attempt < 3:
                await asyncio.sleep(3600)
            return ctx.attempt
        config = {"retries": {"limit": 1, "delay": 0}, "heartbeatTimeout": %d}
        try:
            await step.do("copy", config, copy)
        except Exception as error:
            first = [error.name, error.message]
        config["retries"]["limit"] = 2
        return [*first, await step.do("copy", config, copy)]
"""


async def test_an_attempt_without_a_sign_of_life_is_ended_and_retried(stage: Any) -> None:
    """By the sandbox itself; the next one goes on from what the last sign said."""
    for milliseconds in (250, 1_500, 15_000):  # a machine that is too busy for its signs within that time has more
        stage.ledger.entries.clear()
        told = await stage.outcome(await stage.bind(SILENT % milliseconds).create())
        heard = [f"from {done} {milliseconds}" for done in (None, 2, None, 2, 2)]
        if stage.ledger.entries == heard:
            break
    assert stage.ledger.entries == heard
    assert told == ["WorkflowTimeoutError", f"There was no heartbeat for {milliseconds}ms", 3]


async def test_a_process_that_cannot_end_a_silent_attempt_is_ended_from_outside(
    stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has lost its run, which costs no retry, and the attempt begins again with what it had said."""
    planned, asked = [3600.0, 0.0, 0.0], list[float]()

    def wait(run: pulses.Pulses, key: tuple[str, int], seconds: float) -> asyncio.TimerHandle:
        """It is silent for too long once it has given its sign of life, twice; and never again."""
        asked.append(seconds)
        return asyncio.get_running_loop().call_later(planned.pop(0) if planned else 3600.0, run._missed, key)

    monkeypatch.setattr(pulses.Pulses, "_wait", wait)
    binding = stage.bind("""
        import time
        from workers import WorkflowEntrypoint
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                async def copy(ctx):
                    await self.env.LEDGER.note(f"from {ctx.details}")
                    await ctx.heartbeat("half")
                    if ctx.details is None:
                        time.sleep(3600)
                    return ctx.attempt
                return await step.do("copy", {"retries": {"limit": 0, "delay": 0}, "heartbeat_timeout": 60_000}, copy)
    """)
    assert await stage.outcome(await binding.create()) == 1
    assert stage.ledger.entries == ["from None", "from half"]
    assert asked[:3] == [60 + pulses.GRACE / 2, 60 + pulses.GRACE / 2, pulses.GRACE / 2]
    assert stage.engine.statistics().lost == 1


async def test_capabilities_are_told_on_whose_behalf_they_are_called(stage: Any) -> None:
    """By the host, with a token that grows from attempt to attempt; outside of a step there is none to tell of."""
    register = stage.env["REGISTER"] = Register()
    binding = stage.bind("""
        from workers import WorkflowEntrypoint
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                await self.env.REGISTER.put("outside")
                async def body(ctx):
                    await self.env.REGISTER.put("inside")
                    if ctx.attempt == 1:
                        raise ValueError
                    return ctx.token
                return await step.do("put it", {"retries": {"limit": 1, "delay": 0}}, body)
    """)
    instance = await binding.create(id="i")
    token = await stage.outcome(instance)
    outside, first, second = register.seen
    assert outside is None
    assert first is not None
    assert second is not None
    assert (first.scope, first.instance_id, first.step, first.count) == (stage.name, "i", "put it", 1)
    assert (first.attempt, second.attempt) == (1, 2)
    assert first.token < second.token == token
    assert first.key == second.key


async def test_a_child_that_a_step_creates_without_an_id_is_created_once(stage: Any) -> None:
    """However often the step is tried."""
    binding = stage.bind("""
        from workers import WorkflowEntrypoint
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                if event.payload.get("child"):
                    return await self.env.LEDGER.note("child")
                async def body(ctx):
                    ids = [(await self.env.WORKFLOWS.create({"params": {"child": n}})).id for n in (1, 2)]
                    await self.env.LEDGER.note(" ".join(ids))
                    if ctx.attempt == 1:
                        raise ValueError
                    return ids
                return await step.do("create", {"retries": {"limit": 1, "delay": 0}}, body)
    """)
    stage.env["WORKFLOWS"] = binding
    ids = await stage.outcome(await binding.create(params={}))
    for name in ids:
        await stage.outcome(await binding.get(name))
    assert len(set(ids)) == 2
    assert sorted(stage.ledger.entries) == sorted([" ".join(ids)] * 2 + ["child"] * 2)


async def test_time_chance_and_ids_are_recorded(stage: Any) -> None:
    """A replay in another sandbox has the same ones."""
    binding = stage.bind("""
        from workers import WorkflowEntrypoint
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                found = [await step.now(), await step.random(), await step.random(), await step.uuid()]
                await self.env.LEDGER.note(" ".join(map(str, found)))
                await step.sleep("night", "8 hours")
                return found[1:3]
    """)
    instance = await binding.create()
    await stage.rests(instance)
    assert stage.evict()
    first, second = await stage.outcome(instance)
    assert 0 <= first < 1
    assert first != second
    assert len(stage.ledger.entries) == 2
    assert stage.ledger.entries[0] == stage.ledger.entries[1]


async def test_a_method_that_step_does_not_have_is_said_so(stage: Any) -> None:
    """As of any object."""
    binding = stage.bind("""
        from workers import WorkflowEntrypoint
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                return [hasattr(step, "waitForNothing"), hasattr(step, "now")]
    """)
    assert await stage.outcome(await binding.create()) == [False, True]


async def test_a_sandbox_that_a_hosts_own_step_has_started_is_not_taken_for_that_step(stage: Any) -> None:
    """Whoever opened the connection, a call is about the tenant's step, or about none."""
    register = stage.env["REGISTER"] = Register()
    stage.source = """
        from workers import WorkerEntrypoint, WorkflowEntrypoint
        class Default(WorkerEntrypoint):
            async def put(self, value):
                return await self.env.REGISTER.put(value)
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                return await step.do("theirs", lambda: self.env.REGISTER.put("in a step"))
    """
    stub = stage.loader.get(stage.name, stage.code)

    class Own(WorkflowEntrypoint):
        async def run(self, event: Any, step: Any) -> Any:
            return await step.do("ours", lambda: stub.get_entrypoint().put("called"))

    own = await stage.engine.workflow("own", Own).create()
    assert await own.result() == "called"
    binding = stage.bind(stage.source)
    await stage.outcome(await binding.create(id="t"))
    called, inside = register.seen
    assert called is None
    assert inside is not None
    assert (inside.instance_id, inside.step) == ("t", "theirs")


async def test_a_call_by_way_of_a_run_is_no_longer_a_chain_than_any(stage: Any) -> None:
    """A million names cost the host no more than one that is refused."""
    stage.env["REGISTER"] = Register()
    binding = stage.bind("""
        from cloister.ipc import values
        from workers import WorkflowEntrypoint
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                async def body():
                    stub = self.env.REGISTER
                    try:
                        await stub._channel.call(stub._target, "put" + ".put" * 1_000_000, values.dumps([[], {}]))
                    except Exception as error:
                        return str(error)
                return await step.do("long", body)
    """)
    assert "1,000,001 calls; at most 16" in await stage.outcome(await binding.create())


async def test_a_call_by_way_of_a_run_cannot_hide_in_another_one(stage: Any) -> None:
    """However deep a tenant packs it."""
    binding = stage.bind("""
        from cloister.ipc import values
        from cloister.ipc.peer import Peer
        from workers import WorkflowEntrypoint
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                journal = step._journal
                payload = values.dumps([[], {}])
                for _ in range(3):
                    payload = values.dumps(["1 1 a", journal._target, "through", payload])
                try:
                    await journal._ask(journal._target, "through", bytes, payload)
                except Exception as error:
                    return str(error)
    """)
    assert "inside another one" in await stage.outcome(await binding.create())


async def test_a_body_that_is_done_at_once_sets_no_timer_and_one_that_is_waited_for_sets_one(stage: Any) -> None:
    """Its limit has a timer only when it takes long, and holds from the start: see the test of the limit itself."""
    binding = stage.bind("""
        import asyncio
        from workers import WorkflowEntrypoint
        class TenantWorkflow(WorkflowEntrypoint):
            async def run(self, event, step):
                loop, set_for = asyncio.get_running_loop(), []
                at = loop.call_at
                def call_at(when, *rest, **more):
                    set_for.append(when - loop.time())
                    return at(when, *rest, **more)
                loop.call_at = call_at
                async def nothing():
                    pass
                async def body():
                    await asyncio.sleep(0)
                try:
                    await step.do("sync", lambda: None)
                    await step.do("nothing", nothing)
                    at_once = len(set_for)
                    await step.do("async", body)
                    waited_for = len(set_for)
                    await step.do("slow", lambda: asyncio.sleep(0.05))
                    return [at_once, waited_for - at_once, len([seconds for seconds in set_for if seconds > 300])]
                finally:
                    del loop.call_at
    """)
    assert await stage.outcome(await binding.create()) == [0, 1, 1]
