"""Databases of every version that ever landed, kept as SQL, become of this version and go on."""

from __future__ import annotations

import asyncio
import importlib.util
import sqlite3
from pathlib import Path
from types import ModuleType

import pytest

from cloister.engine import Engine
from cloister.engine.database import MIGRATIONS
from cloister.engine.testing import VirtualClock

FIXTURES = sorted((Path(__file__).parent / "fixtures").glob("version_*.sql"), key=lambda file: (len(file.stem), file))
SHAPE = "SELECT type, name, tbl_name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY 1, 2"


@pytest.fixture(scope="module")
def veterans() -> ModuleType:
    """The module that the fixtures were made with."""
    spec = importlib.util.spec_from_file_location("veterans", Path(__file__).parent / "veterans.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def restore(fixture: Path, path: Path) -> None:
    database = sqlite3.connect(path)
    database.executescript(fixture.read_text())
    database.close()


def test_every_version_that_landed_has_a_fixture() -> None:
    """Whoever adds a script adds one; `veterans.py` says how."""
    assert [fixture.stem for fixture in FIXTURES] == [f"version_{n}" for n in range(1, len(MIGRATIONS) + 1)]


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda fixture: fixture.stem)
async def test_what_an_older_version_left_is_finished_by_this_one(
    fixture: Path, path: Path, veterans: ModuleType
) -> None:
    """Sleeps, waits, buffered events, retries and pauses are there, and each instance ends as it would have."""
    restore(fixture, path)
    clock = VirtualClock(veterans.BEGAN + 60_000)
    async with Engine(path, clock=clock) as engine:
        workflow = engine.workflow("veterans", veterans.Veteran, env=True)
        instances = {name: await workflow.get(name, scope="unit") for name in veterans.EXPECTED}
        await instances["listener"].send_event(type="t", payload="two", id="two")  # a repeat
        for name in ("listener", "paused"):
            assert (await instances[name].status())["status"] == "paused"
            await instances[name].resume()
        for payload in ("late", "later"):
            await instances["waiting"].send_event(type="t", payload=payload)
        await clock.advance(2 * 3600)
        found = {name: await instance.status() for name, instance in instances.items()}
        assert {name: (s["status"], s["output"]) for name, s in found.items()} == veterans.EXPECTED


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda fixture: fixture.stem)
def test_a_migrated_database_has_the_shape_of_a_new_one(fixture: Path, tmp_path: Path, veterans: ModuleType) -> None:
    """Same tables, indexes and columns, whatever it began as."""
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    restore(fixture, old)

    async def touch(path: Path) -> None:
        async with Engine(path):
            pass

    for path in (old, new):
        asyncio.run(touch(path))
    assert shape(old) == shape(new)


def shape(path: Path) -> tuple[list[tuple[str, ...]], dict[str, list[tuple[str, ...]]]]:
    database = sqlite3.connect(path)
    objects = database.execute(SHAPE).fetchall()
    columns = {name: database.execute(f"PRAGMA table_info({name})").fetchall() for _, name, _ in objects}
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()
    return objects, columns


async def test_a_migration_that_is_killed_leaves_a_real_version(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each script is one transaction with its number, so what fails half-way is as it was and can be repeated."""
    restore(FIXTURES[0], path)

    class Interrupted(sqlite3.Connection):
        def executescript(self, script: str, /) -> sqlite3.Cursor:
            if "user_version = 2" in script:
                script = script.replace("COMMIT;", "SELECT no_such_function();")
            return super().executescript(script)

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **more: connect(*args, **more, factory=Interrupted))
    with pytest.raises(Exception, match="no_such_function"):
        await Engine(path).__aenter__()
    monkeypatch.setattr(sqlite3, "connect", connect)
    database = sqlite3.connect(path)
    assert database.execute("PRAGMA user_version").fetchone() == (1,)
    database.close()
    async with Engine(path):
        pass
