"""A disk that is full, read-only or damaged, a log that grows, and copies: refused or borne, and got over."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from cloister.engine import DatabaseDamaged, Engine, StorageError, WorkflowEntrypoint, database
from cloister.engine.log import LOG_BYTES, Log
from cloister.engine.records import Address
from cloister.engine.store import archive
from cloister.engine.store.catalogue import Catalogue
from cloister.engine.store.export import export

if TYPE_CHECKING:
    from cloister.engine.testing import VirtualClock

# ruff: noqa: ASYNC240 - a test may look at its file

OpenEngine = Callable[..., Engine]


class Steps(WorkflowEntrypoint):
    """As many steps as the params say, each with a result of 10 kB."""

    async def run(self, event: Any, step: Any) -> int:
        for number in range(event.payload):
            await step.do(f"s{number}", lambda: "x" * 10_000)
        return int(event.payload)


class Waiter(WorkflowEntrypoint):
    async def run(self, event: Any, step: Any) -> Any:
        return (await step.wait_for_event("w", type="t")).payload


def limit_size(monkeypatch: pytest.MonkeyPatch, pages: list[int]) -> None:
    """Every connection that writes finds the disk full beyond so many pages, while there is a number in the list."""
    real = database.connect

    def connect(*args: Any, **more: Any) -> sqlite3.Connection:
        connection = real(*args, **more)
        if pages:
            connection.execute(f"PRAGMA max_page_count = {pages[0]}")
        return connection

    monkeypatch.setattr("cloister.engine.engine.connect", connect)


# A full disk


async def test_a_full_disk_acknowledges_nothing_and_is_got_over(
    open_engine: OpenEngine, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writes are refused, what is there can be looked at, runs wait; and when there is room again they go on."""
    pages: list[int] = []
    limit_size(monkeypatch, pages)
    async with open_engine() as engine:
        workflow = engine.workflow("w", Steps)
        await (await workflow.create(id="before", params=1)).result()
    pages.append(80)
    async with open_engine() as engine:
        workflow = engine.workflow("w", Steps)
        running = await workflow.create(id="running", params=60)
        await clock.run_until_idle()
        status = await running.status()
        assert status["status"] in {"running", "waiting"}, "it could not record its steps, and has not ended for that"
        assert "disk is full" in status["trouble"]
        refused = 0
        for number in range(20):
            try:
                await workflow.create(id=f"refused-{number}", params="x" * 100_000)
            except StorageError:
                refused += 1
        assert refused > 10
        assert (await (await workflow.get("before")).status())["output"] == 1
        known = {summary.id for summary in (await workflow.list(limit=1000)).instances}
        assert {"before", "running"} <= known
        assert len(known) == 2 + 20 - refused, "exactly what was acknowledged is there"
        pages.clear()
        for _ in range(60):
            await clock.advance(5)
        assert await running.result() == 60
        assert await (await workflow.create(params=1)).result() == 1


# A file that cannot be written, or is damaged


def test_a_read_only_file_is_refused_by_name(path: Path) -> None:
    """Root, who may write everything, gives that up first."""
    asyncio.run(_touch(path))
    path.chmod(0o444)
    program = f"""
        import asyncio, ctypes
        from cloister.engine import Engine, StorageError
        no_capabilities = (ctypes.c_uint32 * 6)()
        assert ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(0x20080522, 0), no_capabilities) == 0
        async def main():
            try:
                async with Engine({str(path)!r}):
                    print("opened")
            except StorageError as error:
                print(type(error).__name__, error)
        asyncio.run(main())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False, timeout=280
    )
    assert done.stdout.startswith("StorageError"), done.stdout + done.stderr
    assert "read-only" in done.stdout


async def _touch(path: Path) -> None:
    async with Engine(path) as engine:
        workflow = engine.workflow("w", Steps)
        for _ in range(3):
            await (await workflow.create(params=3)).result()


@pytest.mark.parametrize("where", ["everywhere", "where nobody looks yet"])
async def test_a_damaged_file_is_refused_and_left_alone(path: Path, where: str) -> None:
    """Before anything of it is believed."""
    await _touch(path)
    data = bytearray(path.read_bytes())
    pages = len(data) // 4096
    for page in range(2, pages) if where == "everywhere" else [pages - 1]:
        data[page * 4096 : page * 4096 + 64] = os.urandom(64)
    path.write_bytes(data)
    if where != "everywhere":
        database.connect(path, "full").close()
        data = bytearray(path.read_bytes())
    with pytest.raises(DatabaseDamaged, match="restore a backup"):
        await Engine(path).__aenter__()
    assert path.read_bytes() == bytes(data)


async def test_a_file_that_is_cut_off_is_refused(path: Path) -> None:
    """Half a database is none."""
    await _touch(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2 // 4096 * 4096])
    with pytest.raises(DatabaseDamaged):
        await Engine(path).__aenter__()


async def test_looking_for_damage_takes_no_longer_than_it_may(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large file is opened all the same, and nothing of the looking is left."""
    await _touch(path)
    monkeypatch.setattr(database, "EXAMINE_SECONDS", 0)
    threads = threading.active_count()
    for _ in range(5):
        async with Engine(path):
            pass
    assert threading.active_count() <= threads


