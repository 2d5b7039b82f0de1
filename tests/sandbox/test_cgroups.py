"""Control groups: the bell that the kernel rings for one that is short of memory, the ways in, and ranks."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import select
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cloister.sandbox.lockdown import cgroups, shares
from cloister.sandbox.lockdown.bells import Bells
from cloister.sandbox.lockdown.cgroups import Group, Groups
from cloister.sandbox.lockdown.shares import Rank


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
    """And hung again where somebody else had removed the group; the one that stands for all goes with the last."""
    bells = Bells()
    group, other = (Group(1, (str(folder),), _bells=bells) for _ in range(2))
    before = _descriptors()
    other.watch(lambda: None)
    assert _descriptors() == before + 2
    group.watch(lambda: None)
    assert _descriptors() == before + 3
    group.close()
    group.unwatch()
    assert _descriptors() == before + 2
    group.watch(lambda: None)
    assert _descriptors() == before + 3
    group.unwatch()
    other.unwatch()
    assert _descriptors() == before


async def test_one_that_is_rung_may_take_another_down(until: Any) -> None:
    """Which is then not heard any more, though it was rung as well."""
    bells, heard = Bells(), list[int]()
    hung: list[int] = []

    def rung(number: int) -> None:
        heard.append(number)
        for bell in hung:
            bells.take_down(bell)

    hung += [bells.hang(lambda number=number: rung(number)) for number in range(3)]  # type: ignore[misc]
    for bell in hung:
        os.eventfd_write(bell, 1)
    await until(lambda: heard)
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(heard) == 1


@pytest.mark.usefixtures("apart")
async def test_where_no_more_can_be_watched_there_is_no_bell_and_the_next_is_heard(
    folder: Path, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that nobody hears would have who is short of memory wait for ever."""
    (folder / "memory.oom_control").write_text("oom_kill_disable 1\nunder_oom 1\noom_kill 0\n")
    group, heard, before = Group(1, (str(folder),)), list[int](), _descriptors()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(asyncio.get_running_loop(), "add_reader", full)
        group.watch(lambda: heard.append(0))
    assert _descriptors() == before
    group.watch(lambda: heard.append(1))
    assert group._bell is not None
    (folder / "memory.oom_control").write_text("oom_kill_disable 1\nunder_oom 1\noom_kill 0\n")
    os.eventfd_write(group._bell, 1)
    await until(lambda: heard)
    group.unwatch()
    assert _descriptors() == before


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


@pytest.mark.parametrize(
    ("version", "weight", "most", "little"), [(1, "shares", "1024", "102"), (2, "weight", "100", "10")]
)
def test_a_group_has_a_rank(version: int, weight: str, most: str, little: str, tmp_path: Path) -> None:
    """As each version writes it; the weight of an idle one is not touched, which the kernel would refuse."""
    for name in ("cpu.idle", f"cpu.{weight}"):
        (tmp_path / name).touch()
    group = Group(version, (), str(tmp_path))

    def written() -> tuple[str, str]:
        return (tmp_path / "cpu.idle").read_text(), (tmp_path / f"cpu.{weight}").read_text()

    group.rank(Rank.LITTLE)
    assert written() == ("0", little)
    group.rank(Rank.FIRST)
    assert written()[0] == "0"
    assert written()[1].startswith(most)
    before = written()[1]
    group.rank(Rank.BEHIND)
    assert written() == ("1", before)
    (tmp_path / "cpu.idle").write_text("untouched")
    group.rank(Rank.BEHIND)
    assert written()[0] == "untouched", "it has that rank already"


@contextmanager
def no_descriptors() -> Iterator[None]:
    """This process can open nothing."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_a_rank_that_could_not_be_given_is_given_when_it_can_be(
    tmp_path: Path, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last that was asked for: who was put behind is not to stay there, nor its slot, for want of a descriptor."""
    monkeypatch.setattr(shares, "_AGAIN", 0)
    for name in ("cpu.idle", "cpu.weight"):
        (tmp_path / name).touch()
    group = Group(2, (), str(tmp_path))
    group.rank(Rank.BEHIND)
    with no_descriptors():
        for rank in (Rank.FIRST, Rank.LITTLE, Rank.FIRST):
            group.rank(rank)
    assert (tmp_path / "cpu.idle").read_text() == "1"
    await until(lambda: group._standing.rank is Rank.FIRST)
    assert (tmp_path / "cpu.idle").read_text() == "0"
    assert (tmp_path / "cpu.weight").read_text().startswith("100")


