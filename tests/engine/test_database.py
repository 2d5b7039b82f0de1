"""The file: who owns it, what it may be, and how little a sleeper takes in it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from cloister.engine import (
    DatabaseTooNew,
    Engine,
    EngineClosed,
    EngineLocked,
    NotACloisterDatabase,
    StorageError,
    WorkflowEntrypoint,
)
from cloister.engine.database import MIGRATIONS, connect

if TYPE_CHECKING:
    from pathlib import Path

    from cloister.engine.testing import VirtualClock

# ruff: noqa: ASYNC240 - a test may look at its file

OpenEngine = Callable[..., Engine]


async def opening_fails(path: Path, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        async with Engine(path):
            pass


async def test_an_engine_that_has_read_nothing_ends_without_a_thread_for_it(
    open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a process ends no thread can be begun any longer, on some Pythons not even by what has to end first."""

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    async with open_engine():
        monkeypatch.setattr(threading.Thread, "start", start)


async def test_a_second_engine_on_the_same_file_is_refused_at_once(open_engine: OpenEngine, path: Path) -> None:
    """One owner, and the refusal names its process; a link to the file is the same file."""
    link = path.with_name("link.db")
    async with open_engine():
        link.symlink_to(path)
        await opening_fails(path, EngineLocked, r"process \d+")
        await opening_fails(link, EngineLocked, r"process \d+")
    async with open_engine():
        pass


FORKING = """
import asyncio, os, sys, time
from cloister.engine import Engine

async def host():
    async with Engine(sys.argv[1]):
        child = os.fork()
        if not child:
            print(os.getpid(), flush=True)  # once it is told that it owns nothing
            time.sleep(60)
            os._exit(0)
        time.sleep(60)

asyncio.run(host())
"""


async def test_a_child_that_others_fork_does_not_keep_the_file_of_its_dead_parent(path: Path) -> None:
    """The lock dies with its owner, whoever has inherited its descriptors."""
    command = [sys.executable, "-W", "ignore", "-c", FORKING, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as host:  # noqa: ASYNC220 - nothing else is to be done
        assert host.stdout is not None
        child = os.pidfd_open(int(host.stdout.readline()))
        try:
            host.kill()
            assert host.wait() == -signal.SIGKILL
            async with Engine(path):
                pass
        finally:
            signal.pidfd_send_signal(child, signal.SIGKILL)
            os.close(child)


async def test_an_engine_that_could_not_be_opened_lets_go_of_the_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was missing: descriptors, threads, or the patience of whoever opened it."""

    def missing(*_: object) -> None:
        raise OSError(24, "Too many open files")

    def late(*what: Any, **how: Any) -> sqlite3.Connection:
        assert opening.wait(60)
        return connect(*what, **how)

    opening = threading.Event()
    for owner, name in ((os, "eventfd"), (threading.Thread, "start")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, missing)
            await opening_fails(path, OSError, "Too many open files")
    with monkeypatch.context() as patch:
        patch.setattr("cloister.engine.engine.connect", late)
        impatient = asyncio.create_task(opening_fails(path, StorageError, "never"))
        await asyncio.sleep(0)
        impatient.cancel()
        opening.set()
        with pytest.raises(asyncio.CancelledError):
            await impatient
    async with Engine(path):
        pass


async def test_an_engine_whose_closing_was_cut_short_writes_nothing_beside_the_next(path: Path) -> None:
    """Its file is free only once it cannot write any longer; whoever still waits for a result is told."""
    running, stopping, over = asyncio.Event(), asyncio.Event(), asyncio.Event()
    handles: list[Any] = []

    class Stubborn(WorkflowEntrypoint):
        async def run(self, event: Any, step: Any) -> None:
            running.set()
            try:
                await over.wait()
            finally:
                stopping.set()
                await over.wait()

    async def host() -> None:
        async with Engine(path) as engine:
            handles.append(engine.workflow("w", Stubborn))
            instance = await handles[0].create(id="a")
            handles.append(asyncio.create_task(instance.result()))
            await running.wait()

    closing = asyncio.create_task(host())
    await stopping.wait()
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    async with Engine(path):
        with pytest.raises(EngineClosed):
            await handles[0].create(id="b")
        with pytest.raises(EngineClosed):
            await handles[1]
    over.set()


async def test_a_newer_database_is_refused_and_left_alone(open_engine: OpenEngine, path: Path) -> None:
    """An older cloister does not touch what it does not know."""
    async with open_engine():
        pass
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    before = path.read_bytes()
    await opening_fails(path, DatabaseTooNew, "version 99")
    assert path.read_bytes() == before


async def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path) -> None:
    """Garbage stays what it was."""
    path.write_bytes(b"not a database at all, but long enough to look like one" * 40)
    before = path.read_bytes()
    await opening_fails(path, NotACloisterDatabase, "not a database")
    assert path.read_bytes() == before


async def test_the_database_of_another_application_is_refused_and_left_alone(path: Path) -> None:
    """A database with tables that are not ours is not taken over."""
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE theirs (x)")
    database.close()
    before = path.read_bytes()
    await opening_fails(path, NotACloisterDatabase, "another application")
    assert path.read_bytes() == before


async def test_a_path_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    """A missing folder is the storage's fault, and named."""
    await opening_fails(tmp_path / "missing" / "app.db", StorageError, "missing")


async def test_a_file_of_several_names_is_refused(open_engine: OpenEngine, path: Path, tmp_path: Path) -> None:
    """Two hosts that know it by different names could not see each other's lock."""
    async with open_engine():
        pass
    (tmp_path / "other.db").hardlink_to(path)
    with pytest.raises(EngineLocked, match="hard links"):
        await open_engine().__aenter__()


async def test_a_file_that_another_program_holds_is_refused(open_engine: OpenEngine, path: Path) -> None:
    """With an error of ours, which names it."""
    async with open_engine():
        pass
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(EngineLocked, match="locked by another program"):
            await open_engine().__aenter__()


async def test_an_empty_file_becomes_a_database(path: Path) -> None:
    """As `mktemp` leaves it."""
    path.touch()
    async with Engine(path):
        pass
    database = sqlite3.connect(path)
    assert database.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    database.close()


async def test_a_closed_engine_says_that_it_is_closed(open_engine: OpenEngine) -> None:
    """Use before and after is a clear error, never a hang."""
    engine = open_engine()
    with pytest.raises(EngineClosed):
        engine.workflow("w", WorkflowEntrypoint)
    async with engine:
        workflow = engine.workflow("w", WorkflowEntrypoint)
    with pytest.raises(EngineClosed):
        await workflow.create()
    with pytest.raises(EngineClosed):
        await workflow.get("a")


class Sleeper(WorkflowEntrypoint):
    async def run(self, event: Any, step: Any) -> None:
        await step.sleep("a long night", "30 days")


async def test_a_sleeping_instance_takes_at_most_700_bytes_on_disk(
    open_engine: OpenEngine, clock: VirtualClock, path: Path
) -> None:
    """A million sleepers are 700 MB, not a machine."""
    count = 3_000
    async with open_engine() as engine:
        workflow = engine.workflow("w", Sleeper, concurrency=100)
        for _ in range(count // 100):
            await workflow.create_batch([{"params": {"order": 1}}] * 100, scope="tenant-1")
        await clock.advance(60)
        assert engine.statistics().parked == count
    database = sqlite3.connect(path)
    database.execute("VACUUM")
    database.close()
    assert path.stat().st_size / count <= 700
