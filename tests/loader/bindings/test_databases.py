"""A private database: D1's names, transactions, and SQL that was written to get out of it."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import select
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from cloister.loader import Loader, TenantError, WorkerStub
from cloister.loader.bindings import (
    Database,
    DatabaseLimits,
    Databases,
    SqlError,
    StorageQuotaExceeded,
    StoreClosed,
)
from cloister.loader.bindings.lanes import Lane, _packed

Make = Callable[..., WorkerStub]


def names_in(folder: Path) -> list[str]:
    """What lies in a folder."""
    return [path.name for path in folder.iterdir()]


FOREVER = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"


@pytest.fixture
def databases(runner: asyncio.Runner, tmp_path: Path) -> Iterator[Databases]:
    """A folder of them, with little room."""
    limits = DatabaseLimits(bytes=200_000, seconds=60.0, rows=1000, result_bytes=100_000)
    databases = Databases(tmp_path / "databases", limits=limits)
    runner.run(databases.__aenter__())
    yield databases
    runner.run(databases.__aexit__(None, None, None))


@contextmanager
def hurried(databases: Databases, seconds: float = 1.0) -> Iterator[None]:
    """Statements have little time; those before and after have enough on a busy machine, too."""
    patient = databases.limits
    databases.limits = dataclasses.replace(patient, seconds=seconds)
    yield
    databases.limits = patient


@pytest.fixture
def database(databases: Databases) -> Database:
    """One of them."""
    return Database(databases, "t-42")


async def test_a_tenants_code_runs_as_it_does_at_cloudflare(worker: Make, database: Database) -> None:
    """Statements are made without asking, bound, and run one by one or as a batch."""
    source = """
    from workers import WorkerEntrypoint
    class Default(WorkerEntrypoint):
        async def main(self):
            db = self.env.DB
            done = await db.exec("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT); -- a comment; and more\\n"
                                 "CREATE INDEX by_name ON users (name);")
            insert = db.prepare("INSERT INTO users (name) VALUES (?)")
            results = await db.batch([insert.bind("Ann"), insert.bind("Bob; DROP TABLE users")])
            run = await insert.bind(None).run()
            one = db.prepare("SELECT * FROM users WHERE id = ?1").bind(2)
            return [done["count"], [result.meta.last_row_id for result in results], run.success, run.meta.changes,
                    await db.withSession("first-primary").prepare("SELECT 7 AS n").first("n"),
                    (await one.all()).results[0].name, (await one.first()).id, await one.first("name"),
                    await db.prepare("SELECT 1 WHERE 0").first(), await one.raw(), await one.raw({"columnNames": True}),
                    [row.n for row in await db.sql("SELECT count(*) AS n FROM users WHERE id > ?", 1)]]
    """
    assert await worker(source, env={"DB": database}).get_entrypoint().main() == [
        2, [1, 2], True, 1, 7, "Bob; DROP TABLE users", 2, "Bob; DROP TABLE users", None,
        [[2, "Bob; DROP TABLE users"]], [["id", "name"], [2, "Bob; DROP TABLE users"]], [2],
    ]  # fmt: skip


async def test_a_session_has_a_bookmark_once_it_has_asked(worker: Make, database: Database) -> None:
    """None before; what it is made from another time is the same."""
    source = """
    from workers import WorkerEntrypoint
    class Default(WorkerEntrypoint):
        async def main(self):
            session = self.env.DB.withSession()
            before = session.getBookmark()
            rows = await session.prepare("SELECT 1 AS n").all()
            kept = session.getBookmark()
            later = self.env.DB.withSession(kept)
            assert rows.results.to_py() == [{"n": 1}] and rows.results[0].to_py() == {"n": 1}
            return [before, rows.results[0].n, isinstance(kept, str) and len(kept) > 0, later.getBookmark() == kept,
                    await later.prepare("SELECT 2 AS n").first("n")]
    """
    assert await worker(source, env={"DB": database}).get_entrypoint().main() == [None, 1, True, True, 2]


async def test_a_result_says_how_large_the_database_is(database: Database) -> None:
    """When all of its batch is done."""
    made = await database.exec("CREATE TABLE many (x TEXT)")
    few, many = await database.batch(
        [["INSERT INTO many VALUES (?)", ["x"]], ["INSERT INTO many VALUES (?)", ["x" * 9000]]]
    )
    assert made["count"] == 1
    assert few["meta"]["size_after"] == many["meta"]["size_after"] > 9000


async def test_many_rows_cost_the_host_no_more_than_their_bytes(
    worker: Make, databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a sandbox asked for is passed on without being read, unless a subclass has its say about it."""
    source = """
    from workers import WorkerEntrypoint
    class Default(WorkerEntrypoint):
        async def main(self):
            db, query = self.env.DB, "SELECT 1 AS n, 'x' AS x, NULL AS none"
            prepared = (await db.prepare(query).all()).results
            return [[dict(row) for row in rows] for rows in (await db.sql(query), prepared)]
    """

    class Counted(Database):
        """Looks at what is asked and answered."""

        async def batch(self, statements: object) -> list[dict[str, Any]]:
            """With a row more."""
            results = await super().batch(statements)
            results[0]["results"].append({"n": 2})
            return results

    rows = [{"n": 1, "x": "x", "none": None}]
    assert (
        await worker(source, env={"DB": Counted(databases, "t-42")}).get_entrypoint().main() == [[*rows, {"n": 2}]] * 2
    )
    monkeypatch.setattr("cloister.loader.bindings.databases._read", None)
    assert await worker(source, env={"DB": Database(databases, "t-42")}).get_entrypoint().main() == [rows] * 2


