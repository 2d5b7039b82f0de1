"""Spares that follow the demand: more after a burst, fewer when it is over, and never before those who wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from cloister.sandbox import Limits, Policy, Sandbox, Spawner
from cloister.sandbox.spares import AT_ONCE, PATIENCE

Until = Callable[[Callable[[], object]], Any]
OpenSpawner = Callable[..., Any]


class Made:
    """Watches a spawner make its spares: how many at once, and whether somebody was waiting when one was begun."""

    def __init__(self, spawner: Spawner, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.most = self.begun = self.beside = 0
        spares, make = spawner._spares, spawner._spares._make

        async def watched(urgent: bool) -> Sandbox:
            self.begun += 1
            self.beside += spares._urgent > 0
            self.now += 1
            self.most = max(self.most, self.now)
            try:
                return await make(urgent)
            finally:
                self.now -= 1

        monkeypatch.setattr(spares, "_make", watched)


def later(spawner: Spawner, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the spawner's look at its spares be so many seconds from now."""
    now = spawner._spares._now
    monkeypatch.setattr(spawner._spares, "_now", lambda: now() + seconds)
    assert spawner._tending is not None
    spawner._tending.cancel()
    spawner._tend()


async def test_a_burst_leaves_more_of_them_and_quiet_ends_the_surplus(
    open_spawner: OpenSpawner, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to the ceiling, some at a time; and when a minute has passed there are as many as were asked for."""
    async with open_spawner(spares=2, policy=Policy(most_spares=12)) as spawner:
        await until(lambda: spawner.spares == 2)
        made = Made(spawner, monkeypatch)
        taken = await asyncio.gather(*(spawner.take() for _ in range(20)))
        await until(lambda: spawner.spares == 12)
        assert made.begun == 12
        assert made.most == AT_ONCE
        ended = list(spawner._spares)
        later(spawner, 60, monkeypatch)
        assert spawner.spares == 2
        left = list(spawner._spares)
        assert left == ended[-2:], "the oldest go first"
        await asyncio.wait({spare.died for spare in ended[:-2]})
        assert {await spare.died for spare in ended[:-2]} == {"it was a spare, and there were enough of them"}
        assert all(sandbox.alive for sandbox in (*taken, *left))


async def test_no_spare_is_begun_while_somebody_waits_for_a_sandbox(
    open_spawner: OpenSpawner, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits is served first; the spares are made after."""
    async with open_spawner(spares=1, policy=Policy(most_spares=8)) as spawner:
        await until(lambda: spawner.spares == 1)
        made = Made(spawner, monkeypatch)
        now = spawner._spares._now()
        monkeypatch.setattr(spawner._spares, "_now", lambda: now)  # or else a slow machine forgets that they were taken
        for _ in range(3):
            await asyncio.gather(*(spawner.take() for _ in range(10)))
        monkeypatch.setattr(spawner._spares, "_now", lambda: now + 2 * PATIENCE)
        await until(lambda: spawner.spares == 8)
        assert made.begun >= 8
        assert made.beside == 0


async def test_the_next_is_begun_when_the_one_that_was_taken_has_said_something(
    open_spawner: OpenSpawner, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While most of them are there: its first answer is waited for, and a fork would take a core from it."""
    async with open_spawner(spares=4) as spawner:
        await until(lambda: spawner.spares == 4)
        made, spares = Made(spawner, monkeypatch), spawner._spares
        now = spares._now()
        monkeypatch.setattr(spares, "_now", lambda: now)
        taken = await spawner.take()
        await until(lambda: spares._makers)
        for _ in range(10):
            await asyncio.sleep(0)
        assert made.begun == 0
        await taken.boot("main.py", {"main.py": ("py", "")}, {}, Limits())
        await until(lambda: spawner.spares == 4)


async def test_the_next_is_begun_although_nobody_has_said_anything(
    open_spawner: OpenSpawner, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For too long; or where half of them are gone."""
    async with open_spawner(spares=4) as spawner:
        await until(lambda: spawner.spares == 4)
        spares = spawner._spares
        now = spares._now()
        monkeypatch.setattr(spares, "_now", lambda: now)
        await spawner.take()
        await until(lambda: spares._makers)
        monkeypatch.setattr(spares, "_now", lambda: now + 2 * PATIENCE)
        await until(lambda: spawner.spares == 4)
        for _ in range(2):
            await spawner.take()
        await until(lambda: spawner.spares > 2)


async def test_a_spare_has_nothing_left_of_what_it_has_played(
    open_spawner: OpenSpawner, boot: Any, until: Until
) -> None:
    """A program is played in it before it is anybody's, whose room is then the tenant's."""
    source = """
        import gc
        from workers import WorkerEntrypoint
        class Default(WorkerEntrypoint):
            def get(self):
                return [each.__name__ for each in gc.get_objects() if isinstance(each, type)]
    """
    async with open_spawner(spares=1) as spawner:
        await until(lambda: spawner.spares == 1)
        tenant = await boot(source, spawner=spawner)
        assert await tenant.invoke("get") == ["Default"]


async def test_a_spare_that_dies_is_replaced_without_anybody_asking(
    open_spawner: OpenSpawner, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the next look."""
    async with open_spawner(spares=2) as spawner:
        await until(lambda: spawner.spares == 2)
        spawner._tending.cancel()  # that look might come while they end
        for spare in list(spawner._spares):
            await spare.close("an accident")
        assert spawner.spares == 0
        later(spawner, 0, monkeypatch)
        await until(lambda: spawner.spares == 2)


async def test_whoever_takes_never_gets_one_that_is_dead(open_spawner: OpenSpawner, until: Until) -> None:
    """Also when nobody has been told of its death yet: the kernel is asked."""
    async with open_spawner(spares=2) as spawner:
        await until(lambda: spawner.spares == 2)
        for spare in spawner._spares:
            spare._process.kill()
            while spare._process.alive():
                time.sleep(0.001)  # noqa: ASYNC251 - the loop is not to hear of it
        assert spawner.spares == 2
        taken = await spawner.take()
        await taken.boot("main.py", {"main.py": ("py", "")}, {}, Limits())
        assert taken.alive
        await taken.close("enough")


async def test_the_one_that_was_made_last_is_taken_first(open_spawner: OpenSpawner, until: Until) -> None:
    """And told so a moment earlier, which changes nothing but that it is awake; nobody may come for it after all."""
    async with open_spawner(spares=2) as spawner:
        await until(lambda: spawner.spares == 2)
        older, newer = spawner._spares
        for _ in range(3):
            spawner.nudge()
        taken = await spawner.take()
        assert taken is newer
        await taken.boot("main.py", {"main.py": ("py", "")}, {}, Limits())
        assert taken.alive
        assert older.alive
        await taken.close("enough")


async def test_without_spares_nobody_is_told(open_spawner: OpenSpawner) -> None:
    """And nothing happens."""
    async with open_spawner(spares=0) as spawner:
        spawner.nudge()
        assert (await spawner.take()).alive


async def test_without_spares_none_is_ever_kept(open_spawner: OpenSpawner) -> None:
    """However many are taken."""
    async with open_spawner(spares=0) as spawner:
        await asyncio.gather(*(spawner.take() for _ in range(10)))
        assert spawner.spares == 0
        assert not spawner._spares._makers
