"""Results that are streams of bytes: recorded in pieces, read anew in every replay, gone with what they belong to."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from cloister.engine import ByteStream, Engine, StepFailed, WorkflowEntrypoint, room
from cloister.engine.rules import MAX_CHUNK

if TYPE_CHECKING:
    from pathlib import Path

    from cloister.engine.testing import VirtualClock

OpenEngine = Callable[..., Engine]
Body = Callable[[Any, Any], Awaitable[Any]]
ONCE = {"retries": {"limit": 0, "delay": 0}}


def workflow_of(body: Body) -> type[WorkflowEntrypoint]:
    class Written(WorkflowEntrypoint):
        async def run(self, event: Any, step: Any) -> Any:
            return await body(event, step)

    return Written


def rows(path: Path) -> list[tuple[Any, ...]]:
    database = sqlite3.connect(path)
    try:
        return database.execute("SELECT name, count, number, length(data) FROM chunks ORDER BY name, number").fetchall()
    finally:
        database.close()


async def test_a_stream_of_any_size_is_a_result_and_is_read_anew_in_a_replay(
    open_engine: OpenEngine, clock: VirtualClock, path: Path
) -> None:
    """More than a value may have, in pieces of one size; the body runs once."""
    parts = [bytes([n]) * 700_000 for n in range(4)]
    calls: list[int] = []

    async def source() -> AsyncIterator[bytes]:
        calls.append(1)
        for part in parts:
            yield part

    async def body(event: Any, step: Any) -> Any:
        stream = await step.do("large", source)
        assert isinstance(stream, ByteStream)
        await step.sleep("a while", "1 hour")
        whole = await stream.read()
        pieces = [piece async for piece in stream]
        return [stream.size, whole == b"".join(parts) == b"".join(pieces)]

    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(body)).create()
        await clock.advance(3700)
        assert await instance.result() == [2_800_000, True]
    assert calls == [1]
    sizes = [size for *_, size in rows(path)]
    assert (sizes[:-1], sum(sizes)) == ([MAX_CHUNK] * 10, 2_800_000)


async def test_a_generator_and_what_a_coroutine_returns_are_streams_too(open_engine: OpenEngine) -> None:
    """Views and bytearrays are bytes, whatever their items; nothing at all is a stream as well."""

    def generator() -> Iterator[Any]:
        yield bytearray(b"ab")
        yield memoryview(b"cdef").cast("H")

    async def nothing() -> AsyncIterator[bytes]:
        for part in list[bytes]():
            yield part

    async def returned() -> Any:
        return generator()

    async def body(event: Any, step: Any) -> Any:
        return [await (await step.do("s", source)).read() for source in (generator, returned, nothing)]

    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(body)).create()
        assert await instance.result() == [b"abcdef", b"abcdef", b""]


@pytest.mark.parametrize("wrong", ["text", None, {"a": 1}, b"x" * (16 * 1024 * 1024 + 1)])
async def test_a_stream_of_anything_but_bytes_fails_its_step_without_retries(
    open_engine: OpenEngine, path: Path, wrong: Any
) -> None:
    """Nor may it yield more than 16 MiB at once. What it yielded before is not kept."""
    calls: list[int] = []

    async def source() -> AsyncIterator[Any]:
        calls.append(1)
        yield b"x" * MAX_CHUNK
        yield wrong

    async def body(event: Any, step: Any) -> str:
        try:
            await step.do("wrong", source)
        except StepFailed as error:
            return error.name
        return "nothing"

    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(body)).create()
        assert await instance.result() == ("PayloadTooLarge" if isinstance(wrong, bytes) else "StreamError")
    assert calls == [1]
    assert rows(path) == []


async def test_an_attempt_that_fails_midway_leaves_no_pieces_behind(
    open_engine: OpenEngine, clock: VirtualClock, path: Path
) -> None:
    """Neither for the next attempt, whose stream is shorter, nor for the host after a crash."""
    attempts: list[int] = []

    async def body(event: Any, step: Any) -> Any:
        async def source(ctx: Any) -> AsyncIterator[bytes]:
            attempts.append(ctx.attempt)
            for _ in range(3 - min(len(attempts), 2)):
                yield bytes([len(attempts)]) * MAX_CHUNK
            if len(attempts) == 1:
                raise ConnectionError("cut")
            if len(attempts) == 2:
                await clock.sleep(10**6)
            yield b"end"

        return len(await (await step.do("s", {"retries": {"limit": 1, "delay": 0}}, source)).read())

    async with open_engine() as engine:
        await engine.workflow("w", workflow_of(body)).create(id="i")
        await clock.advance(1)
        assert rows(path) == [("s", 1, 0, MAX_CHUNK)]
    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(body)).get("i")
        await clock.advance(1)
        assert await instance.result() == MAX_CHUNK + 3
    assert attempts == [1, 2, 2]
    assert rows(path) == [("s", 1, 0, MAX_CHUNK), ("s", 1, 1, 3)]


async def test_the_time_limit_of_an_attempt_includes_its_stream(
    open_engine: OpenEngine, clock: VirtualClock, path: Path
) -> None:
    """A source that never ends costs the attempt."""

    async def source() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * MAX_CHUNK
            await clock.sleep(60)

    async def body(event: Any, step: Any) -> str:
        try:
            await step.do("endless", {**ONCE, "timeout": "5 minutes"}, source)
        except StepFailed as error:
            return error.name
        return "nothing"

    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(body)).create()
        await clock.advance(600)
        assert await instance.result() == "WorkflowTimeoutError"
    assert rows(path) == []


async def test_the_pieces_go_with_their_step_and_with_their_instance(
    open_engine: OpenEngine, clock: VirtualClock, path: Path
) -> None:
    """Whoever deletes the row of a step need not know of them; those of a deleted instance are swept up."""

    async def body(event: Any, step: Any) -> None:
        for name in ("a", "b"):
            await step.do(name, lambda: iter_bytes())

    def iter_bytes() -> Iterator[bytes]:
        yield b"piece"

    async with open_engine() as engine:
        await (await engine.workflow("w", workflow_of(body)).create(id="x")).result()
    assert len(rows(path)) == 2
    with sqlite3.connect(path) as database:
        database.execute("DELETE FROM steps WHERE name = 'a'")
    database.close()
    assert [row[0] for row in rows(path)] == ["b"]
    async with open_engine() as engine:
        await (await engine.workflow("w", workflow_of(body)).get("x")).delete()
        await clock.run_until_idle()
    assert rows(path) == []


async def test_pieces_of_a_stream_that_nobody_finished_go_when_the_run_is_taken_up_again(
    open_engine: OpenEngine, clock: VirtualClock, path: Path
) -> None:
    """Also if the program does not come by that step again."""
    runs: list[int] = []

    async def endless() -> AsyncIterator[bytes]:
        yield b"x" * MAX_CHUNK
        await clock.sleep(10**6)

    async def body(event: Any, step: Any) -> Any:
        runs.append(1)
        return await step.do("endless", endless) if len(runs) == 1 else "elsewhere"

    async with open_engine() as engine:
        await engine.workflow("w", workflow_of(body)).create(id="i")
        await clock.advance(1)
    assert len(rows(path)) == 1
    async with open_engine() as engine:
        assert await (await engine.workflow("w", workflow_of(body)).get("i")).result() == "elsewhere"
    assert rows(path) == []


async def test_streams_side_by_side_share_the_room_of_their_instance(
    open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not finished counts as well."""
    monkeypatch.setattr(room, "MAX_STATE", 5 * MAX_CHUNK)

    async def body(event: Any, step: Any) -> Any:
        over = asyncio.Event()

        async def source() -> AsyncIterator[bytes]:
            for _ in range(3):
                yield b"x" * MAX_CHUNK
            await over.wait()

        async def part(name: str) -> Any:
            try:
                return (await step.do(name, ONCE, source)).size
            except StepFailed as error:
                over.set()
                return error.name

        return await asyncio.gather(part("a"), part("b"))

    async with open_engine() as engine:
        instance = await engine.workflow("w", workflow_of(body)).create()
        assert sorted(map(str, await instance.result())) == [str(3 * MAX_CHUNK), "PayloadTooLarge"]