async def test_a_folder_may_be_a_relative_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes that open its files stand elsewhere, and so may the host later on."""
    monkeypatch.chdir(tmp_path)
    async with Databases("databases", limits=DatabaseLimits(seconds=100)) as databases:
        database = Database(databases, "t-42")
        await database.exec("CREATE TABLE t (a)")
        monkeypatch.chdir("/")
        assert await database.sql("SELECT count(*) AS n FROM t") == [{"n": 0}]
        assert await databases.size("t-42") > 0


@pytest.mark.parametrize("last", [b"", b"\x05"])
async def test_a_process_ends_with_its_host_whatever_that_left_unread_or_unsaid(tmp_path: Path, last: bytes) -> None:
    """A host that was killed has read no answer."""
    lane = await Lane.open(DatabaseLimits().memory_bytes)
    assert lane._writer is not None
    transport: Any = lane._writer.transport
    transport.pause_reading()
    limits = {"bytes": 1 << 20, "seconds": 5.0, "rows": 1, "result_bytes": 100, "written_bytes": 1 << 20}
    batch = {"path": str(tmp_path / "one.db"), "statements": "SELECT 1", "limits": limits, "keep": True}
    await lane._send(_packed(batch) + last)
    answered, _, _ = await asyncio.to_thread(select.select, [transport.get_extra_info("socket")], [], [], 60)
    assert answered
    transport.abort()
    ended, _, _ = await asyncio.to_thread(select.select, [lane._pidfd], [], [], 60)
    assert ended
    await lane.close()


async def test_a_script_gives_no_rows(database: Database) -> None:
    """But counts its statements."""
    assert (await database.exec("SELECT 1; SELECT 2"))["count"] == 2


async def test_a_batch_is_one_transaction(database: Database) -> None:
    """What fails in the middle undoes the whole; so does a constraint that is looked at in the end."""
    await database.exec("CREATE TABLE a (x UNIQUE)")
    with pytest.raises(SqlError, match="UNIQUE constraint failed"):
        await database.batch([["INSERT INTO a VALUES (1)", []], ["INSERT INTO a VALUES (1)", []]])
    assert await database.sql("SELECT * FROM a") == []
    await database.exec("CREATE TABLE b (y REFERENCES a (x) DEFERRABLE INITIALLY DEFERRED)")
    with pytest.raises(SqlError, match="FOREIGN KEY constraint failed"):
        await database.batch([["INSERT INTO b VALUES (7)", []]])
    assert await database.sql("SELECT * FROM b") == []


async def test_it_survives_the_eviction_of_its_tenant(
    loader: Loader, tenant: str, code: Any, database: Database
) -> None:
    """It is the host's file; a sandbox never had it open."""
    source = """
    from workers import WorkerEntrypoint
    class Default(WorkerEntrypoint):
        async def add(self):
            await self.env.DB.exec("CREATE TABLE IF NOT EXISTS a (x)")
            await self.env.DB.sql("INSERT INTO a VALUES (1)")
            return (await self.env.DB.sql("SELECT count(*) AS n FROM a"))[0].n
    """
    made = code(source, env={"DB": database})
    entry = loader.get(tenant, lambda: made).get_entrypoint()
    assert await entry.add() == 1
    assert loader.evict(tenant)
    assert await entry.add() == 2


