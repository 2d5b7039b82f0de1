"""A front on another event loop than asyncio's own: calls, streams, losses and the end, on uvloop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator

import psutil
import pytest
import uvloop

from cloister.loader import LoaderClosed, ShardLost, Shards


@pytest.fixture(scope="module", autouse=True)
def runner() -> Iterator[asyncio.Runner]:
    """The other loop, and no process is left when it ends."""
    others = set(psutil.Process().children())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner
    assert set(psutil.Process().children()) <= others


async def test_calls_and_streams_are_answered(host: Shards, tenant: str) -> None:
    """Small ones and large ones, which fill the socket in both directions."""
    assert isinstance(asyncio.get_running_loop(), uvloop.Loop)
    for size in (1, 100_000, 4_000_000):
        assert await host.tenant(tenant).echo("x" * size) == [["x" * size], {}]
    calls = map(host.tenant(tenant).greet, map(str, range(200)))
    assert await asyncio.gather(*calls) == [f"Hello {number}" for number in range(200)]

    async def numbers() -> AsyncIterator[int]:
        for number in range(100):
            yield number

    assert await host.tenant(tenant).total(numbers()) == 4950


async def test_a_loss_is_told_and_waited_for(host: Shards, tenant: str, caplog: pytest.LogCaptureFixture) -> None:
    """And the end is told to whoever waits."""
    caplog.set_level(logging.CRITICAL, "cloister")
    instance = await host.workflows(tenant).create(params={"number": 2, "wait": True})
    waiting = asyncio.ensure_future(instance.result())
    with pytest.raises(ShardLost):
        await host.tenant(tenant).crash()
    await instance.send_event(type="go", payload="tea")
    assert await waiting == [4, "tea"]
    late = asyncio.ensure_future(host.tenant(tenant).wait())
    await host.tenant(tenant).greet("both are there")
    await host.__aexit__(None, None, None)
    with pytest.raises(LoaderClosed):
        await late