# The log


async def test_the_log_is_cut_off_once_nobody_reads_in_it(
    open_engine: OpenEngine, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It grows past its bound while somebody looks for long, which is told, and not after that."""
    bound = 256 * 1024
    for module in ("log", "writer"):
        monkeypatch.setattr(f"cloister.engine.{module}.LOG_BYTES", bound)
    monkeypatch.setattr("cloister.engine.writer.TIDY_COMMITS", 4)
    log = path.with_name("app.db-wal")
    async with open_engine() as engine:
        workflow = engine.workflow("w", Steps)
        await (await workflow.create(params=1)).result()
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM instances").fetchone()
            with caplog.at_level(logging.WARNING, logger="cloister.engine.writer"):
                await (await workflow.create(params=150)).result()
            assert log.stat().st_size > 2 * bound
            assert "cannot be cut off" in caplog.text
            assert caplog.text.count("cannot be cut off") < 10, "once for each time that it has doubled"
        await (await workflow.create(params=20)).result()
        assert log.stat().st_size <= 2 * bound


async def test_the_log_stays_bounded_under_load(open_engine: OpenEngine, path: Path) -> None:
    """Whatever is written through it."""
    log, largest = path.with_name("app.db-wal"), 0
    async with open_engine() as engine:
        workflow = engine.workflow("w", Steps)
        for _ in range(8):
            await asyncio.gather(*[(await workflow.create(params=10)).result() for _ in range(16)])
            largest = max(largest, log.stat().st_size)
    assert path.stat().st_size > 10_000_000
    assert largest < 8 * 1024 * 1024


@pytest.mark.parametrize("room", [2 * 1024 * 1024, 0])
async def test_on_a_small_disk_the_log_takes_a_small_part_of_it(
    open_engine: OpenEngine, path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    """Of what is free, whoever makes the commits; it is data that fills a disk."""
    small = SimpleNamespace(f_blocks=1, f_bavail=room // 4096, f_frsize=4096)
    monkeypatch.setattr("cloister.engine.log.os.statvfs", lambda path: small)
    log, largest = path.with_name("app.db-wal"), 0
    async with open_engine() as engine:
        workflow = engine.workflow("w", Steps)
        for _ in range(20):
            await (await workflow.create(params=10)).result()
            largest = max(largest, log.stat().st_size)
    assert path.stat().st_size > 1024 * 1024
    assert largest < 1024 * 1024


def test_a_disk_that_does_not_count_its_blocks_is_not_taken_for_a_full_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some of the network say nothing but zeros."""
    uncounted = SimpleNamespace(f_blocks=0, f_bavail=0, f_frsize=0)
    monkeypatch.setattr("cloister.engine.log.os.statvfs", lambda path: uncounted)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        log = Log(connection)
        assert (log.most, log.scarce) == (LOG_BYTES, False)


async def test_a_database_may_lie_where_its_path_is_no_text(tmp_path: Path) -> None:
    """File names are bytes."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    folder.mkdir()
    async with Engine(folder / "app.db") as engine:
        assert await (await engine.workflow("w", Steps).create(params=2)).result() is not None


# Copies


async def test_a_backup_of_a_busy_engine_is_a_whole_database(
    open_engine: OpenEngine, clock: VirtualClock, path: Path, tmp_path: Path
) -> None:
    """Everything that was acknowledged before is in it, and an engine goes on from it."""
    target = tmp_path / "copy.db"
    async with open_engine() as engine:
        workflow = engine.workflow("w", Waiter)
        names = [f"i{number}" for number in range(50)]
        for name in names:
            await workflow.create(id=name)
        busy = engine.workflow("busy", Steps)
        noise = [asyncio.create_task(_make(busy)) for _ in range(8)]
        size = await engine.backup(target)
        assert size == target.stat().st_size
        await asyncio.gather(*noise)
        with pytest.raises(FileExistsError):
            await engine.backup(target)
        with pytest.raises(StorageError, match="missing"):
            await engine.backup(tmp_path / "missing" / "copy.db")
    assert [entry.name for entry in tmp_path.iterdir() if "partial" in entry.name] == []
    async with Engine(target, clock=clock) as engine:
        workflow = engine.workflow("w", Waiter)
        for name in names:
            await (await workflow.get(name)).send_event(type="t", payload=name)
        await clock.advance(1)
        assert [await (await workflow.get(name)).result() for name in names] == names


async def _make(workflow: Any) -> None:
    await (await workflow.create(params=20)).result()


# What an operator does with the file


async def test_the_archive_tells_what_is_in_a_database_beside_a_live_engine(
    open_engine: OpenEngine, path: Path, clock: VirtualClock
) -> None:
    """Sizes, version and counts; and what is no database is no answer."""
    async with open_engine() as engine:
        workflow = engine.workflow("w", Steps)
        await (await workflow.create(params=3)).result()
        await engine.workflow("v", Waiter).create_batch([{}] * 7)
        await clock.advance(1)
        found = archive.information(path)
    assert found["workflows"] == {"v": {"waiting": 7}, "w": {"complete": 1}}
    assert (found["version"], found["rows"]["instances"]) == (database.VERSION, 8)
    assert found["bytes"] > 30_000
    with pytest.raises(FileNotFoundError):
        archive.information(path.with_name("none.db"))
    assert not path.with_name("none.db").exists()


async def test_vacuum_gives_back_what_was_deleted_and_wants_the_file_alone(
    open_engine: OpenEngine, path: Path, clock: VirtualClock
) -> None:
    """While an engine has it, it is refused."""
    async with open_engine() as engine:
        workflow = engine.workflow("w", Steps)
        instance = await workflow.create(params=200)
        await instance.result()
        with pytest.raises(Exception, match="in use"):
            archive.vacuum(path)
        await instance.delete()
        await clock.run_until_idle()
    before, after = archive.vacuum(path)
    assert before > 2_000_000
    assert after < 300_000
    async with open_engine() as engine:
        await (await engine.workflow("w", Steps).create(params=1)).result()


async def test_an_exported_instance_has_everything_but_what_is_sensitive(
    open_engine: OpenEngine, path: Path, clock: VirtualClock
) -> None:
    """Params, labels, steps with values or errors, events that nobody took, history; in terms of JSON."""

    class Varied(WorkflowEntrypoint):
        async def run(self, event: Any, step: Any) -> Any:
            await step.do("bytes", lambda: b"\0\xff")
            await step.do("secret", {"sensitive": "output"}, lambda: "hunter2")
            with contextlib.suppress(Exception):
                await step.do("broken", {"retries": {"limit": 0, "delay": 0}}, self.broken)
            got = await step.wait_for_event("w", type="t")
            await step.sleep("nap", "1 hour")
            return got.payload

        def broken(self) -> None:
            raise ValueError("no")

    async with open_engine() as engine:
        workflow = engine.workflow("w", Varied)
        instance = await workflow.create(id="x", scope="s", params={"a": [1.5, None]}, labels={"k": "v"})
        await instance.send_event(type="t", payload={"p": 1})
        await instance.send_event(type="other", payload="left over")
        await clock.advance(1)
        told = export(path, Address("w", "s", "x"))
        with pytest.raises(Exception, match="no instance 'y'"):
            export(path, Address("w", "s", "y"))
    assert (told["id"], told["status"], told["params"], told["labels"]) == (
        "x",
        "waiting",
        {"a": [1.5, None]},
        {"k": "v"},
    )
    steps = {step["name"]: step for step in told["steps"]}
    assert steps["bytes"]["value"] == {"$base64": "AP8="}
    assert steps["secret"]["value"] == "[REDACTED]"
    assert "hunter2" not in str(told)
    assert (steps["broken"]["error"]["name"], steps["w"]["value"]) == ("ValueError", {"p": 1})
    assert [event["payload"] for event in told["events"]] == ["left over"]
    assert told["history"][-1]["type"] == "workflow_waiting"


async def test_an_export_is_of_one_moment(path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a live host does to the instance meanwhile."""
    async with Engine(path, clock=clock) as engine:
        await engine.workflow("w", Steps).create(id="x", params=1, labels={"plan": "pro"})
        await clock.run_until_idle()
    find = Catalogue.find

    def gone_at_once(catalogue: Catalogue, address: Address) -> int:
        number = find(catalogue, address)
        with contextlib.closing(sqlite3.connect(path)) as host, host:
            host.execute("DELETE FROM labels")
            host.execute("DELETE FROM instances")
        return number

    monkeypatch.setattr(Catalogue, "find", gone_at_once)
    told = export(path, Address("w", "", "x"))
    assert (told["id"], told["labels"]) == ("x", {"plan": "pro"})