async def test_each_tenant_has_a_file_of_its_own(databases: Databases, tmp_path: Path) -> None:
    """Whatever it is called; with a size, and an end."""
    names = ["a", "A", "../a", "a/../../b", "..", "a\0b", "ä" * 500, "a-b", "a b"]
    for name in names:
        await Database(databases, name).exec("CREATE TABLE mine (x)")
    for name in names:
        await Database(databases, name).sql("INSERT INTO mine VALUES (?)", name)
    for name in names:
        assert await Database(databases, name).sql("SELECT x FROM mine") == [{"x": name}]
    assert len(names_in(tmp_path / "databases")) == len(names)
    assert names_in(tmp_path) == ["databases"]
    await Database(databases, "a", name="other").exec("CREATE TABLE mine (x)")
    assert await databases.size("a") == 2 * await databases.size("A") > 0
    await databases.drop("a")
    assert await databases.size("a") == 0
    with pytest.raises(SqlError, match="no such table"):
        await Database(databases, "a").sql("SELECT * FROM mine")


@pytest.mark.parametrize(
    "query",
    [
        "ATTACH DATABASE '{other}' AS other",
        "ATTACH DATABASE ':memory:' AS other",
        "DETACH DATABASE main",
        "VACUUM",
        "VACUUM INTO '{other}'",
        "SELECT load_extension('{other}')",
        "SELECT readfile('{other}')",
        "SELECT writefile('{other}', 'x')",
        "SELECT fts3_tokenizer('simple')",
        "SELECT edit('x')",
        "PRAGMA journal_mode = OFF",
        "PRAGMA journal_mode",
        "PRAGMA synchronous = OFF",
        "PRAGMA max_page_count = 1000000",
        "PRAGMA writable_schema = ON",
        "PRAGMA temp_store_directory = '/'",
        "PRAGMA data_store_directory = '/'",
        "PRAGMA database_list",
        "PRAGMA trusted_schema = ON",
        "PRAGMA cache_size = 1000000",
        "PRAGMA mmap_size = 1000000000",
        "SELECT * FROM pragma_database_list",
        "BEGIN",
        "COMMIT",
        "ROLLBACK",
        "SAVEPOINT a",
        "RELEASE a",
        "CREATE TEMP TABLE t (x)",
        "CREATE TEMP TRIGGER t AFTER INSERT ON mine BEGIN SELECT 1; END",
        "CREATE TEMP VIEW v AS SELECT 1",
        "CREATE VIRTUAL TABLE v USING fts5(x)",
        "CREATE VIRTUAL TABLE v USING rtree(id, a, b)",
        "CREATE VIRTUAL TABLE v USING csv(filename='{other}')",
        "UPDATE sqlite_master SET sql = 'x'",
        "DELETE FROM sqlite_master",
        "INSERT INTO sqlite_master VALUES ('table', 'a', 'a', 2, 'x')",
        "SELECT 1; SELECT 2",
        "SELECT * FROM sqlite_dbpage",
        "SELECT * FROM generate_series(1, 10)",
        "SELECT 1 \0; ATTACH DATABASE '{other}' AS b",
    ],
)  # fmt: skip
async def test_sql_does_not_get_out(database: Database, tmp_path: Path, query: str) -> None:
    """Other files, extensions, settings, transactions of its own: refused, and the database goes on as before."""
    other = tmp_path / "other.db"
    await database.exec("CREATE TABLE mine (x)")
    with pytest.raises((SqlError, ValueError)):
        await database.sql(query.replace("{other}", str(other)))
    assert not other.exists()
    await database.sql("INSERT INTO mine VALUES (1)")
    assert await database.sql("SELECT * FROM mine") == [{"x": 1}]


