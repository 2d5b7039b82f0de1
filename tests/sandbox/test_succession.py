"""One zygote after the other: by age and by number, beside accidents, with nothing lost and nothing left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import psutil
import pytest

from cloister.sandbox import Limits, Policy, Sandbox, SandboxUnavailable, Spawner
from cloister.sandbox.brood import Brood
from cloister.sandbox.nursery import Nursery
from cloister.sandbox.succession import MOST_RETIRED, TRY_AGAIN

Until = Callable[[Callable[[], object]], Any]
OpenSpawner = Callable[..., Any]
SOURCE = "from workers import WorkerEntrypoint\nclass Default(WorkerEntrypoint):\n    def get(self, x): return x"


async def answer(sandbox: Sandbox) -> None:
    """It has code, and answers."""
    assert sandbox.decode(await sandbox.call("invoke", [None, "get", [7], {}, None])) == 7


async def take(spawner: Spawner) -> Sandbox:
    """One that answers."""
    sandbox = await spawner.take()
    await sandbox.boot("main.py", {"main.py": ("py", SOURCE)}, {}, Limits())
    await answer(sandbox)
    return sandbox


def zygotes() -> list[int]:
    """The zygotes of this process, those that are starting included."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.status() != psutil.STATUS_ZOMBIE:
                found.append(child.pid)
    return found


@pytest.fixture
def rotating(open_spawner: OpenSpawner) -> Callable[..., Any]:
    """A spawner whose zygotes serve for so many sandboxes, and that others' zygotes are not counted for."""

    @asynccontextmanager
    async def start(
        sandboxes: int | None = None, *, spares: int = 0, seconds: int | None = None
    ) -> AsyncIterator[tuple[Spawner, Callable[[], list[int]]]]:
        others = set(zygotes())
        policy = Policy(rotate_after_sandboxes=sandboxes, rotate_after_s=seconds)
        async with open_spawner(spares=spares, policy=policy) as spawner:
            yield spawner, lambda: [pid for pid in zygotes() if pid not in others]
        assert set(zygotes()) <= others

    return start


class Held:
    """Zygotes that are not heard of as ready before they may come up: one could be there before a test takes a look."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._hear, self._waiting, self._free = Nursery._hear, list[tuple[Nursery, list[Any], list[int]]](), False
        monkeypatch.setattr(Nursery, "_hear", lambda *heard: self._heard(*heard))

    def _heard(self, nursery: Nursery, message: list[Any], descriptors: list[int]) -> None:
        if message[0] == "ready" and not self._free:
            self._waiting.append((nursery, message, descriptors))
        else:
            self._hear(nursery, message, descriptors)

    def let_go(self) -> None:
        """From now on they come up as ever."""
        self._free = True
        while self._waiting:
            self._hear(*self._waiting.pop())


def move_clock(spawner: Spawner, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is that much later, for the succession."""
    now = spawner._succession._now
    monkeypatch.setattr(spawner._succession, "_now", lambda: now() + seconds)