def test_a_part_that_is_left_of_a_group_may_have_any_rank(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where somebody else has removed the rest, it is given again."""
    monkeypatch.setattr("cloister.sandbox.lockdown.shares.known", lambda _: True)
    group = Groups().acquire("7")
    for name in ("cpu.idle", "cpu.shares"):
        Path(group.share, name).touch()
    group.rank(Rank.BEHIND)
    group._make_anew()
    group.rank(Rank.FIRST)
    assert Path(group.share, "cpu.idle").read_text() == "0"


def test_a_group_that_is_gone_has_no_rank_and_nobody_minds(tmp_path: Path) -> None:
    """Somebody else may have removed it."""
    for rank in Rank:
        Group(1, (), str(tmp_path / "gone")).rank(rank)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Groups of version 1, as far as folders can stand for them."""
    for controller in ("memory", "pids", "cpu"):
        (tmp_path / controller).mkdir()
    monkeypatch.setattr(cgroups, "_places", lambda: {name.name: name for name in tmp_path.iterdir()})
    monkeypatch.setattr(Group, "_open_all", lambda _: ())
    return tmp_path


def test_ranked_groups_lie_beside_the_hosts_own(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in one that holds them all, whose rank would be what counts; and they are removed with the rest."""
    monkeypatch.setattr("cloister.sandbox.lockdown.shares.known", lambda _: True)
    groups = Groups()
    share = Path(groups.acquire("7").share)
    assert share.parent == tree / "cpu"
    assert share.name.startswith("cloister-")
    assert share.is_dir()
    assert groups.close()
    assert [list((tree / name).iterdir()) for name in ("cpu", "memory", "pids")] == [[], [], []]


@pytest.mark.parametrize("leaf", ["", "host"])
def test_groups_of_version_2_lie_beside_the_hosts_own(
    leaf: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each by itself, as its rank holds among those of one folder only: in the host's own group, where that may have
    others in it, and beside it, where it is a leaf."""
    (tmp_path / leaf).mkdir(exist_ok=True)
    (tmp_path / leaf / "cgroup.subtree_control").write_text("\n")
    (tmp_path / "cgroup.subtree_control").write_text("cpu memory pids\n")
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(cgroups, "_places", lambda: {"": tmp_path / leaf})
    monkeypatch.setattr("cloister.sandbox.lockdown.shares.known", lambda _: True)
    (tmp_path / "cloister-999999999-1-0-7").mkdir()
    groups = Groups()
    assert sorted(tmp_path.iterdir()) == before, "what others have left is removed, and what was tried"
    group = groups.acquire("7")
    assert (groups.version, group.folders) == (2, (group.share,))
    assert Path(group.share).parent == tmp_path
    assert groups.close()
    assert sorted(tmp_path.iterdir()) == before


def test_where_version_2_shares_no_cores_its_groups_count_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory and threads; and who computes gives way by a nice value."""
    (tmp_path / "cgroup.subtree_control").write_text("memory pids\n")
    monkeypatch.setattr(cgroups, "_places", lambda: {"": tmp_path})
    groups = Groups()
    group = groups.acquire("7")
    assert (group.share, len(group.folders), Path(group.folders[0]).is_dir()) == ("", 1, True)
    assert groups.close()


def test_a_rank_whose_last_process_is_still_dying_is_removed_later(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever has become of the rest by then: not before is it all removed."""
    monkeypatch.setattr("cloister.sandbox.lockdown.shares.known", lambda _: True)
    groups = Groups()
    share = Path(groups.acquire("7").share)
    (share / "somebody").touch()
    assert not groups.close()
    (share / "somebody").unlink()
    assert groups.close()
    assert not share.exists()


def test_a_host_of_real_time_has_no_ranks_to_give(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sandboxes could not join: a fresh group has no real time."""
    monkeypatch.setattr("cloister.sandbox.lockdown.shares.known", lambda _: True)
    monkeypatch.setattr("os.sched_getscheduler", lambda _: os.SCHED_FIFO)
    groups = Groups()
    assert groups.acquire("7").share == ""
    assert groups.close()


def test_where_the_kernel_knows_no_rank_there_is_no_group_for_it(tree: Path) -> None:
    """Such as before 5.15; memory and threads are bounded all the same."""
    groups = Groups()
    assert groups.acquire("7").share == ""
    assert list((tree / "cpu").iterdir()) == []
    assert groups.close()


def test_what_a_host_that_is_gone_has_left_is_removed(tree: Path) -> None:
    """Of ranks, too."""
    (tree / "cpu" / "cloister-999999999-1-0-7").mkdir()
    Groups().close()
    assert list((tree / "cpu").iterdir()) == []


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _rung(group: Group) -> bool:
    """Whether the bell has been rung and nobody has heard it yet."""
    assert group._bell is not None
    poll = select.poll()
    poll.register(group._bell, select.POLLIN)
    return bool(poll.poll(0))