@pytest.mark.parametrize(
    "query",
    [
        FOREVER,
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c ORDER BY x DESC",
        "SELECT count(*) FROM many a, many b, many c, many d, many e",
        "INSERT INTO many WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT 1 FROM c) SELECT x FROM c WHERE x = 2",
        "SELECT sum(length(replace(hex(zeroblob(500000)) || a.x, '0', 'b'))) FROM many a, many b",
        "SELECT max(instr(printf('%.900000c', 'a'), printf('%.400000c', 'a') || b.x)) FROM many a, many b",
        "SELECT max(printf('%.100000c', 'a') || a.x LIKE '%a%a%a%a%a%a%a%a%b') FROM many a, many b, many c",
        "SELECT sum(length(trim(printf('%.900000c', 'a'), 'cba'))) FROM many a, many b, many c, many d",
    ],
)
async def test_sql_does_not_hang_the_host(
    databases: Databases, database: Database, query: str, eventually: Callable[..., Awaitable[None]]
) -> None:
    """It is interrupted; meanwhile the loop turns and other tenants are served."""
    other = Database(databases, "other")
    await asyncio.gather(database.exec("CREATE TABLE many (x)"), other.sql("SELECT 1"))  # two processes are there
    await database.batch([["INSERT INTO many VALUES (?)", [number]] for number in range(300)])
    served = 0
    for seconds in (1.0, 10.0, 60.0):  # a machine that is too busy to serve in time has more of it
        began = time.monotonic()
        with hurried(databases, seconds):
            running = asyncio.ensure_future(database.sql(query))
            while not running.done():
                with suppress(SqlError):  # this one may be late as well
                    assert await other.sql("SELECT 1 AS one") == [{"one": 1}]
                    served += not running.done()
            with pytest.raises(SqlError, match="and were interrupted"):
                await running
        assert time.monotonic() - began < 60 + seconds
        if served:
            break
    assert served
    assert await database.sql("SELECT count(*) AS n FROM many") == [{"n": 300}]


@pytest.mark.parametrize(
    "query",
    [
        "SELECT zeroblob(1000000000)",
        "SELECT hex(zeroblob(1500000))",
        "SELECT group_concat(hex(zeroblob(500000)), '') FROM many",
        "SELECT replace(hex(zeroblob(500000)), '0', 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb')",
        "SELECT x FROM many a, many b",
        "SELECT hex(zeroblob(20000)) FROM many",
        "SELECT x AS " + "x" * 20_000 + " FROM many",
        "SELECT " + "(" * 500 + "1" + ")" * 500,
        "SELECT " + "+".join(["1"] * 5000),
        "SELECT 1 " + "UNION SELECT 1 " * 200,
        "SELECT '" + "x" * 200_000 + "'",
    ],
    ids=lambda query: query[:50],
)
async def test_sql_takes_no_more_than_its_share_of_memory(database: Database, query: str) -> None:
    """Values, results and statements have bounds."""
    await database.exec("CREATE TABLE many (x)")
    await database.batch([["INSERT INTO many VALUES (?)", [number]] for number in range(100)])
    with pytest.raises(SqlError):
        await database.sql(query)


async def test_a_database_grows_to_its_limit_and_not_beyond(database: Database, databases: Databases) -> None:
    """What does not fit is undone; what is deleted gives room."""
    await database.exec("CREATE TABLE a (x)")
    with pytest.raises(StorageQuotaExceeded, match="larger than 200,000 bytes"):
        await database.batch([["INSERT INTO a VALUES (zeroblob(20000))", []] for _ in range(20)])
    assert await database.sql("SELECT * FROM a") == []
    await database.batch([["INSERT INTO a VALUES (zeroblob(20000))", []] for _ in range(7)])
    with pytest.raises(StorageQuotaExceeded):
        await database.batch([["INSERT INTO a VALUES (zeroblob(20000))", []] for _ in range(5)])
    await database.sql("DELETE FROM a")
    await database.batch([["INSERT INTO a VALUES (zeroblob(20000))", []] for _ in range(7)])
    assert await databases.size("t-42") <= 200_000 + 4096


