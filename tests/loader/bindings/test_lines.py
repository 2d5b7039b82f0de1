"""The thread that writes for all tenants: whose turn it is, and what becomes of what nobody waits for."""

from __future__ import annotations

import asyncio
import functools
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloister.loader.bindings import KeyValue, KeyValueStore, StoreClosed


@pytest.fixture
def store(runner: asyncio.Runner, tmp_path: Path) -> Iterator[KeyValueStore]:
    """One of them."""
    store = KeyValueStore(tmp_path / "keys.db")
    runner.run(store.__aenter__())
    yield store
    runner.run(store.__aexit__(None, None, None))


class Gate:
    """Work that takes as long as it is told to."""

    def __init__(self) -> None:
        self.begun, self.opened = threading.Event(), threading.Event()

    def __call__(self, connection: sqlite3.Connection) -> None:
        self.begun.set()
        self.opened.wait()


async def test_a_tenant_with_much_to_do_holds_up_nobody(store: KeyValueStore) -> None:
    """Of a hundred that one has and one that another has, the one is next but for what has begun."""
    gate, done = Gate(), []

    def note(tenant: str) -> Any:
        return lambda connection: done.append(tenant)

    first = asyncio.ensure_future(store.work("greedy", gate))
    await asyncio.to_thread(gate.begun.wait)
    many = [asyncio.ensure_future(store.work("greedy", note("greedy"))) for _ in range(100)]
    await asyncio.sleep(0)
    one = asyncio.ensure_future(store.work("modest", note("modest")))
    await asyncio.sleep(0)
    gate.opened.set()
    await asyncio.gather(first, one, *many)
    assert done.index("modest") <= 2
    assert len(done) == 101


async def test_who_reads_does_not_wait_for_who_writes(store: KeyValueStore) -> None:
    """And finds what was acknowledged."""
    bucket = KeyValue(store, "t")
    await bucket.put("a", "1")
    gate = Gate()
    writing = asyncio.ensure_future(store.work("other", gate))
    await asyncio.to_thread(gate.begun.wait)
    assert await bucket.get("a") == "1"
    assert (await bucket.list())["keys"] == [{"name": "a"}]
    gate.opened.set()
    await writing


async def test_what_nobody_waits_for_is_not_begun(store: KeyValueStore) -> None:
    """What has begun is done to its end."""
    gate, done = Gate(), []

    def note(number: int, connection: sqlite3.Connection) -> None:
        done.append(number)

    first = asyncio.ensure_future(store.work("t", gate))
    await asyncio.to_thread(gate.begun.wait)
    waiting = [asyncio.ensure_future(store.work("t", functools.partial(note, n))) for n in range(5)]
    await asyncio.sleep(0)
    first.cancel()
    for task in waiting[2:]:
        task.cancel()
    gate.opened.set()
    await asyncio.wait([first, *waiting])
    await store.work("t", functools.partial(note, 5))
    assert done == [0, 1, 5]


async def test_what_waits_when_the_store_is_closed_is_told(tmp_path: Path) -> None:
    """What runs comes to its end."""
    store = KeyValueStore(tmp_path / "closing.db")
    gate = Gate()
    async with store:
        running = asyncio.ensure_future(store.work("t", gate))
        await asyncio.to_thread(gate.begun.wait)
        waiting = [asyncio.ensure_future(store.work("t", lambda connection: None)) for _ in range(5)]
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(store.__aexit__(None, None, None))
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        gate.opened.set()
        await closing
    await running
    told = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(one) for one in told[1:]} == {StoreClosed}
    with pytest.raises(StoreClosed, match="use the KeyValueStore inside"):
        await store.work("t", lambda connection: None)
