"""Payloads on disk: compressed, or unreadable without the host's key, and the same to everybody who asks the engine."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from cloister.engine import (
    CodecFailed,
    CodecMismatch,
    Compression,
    Engine,
    Instance,
    InstanceFailed,
    WorkflowEntrypoint,
)
from cloister.engine.records import Address
from cloister.engine.store.export import export
from cloister.ipc import values

if TYPE_CHECKING:
    from pathlib import Path

    from cloister.engine.testing import VirtualClock

OpenEngine = Callable[..., Engine]
Body = Callable[[Any, Any], Awaitable[Any]]
SECRET = "the secret"


class Xor:
    """A cipher that is good for nothing but a test: without the key nothing can be read."""

    def __init__(self, key: int) -> None:
        self.key = key

    def encode(self, data: bytes) -> bytes:
        return b"\xc1x" + bytes(byte ^ self.key for byte in data)

    def decode(self, data: bytes) -> bytes:
        if not data.startswith(b"\xc1x"):
            raise ValueError("not sealed")
        return bytes(byte ^ self.key for byte in data[2:])


def workflow_of(body: Body) -> type[WorkflowEntrypoint]:
    class Written(WorkflowEntrypoint):
        async def run(self, event: Any, step: Any) -> Any:
            return await body(event, step)

    return Written


def pieces() -> Iterator[bytes]:
    yield SECRET.encode() * 1000


def fail() -> None:
    raise LookupError(SECRET)


async def story(event: Any, step: Any, children: Any) -> Any:
    """Every way in which a payload is stored, with a night in the middle."""
    if event.payload == "child":
        return SECRET

    async def beaten(ctx: Any) -> Any:
        await ctx.heartbeat(SECRET)
        if ctx.attempt == 1:
            raise ValueError
        return ctx.details

    stream = await step.do("stream", pieces)
    said = await step.do("beaten", {"retries": {"limit": 1, "delay": 0}}, beaten)
    heard = (await step.wait_for_event("w", type="t")).payload
    child = await step.child("c", children, params="child")
    first = await step.do("first", lambda: [SECRET, event.payload])
    with pytest.raises(LookupError, match=SECRET):
        await step.do("failing", {"retries": {"limit": 1, "delay": 0}}, fail)
    step._journal.pin(b"digest", values.dumps(SECRET))
    await step.sleep("night", "8 hours")
    later = (await step.wait_for_event("w", type="t")).payload
    whole = await stream.read()
    return [said, heard, child, first, later, whole == SECRET.encode() * 1000]


OUTPUT = [SECRET, SECRET, SECRET, [SECRET, SECRET], SECRET, True]


@pytest.mark.parametrize("codec", [Xor(0x5A), Compression(above=1)], ids=["cipher", "compression"])
async def test_nothing_readable_is_on_disk_and_everything_is_there_after_a_restart(
    open_engine: OpenEngine, clock: VirtualClock, path: Path, codec: Any
) -> None:
    """Params, results, streams, heartbeats, events taken and buffered, children's outputs, outputs, interventions."""

    def register(engine: Engine) -> Any:
        async def body(event: Any, step: Any) -> Any:
            return await story(event, step, workflow)

        workflow = engine.workflow("w", workflow_of(body))
        return workflow

    async with open_engine(codec=codec) as engine:
        instance = await register(engine).create(id="i", params=SECRET)
        for _ in range(2):
            await instance.send_event(type="t", payload=SECRET)
            await clock.advance(60)
        assert (await instance.status())["status"] == "waiting"
        await instance.override("first", result=[SECRET, SECRET], author="Ann", reason="as a test")
        assert (await instance.interventions())[0]["result"] == [SECRET, SECRET]
    database = sqlite3.connect(path)
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    if isinstance(codec, Xor):
        assert SECRET.encode() not in await asyncio.to_thread(path.read_bytes)
    async with open_engine(codec=codec) as engine:
        instance = await register(engine).get("i")
        await clock.advance(9 * 3600)
        assert await instance.result() == OUTPUT
        fork = await instance.fork(from_step="first")
        await fork.send_event(type="t", payload=SECRET)
        await clock.advance(9 * 3600)
        assert await fork.result() == OUTPUT


async def test_what_an_instance_ended_with_is_sealed_and_told(
    open_engine: OpenEngine, clock: VirtualClock, path: Path
) -> None:
    """Its error, the attempts that failed, and why its steps could not be taken back; in status and history."""

    async def body(event: Any, step: Any) -> None:
        await step.do("taken back", lambda: None, rollback=fail, rollback_config={"retries": {"limit": 0, "delay": 0}})
        fail()

    async with open_engine(codec=Xor(7)) as engine:
        instance = await engine.workflow("w", workflow_of(body)).create(id="i")
        await clock.advance(60)
        with pytest.raises(InstanceFailed, match=SECRET):
            await instance.result()
    async with open_engine(codec=Xor(7)) as engine:
        instance = await engine.workflow("w", workflow_of(body)).get("i")
        status = await instance.status()
        assert status["error"] == {"name": "LookupError", "message": SECRET}
        assert SECRET in status["rollback"]
        told = [event.error async for event in instance.subscribe() if event.error is not None]
        assert [error["name"] for error in told] == [*["LookupError"] * 3, "RollbackFailed", "LookupError"]
        assert all(SECRET in error["message"] for error in told)
    assert SECRET.encode() not in await asyncio.to_thread(path.read_bytes)
    exported = await asyncio.to_thread(export, path, Address("w", "", "i"))
    assert exported["error"]["name"] == exported["undoing"]["name"] == "$sealed"


