"""Where sandboxes come from: spares, a zygote that may die, and nothing left when all of it is closed."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from cloister.sandbox import (
    Limits,
    Policy,
    Sandbox,
    SandboxClosed,
    SandboxDied,
    SandboxUnavailable,
    Spawner,
    brood,
    demand,
)
from cloister.sandbox import spawner as spawner_module
from cloister.sandbox.brood import Brood
from cloister.sandbox.lockdown.cgroups import Group
from cloister.sandbox.lockdown.shares import Rank
from cloister.sandbox.spares import AT_ONCE

Until = Callable[[Callable[[], object]], Any]
OpenSpawner = Callable[..., Any]


def borne(spawner: Spawner) -> list[psutil.Process]:
    """What its zygote has forked and has not buried. Spares of other spawners come and go as they like."""
    return psutil.Process(spawner.zygote_pid).children(recursive=True)


def in_use(folder: Path) -> dict[str, Any]:
    """Everything that this process holds and could forget to give back."""
    return {
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "children": {process.pid for process in psutil.Process().children()},  # zygotes
        "threads": threading.active_count(),
        "sockets": set(folder.iterdir()),
        "groups": set(Path("/sys/fs/cgroup").rglob(f"cloister-{os.getpid()}*")),
    }


async def answer(sandbox: Sandbox, result: object = 1) -> None:
    """Boot it, and have it answer."""
    source = "from workers import WorkerEntrypoint\nclass Default(WorkerEntrypoint):\n    def get(self, x): return x"
    await sandbox.boot("main.py", {"main.py": ("py", source)}, {}, Limits())
    assert sandbox.decode(await sandbox.call("invoke", [None, "get", [result], {}, None])) == result


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize("rotate_after", [None, 7])
async def test_nothing_is_left(
    open_spawner: OpenSpawner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rotate_after: int | None
) -> None:
    """After thirty sandboxes and the end of all: no descriptor, process, zombie, thread, socket file, control group."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))

    async def once() -> None:
        async with open_spawner(spares=2, policy=Policy(rotate_after_sandboxes=rotate_after)) as spawner:
            for n in range(30):
                sandbox = await spawner.take()
                await answer(sandbox, n)
                if n % 3 == 0:
                    await sandbox.close("enough")
                elif n % 3 == 1:
                    os.kill(sandbox.pid, signal.SIGKILL)
                    await sandbox.died

    await once()
    before = in_use(tmp_path)
    await once()
    for what, left in in_use(tmp_path).items():
        assert not left - before[what] if isinstance(left, set) else left <= before[what], what
    assert before["sockets"] == set()