async def test_sorting_fills_no_disk(tmp_path: Path) -> None:
    """What does not fit into memory goes to files that have no name; what is written to them is counted."""
    limits = DatabaseLimits(seconds=60.0, written_bytes=10_000_000)
    async with Databases(tmp_path / "databases", limits=limits) as databases:
        database = Database(databases, "t-42")
        many = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 3000)"
        with pytest.raises(SqlError, match="wrote more than 10,000,000 bytes"):
            await database.sql(
                f"{many} SELECT length(y) AS n FROM (SELECT zeroblob(20000) || x AS y FROM c ORDER BY 1)"
            )
        assert await database.sql("SELECT 1 AS x") == [{"x": 1}]


STRAIGHT = {
    "columns": "SELECT " + ", ".join(["length(hex(randomblob(900000)))"] * 190),
    "find": "SELECT instr(printf('%.1900000c', 'a'), printf('%.900000c', 'a') || 'b')",
    "replace": "SELECT length(replace(printf('%.1900000c', 'a'), printf('%.900000c', 'a') || 'b', 'x'))",
}
"""Statements that turn in no loop, which SQLite interrupts nowhere."""


@pytest.mark.parametrize("query", STRAIGHT.values(), ids=STRAIGHT)
async def test_what_cannot_be_interrupted_ends_with_its_process(
    databases: Databases, database: Database, query: str
) -> None:
    """Nothing of the batch is done, nobody else is held up, and the next one finds another process."""
    await database.exec("CREATE TABLE a (x)")
    with hurried(databases), pytest.raises(SqlError, match=r"took longer than 1 s"):
        await database.batch([["INSERT INTO a VALUES (1)", []], *[[query, []]] * 5])
    assert await database.sql("SELECT count(*) AS n FROM a") == [{"n": 0}]


HUNGRY = {
    "blobs": "SELECT " + ", ".join(["zeroblob(1900000)"] * 190),
    "texts": "SELECT " + ", ".join(["hex(randomblob(900000))"] * 190),
    "aggregates": "SELECT " + ", ".join(f"group_concat(hex(zeroblob(9000)) || {n}, '')" for n in range(190))
    + " FROM (SELECT 1 FROM sqlite_master a, sqlite_master b, sqlite_master c)",
}  # fmt: skip


@pytest.mark.parametrize("query", HUNGRY.values(), ids=HUNGRY)
async def test_a_statement_takes_no_more_memory_than_it_may(tmp_path: Path, query: str) -> None:
    """Of its process, and none of the host's; whoever comes next has all of it again."""
    limits = DatabaseLimits(memory_bytes=16_000_000, seconds=30.0)
    async with Databases(tmp_path / "databases", limits=limits, processes=1) as databases:
        database = Database(databases, "t-42")
        await database.exec("".join(f"CREATE TABLE a{n} (x);" for n in range(8)))
        with pytest.raises(SqlError, match=r"more than 16,000,000 bytes of memory"):
            await database.sql(query)
        assert await Database(databases, "other").sql("SELECT length(zeroblob(1900000)) AS n") == [{"n": 1_900_000}]


async def test_busy_tenants_leave_room_for_the_others(tmp_path: Path) -> None:
    """As many as there are processes have statements that never end, one after the other; who has a short one is
    answered while those run. A machine that is too busy to do so in time has more of it."""
    answered = 0
    for seconds in (1.25, 10, 60):
        answered = answered or await _answered_beside_busy_ones(tmp_path / str(seconds), seconds)
    assert answered


async def _answered_beside_busy_ones(folder: Path, seconds: float) -> int:
    async with Databases(folder, limits=DatabaseLimits(seconds=seconds), processes=4) as databases:

        async def toil(tenant: str) -> int:
            for turn in range(2):
                with pytest.raises(SqlError, match="took longer"):
                    await Database(databases, tenant).sql(FOREVER)
                if not turn:
                    begun.release()
            return 2

        begun = asyncio.Semaphore(0)
        toiling = [asyncio.ensure_future(toil(f"busy-{n}")) for n in range(4)]
        for _ in range(4):
            await begun.acquire()
        answered = 0
        while not any(task.done() for task in toiling):
            with suppress(SqlError):  # a busy machine may leave this one too little time as well
                assert await Database(databases, "quiet").sql("SELECT 1 AS one") == [{"one": 1}]
                answered += not any(task.done() for task in toiling)
        assert await asyncio.gather(*toiling) == [2] * 4
    return answered


