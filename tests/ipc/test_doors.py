"""A folder for sockets that have a name for a moment: who can come there, and what becomes of it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import shutil
import socket
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloister.ipc.doors import Doors

# ruff: noqa: ASYNC240 - a test may look at its folder


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where such folders are made meanwhile; its name is short."""
    made = Path(tempfile.mkdtemp(dir="/tmp"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(made))
    yield made
    shutil.rmtree(made)


async def test_who_connects_has_the_other_end_at_the_other_side(base: Path) -> None:
    """And what was connected to is there no longer."""
    doors, one = Doors(), socket.socket(socket.AF_UNIX)
    with one, await doors.connected(one.connect) as other:
        other.sendall(b"hello")
        assert one.recv(10) == b"hello"
        assert list(Path(doors.folder).iterdir()) == []
    doors.close()
    assert list(base.iterdir()) == []


async def test_nobody_else_can_come(base: Path) -> None:
    """The folder is this user's alone, and a socket in it."""
    doors, seen = Doors(), list[Path]()

    def look(path: str) -> None:
        seen.append(Path(path))
        assert seen[0].is_socket()
        raise ConnectionRefusedError

    with pytest.raises(ConnectionRefusedError):
        await doors.connected(look)
    assert not seen[0].exists()
    assert Path(doors.folder).parent == base
    assert Path(doors.folder).stat().st_mode & 0o777 == 0o700
    assert Path(doors.folder).stat().st_uid == os.getuid()
    doors.close()


async def test_who_gives_up_waiting_leaves_nothing(base: Path) -> None:
    """Whoever was to connect may never do it."""
    doors = Doors()
    waiting = asyncio.ensure_future(doors.connected(lambda _: None))
    await asyncio.sleep(0)
    assert len(list(Path(doors.folder).iterdir())) == 1
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert list(Path(doors.folder).iterdir()) == []
    doors.close()


def test_what_a_process_left_that_was_killed_is_swept(base: Path) -> None:
    """Its folder of sockets, and nothing that only looks like one, belongs to somebody else, or leads elsewhere."""
    left, strange, elsewhere = (base / name for name in ("cloister-sockets-a", "cloister-sockets-b", "elsewhere"))
    for folder in (left, strange, elsewhere):
        folder.mkdir()
        make_socket(folder / "0")
    (strange / "notes.txt").write_text("not ours")
    (base / "cloister-sockets-c").symlink_to(elsewhere)
    first, second = Doors(), Doors()
    assert Path(first.folder).exists(), "it is in use"
    assert not left.exists()
    assert (strange / "notes.txt").read_text() == "not ours"
    assert (elsewhere / "0").is_socket()
    first.close()
    second.close()


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def test_a_folder_that_is_too_long_for_a_socket_is_not_used(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system takes 107 bytes for a socket's name."""
    long = base / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    doors = Doors()
    assert long not in Path(doors.folder).parents
    doors.close()


async def test_who_gives_up_in_any_moment_leaves_no_connection_open() -> None:
    """Not even when somebody has just come."""
    doors, soon = Doors(), asyncio.get_running_loop().call_soon
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for turns in range(8):
            with socket.socket(socket.AF_UNIX) as guest:
                waiting = asyncio.ensure_future(doors.connected(lambda path, guest=guest: soon(guest.connect, path)))  # type: ignore[misc, arg-type]
                for _ in range(turns):
                    await asyncio.sleep(0)
                waiting.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    (await waiting).close()
                del waiting
                gc.collect()
    doors.close()
    assert [str(each.message) for each in told] == []