async def test_spares_are_ready_and_replenished(
    open_spawner: OpenSpawner, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A spare is blank, used once, and replaced; taking more than there are makes them on the spot. After such a burst
    more are kept for a while."""
    monkeypatch.setattr(demand, "HALF_LIFE", 0.1)
    monkeypatch.setattr(spawner_module, "TEND_EVERY", 0.1)
    async with open_spawner(spares=3) as spawner:
        await until(lambda: spawner.spares == 3)
        taken = [await spawner.take() for _ in range(5)]
        assert len({sandbox.pid for sandbox in taken}) == 5
        await until(lambda: spawner.spares == 3)
        assert not {sandbox.pid for sandbox in taken} & {sandbox.pid for sandbox in spawner._spares}
        for sandbox in taken:
            await answer(sandbox)
            assert sandbox.phases.fork > 0
            assert sandbox.phases.confine > 0


async def test_a_spare_that_died_is_not_handed_out(open_spawner: OpenSpawner, until: Until) -> None:
    """Its place is taken by another."""
    async with open_spawner(spares=2) as spawner:
        await until(lambda: spawner.spares == 2)
        dying = list(spawner._spares)
        for spare in dying:
            os.kill(spare.pid, signal.SIGKILL)
        await asyncio.wait({spare.died for spare in dying})
        sandbox = await spawner.take()
        await answer(sandbox)
        await until(lambda: spawner.spares == 2)


async def test_many_at_once(open_spawner: OpenSpawner) -> None:
    """Forty takers without a spare: each gets its own, and all of them answer."""
    async with open_spawner() as spawner:
        sandboxes = await asyncio.gather(*(spawner.take() for _ in range(40)))
        assert len({sandbox.pid for sandbox in sandboxes}) == 40
        await asyncio.gather(*(answer(sandbox, n) for n, sandbox in enumerate(sandboxes)))


async def test_a_slot_is_used_again(open_spawner: OpenSpawner) -> None:
    """With its user id and its control group, but only when its sandbox is gone."""
    async with open_spawner() as spawner:
        for _ in range(5):
            sandbox = await spawner.take()
            assert sandbox.number == 0
            await answer(sandbox)
            await sandbox.close("next")


async def test_the_slot_of_the_next_is_ready_before_it_is_taken(open_spawner: OpenSpawner) -> None:
    """With its control group, which takes a while to make: it is made while a zygote forks, and nobody else waits."""
    async with open_spawner() as spawner:
        made = {0, 1, 2} if spawner.layers["cgroups"] == "active" else set()
        assert (await spawner.take()).number == 0
        assert spawner._slots._free == [1]
        assert (await spawner.take()).number == 1
        assert spawner._slots._free == [2]
        assert set(spawner._slots._groups_of) == made


async def test_a_spare_that_nobody_waits_for_gives_way_until_it_is_up(
    open_spawner: OpenSpawner, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those beside whom it is made answer meanwhile. The first spares are wanted at once, and so is what is taken
    when there is none; and who has come up, or has not in a while, is as everybody else."""
    told: dict[str, list[Rank]] = {}
    urgent = [[Rank.FIRST]] * AT_ONCE

    def rank(group: Group, rank: Rank) -> None:
        told.setdefault(group.folders[0], []).append(rank)

    monkeypatch.setattr(Group, "rank", rank)
    monkeypatch.setattr(brood, "MODEST_S", 250)  # however long it takes to come up here
    async with open_spawner(spares=AT_ONCE + 1) as spawner:
        await until(lambda: spawner.spares == AT_ONCE + 1)
        if not told:
            pytest.skip("this machine gives no control groups")
        assert list(told.values()) == [*urgent, [Rank.BEHIND, Rank.FIRST]]
    told.clear()
    async with open_spawner(spares=0) as spawner:
        await spawner.take()
        assert list(told.values()) == [[Rank.FIRST]]
    told.clear()
    monkeypatch.setattr(brood, "MODEST_S", 0)
    heard = Brood._greeted

    async def greeted(self: Brood, sandbox: Sandbox) -> None:
        await until(lambda: told[group(sandbox)][-1:] == [Rank.FIRST])
        await heard(self, sandbox)

    def group(sandbox: Sandbox) -> str:
        return str(spawner._slots.group(sandbox.number).folders[0])

    monkeypatch.setattr(Brood, "_greeted", greeted)
    async with open_spawner(spares=AT_ONCE + 1) as spawner:
        await until(lambda: spawner.spares == AT_ONCE + 1)
        assert list(told.values()) == [*urgent, [Rank.BEHIND, Rank.FIRST, Rank.FIRST]]


async def test_who_is_left_or_lost_while_it_comes_up_is_behind_nobody(
    open_spawner: OpenSpawner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is to die, and who is behind takes its time for that too: its group would be there for as long."""
    told: list[Rank] = []
    monkeypatch.setattr(Group, "rank", lambda _, rank: told.append(rank))

    async def fail(*_: object, **__: object) -> int:
        raise OSError(errno.EMFILE, "the host has no descriptor left")

    async def greeted(self: Brood, _: Sandbox) -> None:
        self.nursery.kill()
        await asyncio.wait({self.nursery.lost})
        raise SandboxUnavailable("its zygote is gone")

    async with open_spawner(spares=0) as spawner:
        born = await spawner._succession.open()
        with monkeypatch.context() as patched:
            patched.setattr(born.nursery, "fork", fail)
            with pytest.raises(OSError, match="no descriptor"):
                await born.bear(urgent=False)
        if not told:
            pytest.skip("this machine gives no control groups")
        assert told == [Rank.BEHIND, Rank.FIRST]
        told.clear()
        monkeypatch.setattr(brood, "MODEST_S", 250)
        monkeypatch.setattr(Brood, "_greeted", greeted)
        with pytest.raises(SandboxUnavailable, match="is gone"):
            await born.bear(urgent=False)
        assert told[0] is Rank.BEHIND
        assert told[-1] is Rank.FIRST


async def test_a_zygote_that_dies_is_replaced(open_spawner: OpenSpawner, until: Until) -> None:
    """Its sandboxes die with it and say so; the next take gets one of the new zygote, and spares come back."""
    async with open_spawner(spares=2) as spawner:
        sandbox = await spawner.take()
        await answer(sandbox)
        pid, zygote = sandbox.pid, spawner.zygote_pid
        call = asyncio.ensure_future(sandbox.call("invoke", [None, "get", [1], {}, None]))
        assert zygote is not None
        os.kill(zygote, signal.SIGKILL)
        await asyncio.wait({call, sandbox.died})
        assert await sandbox.died == "was lost: its zygote died"
        assert not sandbox.alive
        with pytest.raises(SandboxUnavailable, match="its zygote died") as caught:
            await sandbox.call("invoke", [None, "get", [1], {}, None])
        assert isinstance(caught.value, SandboxDied), "what was in flight may have had effects"
        if call.exception() is not None:
            assert isinstance(call.exception(), SandboxUnavailable | SandboxDied)
        await answer(await spawner.take())
        assert spawner.zygote_pid != zygote
        await until(lambda: spawner.spares == 2)
        await until(lambda: not psutil.pid_exists(pid))


async def test_takers_meanwhile_get_one_of_the_next(open_spawner: OpenSpawner) -> None:
    """Killed while many are asking: a blank sandbox has done nothing yet, so another is as good."""
    async with open_spawner() as spawner:
        takers = [asyncio.ensure_future(spawner.take()) for _ in range(20)]
        await asyncio.sleep(0)
        os.kill(spawner.zygote_pid, signal.SIGKILL)
        async with asyncio.timeout(100):
            await asyncio.gather(*takers)
        await answer(await spawner.take())


async def test_a_zygote_whose_death_nobody_has_heard_of_is_replaced_too(open_spawner: OpenSpawner) -> None:
    """It cannot be asked any more, which tells as much."""
    async with open_spawner() as spawner:
        zygote = psutil.Process(spawner.zygote_pid)
        zygote.kill()
        while zygote.status() != psutil.STATUS_ZOMBIE:  # and the loop has no turn in which it could hear
            os.sched_yield()
        await answer(await spawner.take())
        assert spawner.zygote_pid != zygote.pid


async def test_a_child_that_dies_before_anybody_looks_is_told_of(
    open_spawner: OpenSpawner, monkeypatch: pytest.MonkeyPatch, until: Until
) -> None:
    """The news of its death may be read together with the news of its birth."""
    async with open_spawner() as spawner:
        brood = await spawner._succession.open()
        nursery = brood.nursery
        real = nursery.fork

        async def fork(slot: int, uid: int, descriptors: list[int], **options: Any) -> int:
            pidfd: int = await real(slot, uid, descriptors, **options)
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            await until(lambda: brood._stillborn)
            return pidfd

        monkeypatch.setattr(nursery, "fork", fork)
        with pytest.raises(SandboxDied, match="killed by SIGKILL while it was starting"):
            await spawner.take()
        monkeypatch.setattr(nursery, "fork", real)
        sandbox = await spawner.take()
        assert sandbox.number == 0
        await answer(sandbox)


async def test_a_taker_that_gives_up_leaves_no_process_behind(open_spawner: OpenSpawner, until: Until) -> None:
    """At whatever moment it does; its slot is free again."""
    async with open_spawner() as spawner:
        await answer(await spawner.take())
        before = len(borne(spawner))
        for turns in range(12):
            taker = asyncio.ensure_future(spawner.take())
            for _ in range(turns):
                await asyncio.sleep(0.0005)
            if taker.cancel():
                with pytest.raises(asyncio.CancelledError):
                    await taker
            else:
                await (await taker).close("too late")
        await until(lambda: len(borne(spawner)) == before)
        free = spawner._slots._free
        await until(lambda: sorted(free) == list(range(1, len(free) + 1)))
        assert (await spawner.take()).number <= 12


async def test_a_closed_spawner_gives_nothing(open_spawner: OpenSpawner) -> None:
    """And what it gave before is closed."""
    async with open_spawner() as spawner:
        sandbox = await spawner.take()
    with pytest.raises(SandboxUnavailable, match="closed"):
        await spawner.take()
    assert await sandbox.died == "the loader was closed"
    with pytest.raises(SandboxClosed):
        await sandbox.call("invoke", [None, "get", [1], {}, None])


async def test_two_hosts_in_one_process_do_not_disturb_each_other(open_spawner: OpenSpawner) -> None:
    """Each has its zygote; closing one leaves the other."""
    async with open_spawner() as first:
        async with open_spawner() as second:
            await asyncio.gather(answer(await first.take(), "a"), answer(await second.take(), "b"))
        await answer(await first.take(), "c")


async def test_what_it_uses_can_be_looked_at(open_spawner: OpenSpawner) -> None:
    """Memory and CPU time, from outside."""
    async with open_spawner() as spawner:
        sandbox = await spawner.take()
        await answer(sandbox)
        assert sandbox.memory_bytes() >= 0
        assert sandbox.cpu_seconds() > 0
        assert isinstance(spawner, Spawner)