def stop_clock(spawner: Spawner, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it all takes on a busy machine, for the succession it is the same moment."""
    now = spawner._succession._now()
    monkeypatch.setattr(spawner._succession, "_now", lambda: now)


async def test_after_so_many_sandboxes_the_next_zygote_takes_over(rotating: Any, until: Until) -> None:
    """New sandboxes are of the new one; those of the old one live on, and it ends with the last of them."""
    async with rotating(3) as (spawner, mine):
        first = spawner.zygote_pid
        old = [await take(spawner) for _ in range(3)]
        await until(lambda: spawner.zygote_pid != first)
        new = await take(spawner)
        assert len(mine()) == 2
        assert {psutil.Process(sandbox.pid).ppid() for sandbox in old}.isdisjoint({psutil.Process(new.pid).ppid()})
        for sandbox in (*old, new):
            await answer(sandbox)
        await old[0].close("done")
        os.kill(old[1].pid, signal.SIGKILL)
        assert await old[1].died == "was killed by SIGKILL"
        assert psutil.pid_exists(first)
        await answer(old[2])
        await old[2].close("done")
        await until(lambda: mine() == [spawner.zygote_pid])
        await answer(new)


async def test_after_so_many_seconds_too_but_only_if_it_has_been_used(
    rotating: Any, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that has forked nothing tells nobody anything."""
    async with rotating(seconds=3600) as (spawner, mine):
        first = spawner.zygote_pid
        move_clock(spawner, 4000, monkeypatch)
        spawner._succession.look()
        assert spawner._succession._opening is None
        sandbox = await take(spawner)
        await until(lambda: spawner.zygote_pid not in {None, first})
        await answer(sandbox)
        await sandbox.close("done")
        await until(lambda: mine() == [spawner.zygote_pid])


async def test_nobody_waits_for_a_change_and_no_two_are_started(
    rotating: Any, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sandboxes are taken all the while, from the old one until the new one is ready."""
    async with rotating(5) as (spawner, mine):
        first, held = spawner.zygote_pid, Held(monkeypatch)
        most = served = 0
        while spawner.zygote_pid == first:
            await (await take(spawner)).close("next")
            served += spawner._succession._opening is not None
            most = max(most, len(mine()))
            if served == 3:
                held.let_go()
        assert served >= 3
        assert most == 2


async def test_numbers_and_users_are_shared_by_no_two_that_live(rotating: Any, until: Until) -> None:
    """Whichever zygotes they are of."""
    async with rotating(4) as (spawner, _):
        held: list[Sandbox] = []
        for _ in range(3):
            now = spawner.zygote_pid
            held += [await take(spawner) for _ in range(4)]
            await until(lambda: spawner.zygote_pid != now)  # noqa: B023 - awaited in here
        assert len({sandbox.number for sandbox in held}) == len(held)
        groups = {sandbox._footprint._group.folders for sandbox in held if sandbox._footprint._group is not None}
        assert len(groups) in {0, len(held)}
        if os.getuid() == 0:
            assert len({psutil.Process(sandbox.pid).uids().real for sandbox in held}) == len(held)


async def test_two_hosts_have_users_of_their_own(open_spawner: OpenSpawner) -> None:
    """However many hosts there were before: what a closed one had is used again."""
    for _ in range(3):
        async with open_spawner() as spawner:
            base = spawner._slots.uid(0)
    async with open_spawner() as one, open_spawner() as other:
        assert one._slots.uid(0) == base
        assert other._slots.uid(0) != base


async def test_spares_of_the_old_one_are_used_up_or_ended(rotating: Any, until: Until) -> None:
    """They are there until others are; then none is left of a zygote that serves no more."""
    async with rotating(6, spares=4) as (spawner, mine):
        first = spawner.zygote_pid
        await until(lambda: spawner.spares == 4)
        for _ in range(2):
            await (await take(spawner)).close("next")
        await until(lambda: spawner.zygote_pid != first)
        assert spawner.spares >= 3
        await (await take(spawner)).close("next")
        await until(lambda: mine() == [spawner.zygote_pid] and spawner.spares >= 4)
        assert all(spare in spawner._fresh() for spare in spawner._spares)


async def test_one_that_does_not_come_up_leaves_the_old_one_serving(
    rotating: Any, until: Until, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said so, and tried again after a while."""
    async with rotating(1) as (spawner, mine):
        first, held = spawner.zygote_pid, Held(monkeypatch)
        stop_clock(spawner, monkeypatch)
        await take(spawner)
        await until(lambda: len(mine()) == 2)
        (next_one,) = set(mine()) - {first}
        os.kill(next_one, signal.SIGKILL)
        await until(lambda: spawner._succession._opening is None)
        held.let_go()
        assert spawner.zygote_pid == first
        assert "goes on serving" in caplog.text
        await take(spawner)
        assert spawner._succession._opening is None
        move_clock(spawner, TRY_AGAIN + 1, monkeypatch)
        spawner._succession.look()
        await until(lambda: spawner.zygote_pid != first)
        await take(spawner)


async def test_the_old_one_may_die_while_the_next_one_starts(
    rotating: Any, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is the one that everybody gets then: no other is started."""
    async with rotating(2) as (spawner, mine):
        first, held = spawner.zygote_pid, Held(monkeypatch)
        sandboxes = [await take(spawner) for _ in range(2)]
        await until(lambda: len(mine()) == 2)
        (next_one,) = set(mine()) - {first}
        os.kill(first, signal.SIGKILL)
        await until(lambda: spawner.zygote_pid is None)
        held.let_go()
        taken = await take(spawner)
        assert {await sandbox.died for sandbox in sandboxes} == {"was lost: its zygote died"}
        await until(lambda: mine() == [spawner.zygote_pid] == [next_one])
        await answer(taken)


async def test_one_that_was_retired_may_die(rotating: Any, until: Until) -> None:
    """Its sandboxes are told of, those of its follower live on, and nobody starts another."""
    async with rotating(2) as (spawner, mine):
        first = spawner.zygote_pid
        old = [await take(spawner) for _ in range(2)]
        await until(lambda: spawner.zygote_pid != first)
        second = spawner.zygote_pid
        new = await take(spawner)
        os.kill(first, signal.SIGKILL)
        assert {await sandbox.died for sandbox in old} == {"was lost: its zygote died"}
        await until(lambda: mine() == [second])
        assert spawner.zygote_pid == second
        await answer(new)
        with pytest.raises(SandboxUnavailable, match="its zygote died"):
            await old[0].call("invoke", [None, "get", [1], {}, None])


async def test_what_one_was_asked_for_before_it_was_retired_is_born(rotating: Any, until: Until) -> None:
    """And then it ends with that."""
    async with rotating() as (spawner, _):
        brood = await spawner._succession.open()
        taker = asyncio.ensure_future(take(spawner))
        await asyncio.sleep(0)
        brood.retire()
        sandbox = await taker
        assert sandbox in brood
        await sandbox.close("done")
        await until(lambda: brood.lost)


async def test_no_more_than_a_few_live_on_for_their_sandboxes(rotating: Any, until: Until) -> None:
    """Then the one that serves goes on, until one of them has ended."""
    async with rotating(1) as (spawner, mine):
        held = []
        for _ in range(MOST_RETIRED):
            now = spawner.zygote_pid
            held.append(await take(spawner))
            await until(lambda: spawner.zygote_pid != now)  # noqa: B023 - awaited in here
        last = spawner.zygote_pid
        held.append(await take(spawner))
        assert spawner._succession._opening is None
        assert len(mine()) == MOST_RETIRED + 1
        await held[0].close("done")
        await until(lambda: len(mine()) == MOST_RETIRED)
        spawner._succession.look()
        await until(lambda: spawner.zygote_pid != last)


async def test_a_zygote_that_dies_is_replaced_before_anybody_asks(rotating: Any, until: Until) -> None:
    """Even where there are no spares to make."""
    async with rotating() as (spawner, mine):
        await take(spawner)
        first = spawner.zygote_pid
        os.kill(first, signal.SIGKILL)
        await until(lambda: spawner.zygote_pid not in {None, first})
        await until(lambda: mine() == [spawner.zygote_pid])


async def test_one_that_is_no_use_is_not_started_again_and_again(
    rotating: Any, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It died young and bore nothing: the next one is started for whoever asks."""
    async with rotating() as (spawner, mine):
        first = spawner.zygote_pid
        stop_clock(spawner, monkeypatch)
        os.kill(first, signal.SIGKILL)
        await until(lambda: not list(spawner._succession))
        assert spawner._succession._opening is None
        assert not mine()
        await take(spawner)


async def test_closing_while_the_next_one_starts_leaves_nothing(
    rotating: Any, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At whatever stage of its start."""
    for turns in range(0, 60, 12):
        async with rotating(1) as (spawner, _):
            held = Held(monkeypatch)
            await take(spawner)
            assert spawner._succession._opening is not None
            held.let_go()
            for _ in range(turns):
                await asyncio.sleep(0.005)


async def test_a_brood_that_is_over_keeps_nothing(rotating: Any, until: Until) -> None:
    """Neither in the succession nor in the slots."""
    async with rotating(2) as (spawner, _):
        for _ in range(4):
            before: Brood = spawner._succession.serving
            for _ in range(2):
                await (await take(spawner)).close("next")
            await until(lambda: spawner._succession.serving is not before)  # noqa: B023 - awaited in here
        await until(lambda: len(list(spawner._succession)) == 1)
        assert sorted(spawner._slots._free) == [0, 1], "the one that was used, and the one that would have been next"