async def test_nobody_is_told_what_another_asked(tmp_path: Path) -> None:
    """One that gives up twice, and does not wait until its statement has come to an end, leaves nothing behind."""
    async with Databases(tmp_path / "databases", limits=DatabaseLimits(seconds=100), processes=1) as databases:
        giving_up = asyncio.ensure_future(Database(databases, "a").sql(STRAIGHT["find"]))
        await _until_running()
        for _ in range(2):
            giving_up.cancel()
            await asyncio.sleep(0.01)
        assert giving_up.cancelled()
        for number in range(3):
            assert await Database(databases, "b").sql("SELECT ? AS n", number) == [{"n": number}]


async def test_what_cannot_be_sent_costs_no_process(database: Database) -> None:
    """A tenant could have them started over and over."""
    await database.sql("SELECT 1")
    before = _servers()
    for number in (2**63, 2**64, -(2**70)):
        with pytest.raises(SqlError, match="a parameter that SQLite cannot store"):
            await database.sql("SELECT ?", number)
    assert _servers() == before


async def test_a_table_that_takes_no_more_room_is_kept(database: Database) -> None:
    """Of pages that were free: neither the rows nor the size tell that something has changed."""
    await database.exec("CREATE TABLE a (x); CREATE TABLE b (x)")
    await database.exec("DROP TABLE a")
    await database.exec("CREATE TABLE c (x)")
    await database.exec("ALTER TABLE c RENAME TO d")
    await database.exec("DROP TABLE b")
    tables = await database.sql("SELECT name FROM sqlite_master WHERE type = 'table'")
    assert tables == [{"name": "d"}]


async def test_a_process_that_is_killed_takes_nothing_along(tmp_path: Path) -> None:
    """What it ran is told as undone or done, whichever it is; what is next is served by another."""
    async with Databases(tmp_path / "databases", limits=DatabaseLimits(seconds=100)) as databases:
        database = Database(databases, "t-42")
        await database.exec("CREATE TABLE a (x)")
        running = asyncio.ensure_future(database.batch([["INSERT INTO a VALUES (1)", []], [FOREVER, []]]))
        await _until_running()
        signal.pidfd_send_signal(server := os.pidfd_open(_servers()[0]), signal.SIGKILL)
        os.close(server)
        with pytest.raises(SqlError, match="the process that ran the statements ended"):
            await running
        assert await database.sql("SELECT count(*) AS n FROM a") == [{"n": 0}]


async def test_a_file_that_was_deleted_is_not_written_to(databases: Databases, database: Database) -> None:
    """A process has it open still, and finds out."""
    await database.exec("CREATE TABLE a (x); INSERT INTO a VALUES (1)")
    await databases.drop("t-42")
    await database.exec("CREATE TABLE a (x)")
    assert await database.sql("SELECT count(*) AS n FROM a") == [{"n": 0}]
    assert await databases.size("t-42") > 0


async def test_no_process_outlives_its_databases(databases: Databases, database: Database) -> None:
    """Nor has the host one of their files open."""
    await database.exec("CREATE TABLE a (x)")
    assert _servers()
    assert not [link for link in _descriptors() if link.startswith(str(databases._folder))]
    await databases.__aexit__(None, None, None)
    assert not _servers()
    with pytest.raises(StoreClosed):
        await database.sql("SELECT 1")


KILLED = """
import asyncio, os, sys
from pathlib import Path
from cloister.loader.bindings import Database, DatabaseLimits, Databases

async def main():
    async with Databases(sys.argv[1], limits=DatabaseLimits(seconds=100)) as databases:
        database = Database(databases, "t-42")
        await database.exec("CREATE TABLE a (x)")
        running = asyncio.ensure_future(database.batch([["INSERT INTO a VALUES (1)", []], [sys.argv[2], []]]))
        await asyncio.sleep(0.1)
        assert not running.done()
        print(Path(f"/proc/self/task/{os.getpid()}/children").read_text(), flush=True)
        await running

asyncio.run(main())
"""


