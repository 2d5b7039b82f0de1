"""The order of outcomes, and what it costs to keep to it."""

from __future__ import annotations

import asyncio

from cloister.engine.records import Key
from cloister.engine.turns import Turns


async def test_whoever_has_come_is_woken_when_it_is_first_and_not_before() -> None:
    """However many wait: each looks once."""
    turns, looked, passed = Turns(), 0, []
    keys: list[Key] = [("sleep", "s", number) for number in range(500)]

    def look() -> None:
        nonlocal looked
        looked += 1

    async def come(key: Key) -> None:
        await turns.come(key, look)
        passed.append(key)
        turns.leave(key)

    for key in keys:
        turns.join(key)
    await asyncio.gather(*(come(key) for key in reversed(keys)))
    assert passed == keys
    assert looked <= len(keys)
    assert not turns.waiting


async def test_who_gives_up_holds_up_nobody() -> None:
    """Nor does who never comes and is said to have left."""
    turns = Turns()
    keys: list[Key] = [("sleep", "s", number) for number in range(3)]
    for key in keys:
        turns.join(key)
    last = asyncio.ensure_future(turns.come(keys[2], lambda: None))
    await asyncio.sleep(0)
    turns.leave(keys[1])
    assert not last.done()
    turns.leave(keys[0])
    await last
