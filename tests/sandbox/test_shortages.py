"""What a host may run out of, and what it may find left: descriptors, answers, user ids, control groups."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from cloister.sandbox import Limits, Sandbox, SandboxUnavailable, Spawner
from cloister.sandbox.lockdown import cgroups
from cloister.sandbox.sandbox import Usage
from cloister.sandbox.slots import Slots

# ruff: noqa: ASYNC240 - a test may look at its folder

Until = Callable[[Callable[[], object]], Any]
OpenSpawner = Callable[..., Any]


def borne(spawner: Spawner) -> list[psutil.Process]:
    """What its zygote has forked and has not buried. Spares of other spawners come and go as they like."""
    return psutil.Process(spawner.zygote_pid).children(recursive=True)


async def answer(sandbox: Sandbox) -> None:
    """Boot it, and have it answer."""
    source = "from workers import WorkerEntrypoint\nclass Default(WorkerEntrypoint):\n    def get(self, x): return x"
    await sandbox.boot("main.py", {"main.py": ("py", source)}, {}, Limits())
    assert sandbox.decode(await sandbox.call("invoke", [None, "get", [1], {}, None])) == 1


async def test_a_host_without_descriptors_leaves_no_child_behind(
    open_spawner: OpenSpawner, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child that it has no number for is met and left, and its slot is free again."""
    async with open_spawner(spares=0) as spawner:
        await answer(await spawner.take())
        nursery = spawner._succession.serving.nursery
        real = nursery.fork

        async def fork(slot: int, uid: int, descriptors: list[int], **options: Any) -> int:
            os.close(await real(slot, uid, descriptors, **options))
            raise OSError(errno.EMFILE, "the host has no descriptor left")

        before = len(borne(spawner))
        monkeypatch.setattr(nursery, "fork", fork)
        for _ in range(5):
            with pytest.raises(SandboxUnavailable, match="no descriptor left"):
                await spawner.take()
        monkeypatch.setattr(nursery, "fork", real)
        await until(lambda: len(borne(spawner)) <= before and not spawner._succession.serving._abandoned)
        assert (await spawner.take()).number <= 5


