"""Group commit: many operations to a sync, each answered after it, none harmed by its neighbours."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from cloister.engine import EngineClosed, InstanceAlreadyExists, StorageError
from cloister.engine.database import connect
from cloister.engine.errors import RunOver
from cloister.engine.options import Creation
from cloister.engine.records import Address
from cloister.engine.store import Store
from cloister.engine.store_queue import lose, postpone, recover, release
from cloister.engine.writer import Writer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path


@asynccontextmanager
async def open_writer(path: Path) -> AsyncIterator[Writer]:
    writer = Writer(lambda: Store(connect(path, "full")))
    await writer.open()
    await writer.submit(recover, "w", 0)
    yield writer
    await writer.close()


def create(writer: Writer, name: str) -> Awaitable[int]:
    return writer.submit(Store.create, "w", "", Creation(name, b"\xc0"), 0, False)


async def test_operations_that_come_together_share_commits(path: Path) -> None:
    """Two hundred creates at once take far fewer syncs than two hundred."""
    async with open_writer(path) as writer:
        await asyncio.gather(*(create(writer, f"i{n}") for n in range(200)))
        assert writer.operations == 201
        assert writer.commits < 100
        assert not await writer.idle()


async def test_a_refused_operation_does_not_disturb_its_neighbours(path: Path) -> None:
    """The duplicate is told, the others are stored."""
    async with open_writer(path) as writer:
        results = await asyncio.gather(*(create(writer, name) for name in ("a", "b", "a", "c")), return_exceptions=True)
        assert [isinstance(result, InstanceAlreadyExists) for result in results] == [
            False,
            False,
            True,
            False,
        ]
        for name in "abc":
            await writer.submit(Store.find, Address("w", "", name))


async def test_what_a_run_says_of_an_instance_that_is_gone_disturbs_nobody(path: Path) -> None:
    """A run that is put aside while retention or somebody takes its instance away is over, and that is all."""
    async with open_writer(path) as writer:
        late = [
            writer.submit(release, 99, (), 0),
            writer.submit(lose, 99, False, "it was killed", 0),
            writer.submit(postpone, 99, False, 0),
        ]
        await create(writer, "neighbour")
        assert [type(error) for error in await asyncio.gather(*late, return_exceptions=True)] == [RunOver] * 3


@pytest.mark.parametrize(
    "fault",
    [
        sqlite3.OperationalError("disk I/O error"),
        OSError(28, "No space left on device"),
        SystemExit("as a library written in another language may panic"),
    ],
)
async def test_after_a_failed_commit_nothing_is_acknowledged_and_the_file_is_opened_anew(
    path: Path, monkeypatch: pytest.MonkeyPatch, fault: BaseException
) -> None:
    """A failed sync may have lost pages that memory thinks are safe, so nothing in memory is believed."""
    real: Callable[[Store], None] = Store.commit

    def fail(store: Store) -> None:
        raise fault

    async with open_writer(path) as writer:
        await create(writer, "before")
        monkeypatch.setattr(Store, "commit", fail)
        for name in ("lost1", "lost2"):
            with pytest.raises(StorageError):
                await create(writer, name)
        monkeypatch.setattr(Store, "commit", real)
        await create(writer, "after")
        await writer.submit(Store.find, Address("w", "", "before"))
        with pytest.raises(Exception, match="no instance 'lost1'"):
            await writer.submit(Store.find, Address("w", "", "lost1"))


async def test_closing_commits_what_was_submitted_and_takes_no_more(path: Path) -> None:
    """Nobody who was let in is turned away at the end."""
    async with open_writer(path) as writer:
        last = create(writer, "last")
    await last
    with pytest.raises(EngineClosed):
        await create(writer, "too late")
