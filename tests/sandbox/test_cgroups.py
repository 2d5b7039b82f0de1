"""The bell that the kernel rings for a group that is short of memory: who hears of it, and that nothing is left."""

from __future__ import annotations

import os
import select
from pathlib import Path
from typing import Any

import pytest

from cloister.sandbox.lockdown.cgroups import Group


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A group's folder, as far as it matters here; a file in it does nothing by itself."""
    (tmp_path / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 0\n")
    (tmp_path / "cgroup.event_control").touch()
    return tmp_path


async def test_whoever_watches_hears_when_the_group_is_short(folder: Path, until: Any) -> None:
    """Each time that it is, and not when the bell is rung for its end; the last to watch is the one who hears."""
    group, heard = Group(1, (str(folder),)), list[str]()
    group.watch(lambda: heard.append("first"))
    assert group._bell is not None
    assert (folder / "cgroup.event_control").read_text().split()[0] == str(group._bell)
    assert (folder / "memory.oom_control").read_text().startswith("1"), "the kernel is told to kill nobody"
    for times in (1, 2):
        (folder / "memory.oom_control").write_text("oom_kill_disable 1\nunder_oom 1\noom_kill 0\n")
        os.eventfd_write(group._bell, 1)
        await until(lambda times=times: len(heard) == times)
    group.watch(lambda: heard.append("second"))
    (folder / "memory.oom_control").write_text("oom_kill_disable 1\nunder_oom 0\noom_kill 0\n")
    os.eventfd_write(group._bell, 1)
    await until(lambda: not _rung(group))
    (folder / "memory.oom_control").write_text("oom_kill_disable 1\nunder_oom 1\noom_kill 0\n")
    os.eventfd_write(group._bell, 1)
    await until(lambda: len(heard) == 3)
    assert heard == ["first", "first", "second"]
    group.unwatch()


async def test_a_bell_is_taken_down_with_its_group(folder: Path) -> None:
    """And hung again where somebody else had removed the group."""
    group = Group(1, (str(folder),))
    before = _descriptors()
    group.watch(lambda: None)
    assert _descriptors() == before + 1
    group.close()
    group.unwatch()
    assert _descriptors() == before
    group.watch(lambda: None)
    assert _descriptors() == before + 1
    group.unwatch()


async def test_where_there_is_no_bell_the_kernel_kills(tmp_path: Path) -> None:
    """Version 2 has none, nor has a kernel without the file: nothing is left open for it."""
    before = _descriptors()
    for group in (Group(2, (str(tmp_path),)), Group(1, (str(tmp_path),))):
        group.watch(lambda: None)
        assert group._bell is None
    assert _descriptors() == before


@pytest.mark.parametrize(("version", "entrance"), [(1, "tasks"), (2, "cgroup.procs")])
def test_a_child_joins_as_a_thread_where_it_can(version: int, entrance: str, tmp_path: Path) -> None:
    """Which keeps nobody waiting; version 2 has only the way for whole processes."""
    folders = tmp_path / "memory", tmp_path / "pids"
    for folder in folders:
        folder.mkdir()
        (folder / "tasks").touch()
        (folder / "cgroup.procs").touch()
    opened = Group(version, tuple(map(str, folders))).entrances()
    try:
        assert [Path(f"/proc/self/fd/{each}").readlink() for each in opened] == [each / entrance for each in folders]
    finally:
        for each in opened:
            os.close(each)


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _rung(group: Group) -> bool:
    """Whether the bell has been rung and nobody has heard it yet."""
    assert group._bell is not None
    poll = select.poll()
    poll.register(group._bell, select.POLLIN)
    return bool(poll.poll(0))
