"""Whose a file is, whatever somebody clears away, renames or deletes beside a live engine."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cloister.engine import Engine, EngineLocked, StorageError, WorkflowEntrypoint
from cloister.engine.handover import Handover
from cloister.engine.log import LOOK_SECONDS
from cloister.engine.store import archive

# ruff: noqa: ASYNC240 - a test may look at its file

Rests = Callable[[Handover[Any]], Awaitable[None]]

HOLDER = """
import asyncio, sys
from cloister.engine import Engine, WorkflowEntrypoint
async def main():
    async with Engine(sys.argv[1]) as engine:
        await engine.workflow("w", WorkflowEntrypoint).create(id="theirs")
        print("open", flush=True)
        await asyncio.to_thread(sys.stdin.read)
asyncio.run(main())
"""


class Nothing(WorkflowEntrypoint):
    async def run(self, event: Any, step: Any) -> None:
        pass


@contextlib.contextmanager
def held(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """By the engine of another process, which is killed in the end."""
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"open\n"
            yield process
        finally:
            process.kill()


async def ids(path: Path) -> set[str]:
    async with Engine(path) as engine:
        return {summary.id for summary in (await engine.workflow("w", Nothing).list()).instances}


async def test_who_deletes_a_lock_file_lets_nobody_in(path: Path) -> None:
    """A file that seems to be left behind, and is not."""
    with held(path):
        path.with_name("app.db.lock").unlink()
        for _ in range(2):
            with pytest.raises(EngineLocked, match="whose lock file was deleted"):
                await Engine(path).__aenter__()
    assert await ids(path) == {"theirs"}


async def test_nor_does_who_gives_the_file_another_name(path: Path) -> None:
    """Which would be without its log there. An operator's command is not let in by a link either."""
    link, moved = path.with_name("link.db"), path.with_name("moved.db")
    with held(path):
        link.symlink_to(path)
        with pytest.raises(EngineLocked):
            archive.vacuum(link)
        path.rename(moved)
        for name in (moved, path):
            with pytest.raises(EngineLocked):
                await Engine(name).__aenter__()
    moved.rename(path)
    assert await ids(path) == {"theirs"}


async def test_a_lock_file_that_a_process_deletes_lets_nobody_in_there_either(path: Path) -> None:
    """Nor does trying take away what SQLite has locked for the first one."""
    async with Engine(path) as engine:
        workflow = engine.workflow("w", Nothing)
        path.with_name("app.db.lock").unlink()
        with pytest.raises(EngineLocked, match=r"process \d+"):
            await Engine(path).__aenter__()
        other = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT 1 FROM counter'); c.close()"
        await asyncio.to_thread(subprocess.run, [sys.executable, "-c", other, str(path)], check=True)
        assert path.with_name("app.db-wal").exists(), "whoever comes and goes is not the last one"
        await workflow.create(id="a")
    assert await ids(path) == {"a"}


@pytest.mark.parametrize("how", ["moved", "deleted", "replaced"])
async def test_nothing_is_acknowledged_that_goes_to_a_file_nobody_will_find(
    path: Path, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No new one is made in its place either; once it is back everything goes on by itself."""
    monkeypatch.setattr("cloister.engine.log.LOOK_SECONDS", 0)
    away = tmp_path / "away.db"
    async with Engine(path) as engine:
        workflow = engine.workflow("w", Nothing)
        await (await workflow.create(id="a")).result()
        away.hardlink_to(path)  # by which it is brought back
        path.unlink()
        if how == "moved":
            path.write_bytes(b"")
        elif how == "replaced":
            shutil.copy(away, path)
        there = path.read_bytes() if path.exists() else None
        for _ in range(3):
            with pytest.raises(StorageError, match="was moved, replaced or deleted while it was in use"):
                await workflow.create(id="b")
        assert (path.read_bytes() if path.exists() else None) == there
        away.replace(path)
        await (await workflow.create(id="c")).result()
    assert await ids(path) == {"a", "c"}


async def test_it_is_seen_whoever_writes(
    path: Path, tmp_path: Path, hands: str, rests: Rests, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop that finds it leaves the rest to the thread, which finds the same, however little later that is."""
    moment = 0.0
    monkeypatch.setattr("cloister.engine.log.time", SimpleNamespace(monotonic=lambda: moment))
    away = tmp_path / "away.db"
    async with Engine(path) as engine:
        workflow, writer = engine.workflow("w", Nothing), engine._open_writer()
        await (await workflow.create(id="a")).result()
        path.rename(away)
        moment = LOOK_SECONDS
        await rests(writer._handover)
        here = writer.commits_here
        with pytest.raises(StorageError, match="or the log beside it was moved, replaced or deleted"):
            await workflow.create(id="b")
        assert writer.commits_here == here
        away.rename(path)
        await (await workflow.create(id="c")).result()
    assert await ids(path) == {"a", "c"}


async def test_a_log_that_was_deleted_takes_nothing_with_it(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was acknowledged before and is after survives the end of the host, which may be sudden."""
    monkeypatch.setattr("cloister.engine.log.LOOK_SECONDS", 0)
    log, later = path.with_name("app.db-wal"), tmp_path / "later.db"
    async with Engine(path) as engine:
        workflow = engine.workflow("w", Nothing)
        await (await workflow.create(id="a")).result()
        log.unlink()
        with pytest.raises(StorageError, match="or the log beside it was moved, replaced or deleted"):
            await workflow.create(id="b")
        await (await workflow.create(id="c")).result()
        for name in ("", "-wal"):
            shutil.copy(f"{path}{name}", f"{later}{name}")
    assert await ids(later) == await ids(path) == {"a", "c"}


@pytest.mark.parametrize("deleted", [True, False])
async def test_a_log_that_is_missing_after_a_crash_is_told_of(
    path: Path, deleted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """With the process whose it was. One that was closed has none."""
    with held(path) as holder:
        pass
    holder.wait()
    if deleted:
        path.with_name("app.db-wal").unlink()
    with caplog.at_level(logging.WARNING, logger="cloister.engine"):
        found = await ids(path)
        assert (f"process {holder.pid}, and its log app.db-wal is missing" in caplog.text) == deleted
        assert (found == {"theirs"}) != deleted
        caplog.clear()
        await ids(path)
        assert not caplog.text


@pytest.mark.parametrize("name", [":memory:", "file:app.db?mode=ro"])
def test_a_name_that_sqlite_would_take_for_something_else_is_refused(name: str) -> None:
    """It would be a file of that name, which nobody means."""
    with pytest.raises(ValueError, match="named by its path"):
        Engine(name)


async def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """And nothing is made beside it."""
    (tmp_path / "folder.db").mkdir()
    with pytest.raises(StorageError, match="is not a file"):
        await Engine(tmp_path / "folder.db").__aenter__()
    assert [each.name for each in tmp_path.iterdir()] == ["folder.db"]