async def test_a_database_is_not_opened_with_another_key(open_engine: OpenEngine, path: Path) -> None:
    """It is refused by name and left alone; whoever takes it apart without the key sees what is sealed."""

    async def body(event: Any, step: Any) -> Any:
        return await step.do("s", lambda: SECRET)

    async with open_engine(codec=Xor(1)) as engine:
        await (await engine.workflow("w", workflow_of(body)).create(id="i", params=SECRET)).result()
    for other in (Xor(2), None, Compression()):
        with pytest.raises(CodecMismatch):
            async with open_engine(codec=other):
                pass
    told = await asyncio.to_thread(export, path, Address("w", "", "i"))
    assert set(told["params"]) == set(told["output"]) == set(told["steps"][0]["value"]) == {"$sealed"}
    async with open_engine(codec=Xor(1)) as engine:
        assert await (await engine.workflow("w", workflow_of(body)).get("i")).result() == SECRET


async def test_compression_reads_what_was_stored_before_it_and_makes_large_payloads_small(
    open_engine: OpenEngine, clock: VirtualClock, path: Path
) -> None:
    """It can be switched on at any time; small payloads, and those that do not shrink, are stored as they are."""

    async def body(event: Any, step: Any) -> Any:
        before = await step.do("before", lambda: "x" * 100_000)
        await step.sleep("night", "8 hours")
        after = await step.do("after", lambda: "x" * 100_000)
        small = await step.do("small", lambda: "small")
        return [len(before), len(after), small]

    async with open_engine() as engine:
        await engine.workflow("w", workflow_of(body)).create(id="i")
        await clock.advance(60)
    async with open_engine(codec=Compression()) as engine:
        instance = await engine.workflow("w", workflow_of(body)).get("i")
        await clock.advance(9 * 3600)
        assert await instance.result() == [100_000, 100_000, "small"]
    database = sqlite3.connect(path)
    sizes = dict(database.execute("SELECT name, length(value) FROM steps WHERE kind = 'do'").fetchall())
    database.close()
    assert sizes["before"] > 100_000
    assert sizes["after"] < 1_000
    assert sizes["small"] == 6


class Moody:
    """It chokes on some payloads while it is in the mood."""

    def __init__(self) -> None:
        self.encodes = self.decodes = True

    def encode(self, data: bytes) -> bytes:
        if not self.encodes and b"odd" in data:
            raise ConnectionError("the key server is away")
        return data

    def decode(self, data: bytes) -> bytes:
        if not self.decodes and b"odd" in data:
            raise ConnectionError("the key server is away")
        return data


async def test_a_payload_that_the_codec_cannot_encode_harms_nobody_else(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """What is of the same commit is stored; whose it is goes on from its records when the codec takes it again."""
    codec, ran = Moody(), list[tuple[str, int]]()

    class Steps(WorkflowEntrypoint):
        async def run(self, event: Any, step: Any) -> Any:
            for number in range(4):
                await step.do(f"s{number}", lambda n=number: ran.append((event.instance_id, n)))
            return await step.do("last", lambda: event.payload[::-1])

    async with open_engine(codec=codec) as engine:
        workflow = engine.workflow("w", Steps)
        codec.encodes = False
        calls = [workflow.create(id=f"{word}{n}", params=word) for n in range(20) for word in ("plain", "odd", "ddo")]
        made = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(each).__name__ for each in made] == ["Instance", "CodecFailed", "Instance"] * 20
        assert str(made[1]) == "the codec could not encode a payload: ConnectionError: the key server is away"
        await clock.advance(3600)
        handles = [each for each in made if isinstance(each, Instance)]
        assert [await each.result(1) for each in handles[::2]] == ["nialp"] * 20
        trouble = (await handles[1].status())["trouble"]
        assert "the key server is away" in trouble
        with pytest.raises(CodecFailed):
            await handles[1].send_event(type="t", payload="odd")
        codec.encodes = True
        await clock.advance(400)
        assert [await each.result(1) for each in handles[1::2]] == ["odd"] * 20
        assert sorted(ran) == sorted((each.id, n) for each in handles for n in range(4))
        assert (await handles[1].status())["trouble"] is None


async def test_a_payload_that_the_codec_cannot_decode_holds_nobody_else_up(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """Its instance is tried again later, however often, also if it has never run; nothing is counted against it."""
    codec = Moody()

    class Nap(WorkflowEntrypoint):
        async def run(self, event: Any, step: Any) -> Any:
            await step.sleep("nap", "1 minute")
            return event.payload

    async with open_engine(codec=codec) as engine:
        workflow = engine.workflow("w", Nap, concurrency=2)
        words = ["odd", "plain"] * 5
        instances = [await workflow.create(params=word) for word in words]
        await clock.advance(1)
        codec.decodes = False
        later = await workflow.create_batch([{"params": word} for word in words])
        await clock.advance(300)
        statuses = [(await each.status())["status"] for each in (*instances, *later)]
        assert statuses == ["waiting", "complete"] * 10
        assert "the key server is away" in (await later[0].status())["trouble"]
        await clock.advance(100_000)
        codec.decodes = True
        await clock.advance(10_000)
        assert [await each.result(1) for each in (*instances, *later)] == words * 2