async def test_no_process_outlives_a_host_that_is_killed(tmp_path: Path) -> None:
    """Whatever it runs; nothing of that is done, and the next host finds the database as it was."""
    host = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED, str(tmp_path), FOREVER, stdout=asyncio.subprocess.PIPE
    )
    assert host.stdout is not None
    servers = [os.pidfd_open(int(pid)) for pid in (await host.stdout.readline()).split()]
    assert servers
    host.kill()
    await host.wait()
    for server in servers:
        ended, _, _ = await asyncio.to_thread(select.select, [server], [], [], 200)
        os.close(server)
        assert ended
    async with Databases(tmp_path, limits=DatabaseLimits(seconds=100)) as databases:
        assert await Database(databases, "t-42").sql("SELECT count(*) AS n FROM a") == [{"n": 0}]


async def test_a_database_that_is_emptied_gives_its_room_back(tmp_path: Path) -> None:
    """So that it can be used for something else."""
    async with Databases(tmp_path / "databases", limits=DatabaseLimits(seconds=100)) as databases:
        database = Database(databases, "t-42")
        await database.exec("CREATE TABLE a (x)")
        await database.batch([["INSERT INTO a VALUES (zeroblob(100000))", []] for _ in range(40)])
        assert await databases.size("t-42") > 4_000_000
        await database.sql("DELETE FROM a")
        assert await databases.size("t-42") < 200_000


def _servers() -> list[int]:
    """Processes of ours that run SQL."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in children if b"sql.server" in Path("/proc", pid, "cmdline").read_bytes()]


async def _until_running() -> None:
    """Until one of them computes."""

    def ticks() -> int:
        return max([int(Path("/proc", str(pid), "stat").read_text().split()[13]) for pid in _servers()], default=0)

    before = ticks()
    while ticks() < before + 3:  # noqa: ASYNC110 - another process, which says nothing
        await asyncio.sleep(0.01)


def _descriptors() -> list[str]:
    found = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            found.append(str(link.readlink()))
        except OSError:
            continue
    return found


async def test_what_nobody_waits_for_is_interrupted(tmp_path: Path) -> None:
    """And its turn is given to the next at once, which would else wait for it and be given up."""
    limits = DatabaseLimits(seconds=3600)
    async with Databases(tmp_path / "databases", limits=limits, processes=1) as databases, asyncio.timeout(200):
        database = Database(databases, "t-42")
        running = asyncio.ensure_future(database.sql(FOREVER))
        await _until_running()
        running.cancel()
        assert await database.sql("SELECT 1 AS x") == [{"x": 1}]
        assert running.cancelled()


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("sql(5)", "TypeError: a statement is a query and a list"),
        ("sql('SELECT ?', {'a': 1})", "TypeError: a parameter is None, a number, text or bytes"),
        ("sql('SELECT ?', 2 ** 63)", "SqlError: a parameter that SQLite cannot store"),
        ("sql('SELECT ?')", "SqlError: "),
        ("sql('nonsense')", 'SqlError: near "nonsense": syntax error'),
        ("prepare('SELECT 1 AS a').first('b')", "KeyError: "),
        ("_stub.batch('x')", "TypeError: a batch is a list"),
        ("_stub.batch([['SELECT 1', []]] * 1001)", "TypeError: a batch is a list of at most 1,000"),
        ("_stub.batch([[]])", "TypeError: a statement is a query and a list"),
        ("_stub.drop()", "CapabilityError: Database has no method 'drop'"),
        ("exec(5)", "TypeError: a script is text"),
        ("exec('SELECT 1; SELECT')", "SqlError: "),
    ],
)
async def test_bad_input_gets_a_clear_error(worker: Make, database: Database, call: str, error: str) -> None:
    """From a tenant's side."""
    source = f"""
    from workers import WorkerEntrypoint
    class Default(WorkerEntrypoint):
        async def main(self):
            return await self.env.DB.{call}
    """
    with pytest.raises(TenantError) as caught:
        await worker(source, env={"DB": database}).get_entrypoint().main()
    assert str(caught.value).startswith(error), caught.value


async def test_a_folder_that_is_closed_says_so(tmp_path: Path) -> None:
    """Before and after."""
    databases = Databases(tmp_path / "x")
    with pytest.raises(StoreClosed):
        await Database(databases, "a").sql("SELECT 1")