@pytest.mark.usefixtures("apart")
async def test_a_child_that_cannot_be_looked_at_is_ended(
    open_spawner: OpenSpawner, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that the host holds of it is left, and its slot is free again."""
    async with open_spawner(spares=0) as spawner:
        await answer(await spawner.take())
        before, descriptors = len(borne(spawner)), len(list(Path("/proc/self/fd").iterdir()))

        def fail(_: int) -> None:
            raise OSError(errno.EMFILE, "the host has no descriptor left")

        with monkeypatch.context() as patched:
            patched.setattr("cloister.sandbox.brood.Process", fail)
            with pytest.raises(SandboxUnavailable, match="no descriptor left"):
                await spawner.take()
        await until(lambda: len(borne(spawner)) <= before and not spawner._succession.serving._abandoned)
        assert len(list(Path("/proc/self/fd").iterdir())) <= descriptors


async def test_a_zygote_that_does_not_answer_is_replaced(
    open_spawner: OpenSpawner, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asked it is told, or served by the next one."""
    async with open_spawner(spares=0) as spawner:
        await answer(sandbox := await spawner.take())
        first, forks = spawner.zygote_pid, psutil.Process(sandbox.pid).ppid()  # another if only a child has its rights
        monkeypatch.setattr("cloister.sandbox.nursery.FORK_TIMEOUT", 0.05)
        spawner._succession.serving.nursery.lost.add_done_callback(lambda _: monkeypatch.undo())  # the next has time
        os.kill(forks, signal.SIGSTOP)
        with contextlib.suppress(SandboxUnavailable):
            await spawner.take()
        await until(lambda: spawner.zygote_pid not in {None, first})
        await answer(await spawner.take())


async def test_a_slot_is_free_again_whoever_was_first(
    open_spawner: OpenSpawner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a child that nobody has been told of: its death, or that of its zygote, or the end of who had asked for it."""
    async with open_spawner(spares=0) as spawner:
        await answer(await spawner.take())
        brood = spawner._succession.serving
        slots: list[int] = []

        async def died(slot: int, *_: Any, **__: Any) -> int:
            slots.append(slot)
            brood._died(slot, 1, Usage(0, 0))
            raise OSError(errno.EMFILE, "the host has no descriptor left")

        async def lost(slot: int, *_: Any, **__: Any) -> int:
            slots.append(slot)
            brood.nursery.kill()
            await asyncio.wait({brood.nursery.lost})
            raise OSError(errno.EMFILE, "the host has no descriptor left")

        for fork in (died, lost):
            monkeypatch.setattr(brood.nursery, "fork", fork)
            with pytest.raises(SandboxUnavailable, match="no descriptor left"):
                await spawner.take()
            assert slots[-1] in spawner._slots._free
        assert not brood._abandoned
        assert not brood._stillborn


async def test_a_refusal_that_comes_too_late_frees_the_slot(open_spawner: OpenSpawner, until: Until) -> None:
    """Whoever asked has gone, and no death will be told of what was never forked."""
    async with open_spawner(spares=0) as spawner:
        await answer(await spawner.take())
        brood = spawner._succession.serving
        brood._abandoned.add(77)
        brood.nursery._hear(["refused", 77, "no"], [])
        assert 77 not in brood._abandoned


def test_no_two_sets_of_slots_share_a_user() -> None:
    """However many there are in one process, and however often one is closed."""
    sets = [Slots() for _ in range(12)]
    users = [slots.uid(slot) for slots in sets for slot in range(3)]
    assert len(set(users)) == len(users)
    for _ in range(3):
        sets[0].close()
    sets[0] = Slots()
    sets.append(Slots())
    users = [slots.uid(slot) for slots in sets for slot in range(3)]
    assert len(set(users)) == len(users)
    for slots in sets:
        slots.close()


async def test_a_group_that_somebody_has_removed_is_made_anew(open_spawner: OpenSpawner, until: Until) -> None:
    """With its limits; the slot is as good as before."""
    async with open_spawner(spares=0) as spawner:
        if spawner.layers["cgroups"] != "active":
            pytest.skip("this machine gives no control groups")
        first = await spawner.take()
        await answer(first)
        folders = first._footprint._group.folders
        await first.close("enough")
        await until(lambda: not [folder for folder in folders if not _removed(folder)])
        again = await spawner.take()
        await answer(again)
        assert (again.number, again._footprint._group.folders) == (first.number, folders)
        assert all(Path(folder).exists() for folder in folders)


def _removed(folder: str) -> bool:
    with contextlib.suppress(OSError):
        os.rmdir(folder)  # noqa: PTH106 - a control group is no ordinary folder
    return not Path(folder).exists()


def test_the_remains_of_a_host_of_the_same_number_are_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a restart of a container, where the host is process 1 each time; what lives is left alone."""
    for name in (f"cloister-{os.getpid()}-12-0", f"cloister-{os.getpid()}-0", "cloister-999999999-1-0", "cloister-"):
        (tmp_path / name / "3").mkdir(parents=True)
    own = tmp_path / f"cloister-{os.getpid()}-{cgroups._began(os.getpid())}-0"
    own.mkdir()
    cgroups._sweep(tmp_path)
    assert list(tmp_path.iterdir()) == [own]


def test_a_kill_for_memory_is_told_of_once(tmp_path: Path) -> None:
    """The next sandbox of the slot has nothing to do with it."""
    events = tmp_path / "memory.events"
    events.write_text("low 0\noom_kill 0\n")
    group = cgroups.Group(2, (str(tmp_path),))
    assert not group.has_killed()
    events.write_text("low 0\noom_kill 2\n")
    assert group.has_killed()
    assert not group.has_killed()
