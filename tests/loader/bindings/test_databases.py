"""A private database: D1's names, transactions, and SQL that was written to get out of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
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

Make = Callable[..., WorkerStub]


def names_in(folder: Path) -> list[str]:
    """What lies in a folder."""
    return [path.name for path in folder.iterdir()]


FOREVER = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"


@pytest.fixture
def databases(runner: asyncio.Runner, tmp_path: Path) -> Iterator[Databases]:
    """A folder of them, with little room and time."""
    limits = DatabaseLimits(bytes=200_000, seconds=0.5, rows=1000, result_bytes=100_000)
    databases = Databases(tmp_path / "databases", limits=limits, most_open=3)
    runner.run(databases.__aenter__())
    yield databases
    runner.run(databases.__aexit__(None, None, None))


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
                    (await one.all()).results[0].name, (await one.first()).id, await one.first("name"),
                    await db.prepare("SELECT 1 WHERE 0").first(), await one.raw(), await one.raw({"columnNames": True}),
                    [row.n for row in await db.sql("SELECT count(*) AS n FROM users WHERE id > ?", 1)]]
    """
    assert await worker(source, env={"DB": database}).get_entrypoint().main() == [
        2, [1, 2], True, 1, "Bob; DROP TABLE users", 2, "Bob; DROP TABLE users", None,
        [[2, "Bob; DROP TABLE users"]], [["id", "name"], [2, "Bob; DROP TABLE users"]], [2],
    ]  # fmt: skip


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
        "SELECT json_patch('{}', '{}')",
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
        "SELECT max(printf('%.100000c', 'a') || a.x LIKE '%a%a%a%a%a%a%a%a%b') FROM many a, many b",
        "SELECT sum(length(trim(printf('%.900000c', 'a'), 'cba'))) FROM many a, many b, many c",
    ],
)
async def test_sql_does_not_hang_the_host(
    databases: Databases, database: Database, query: str, eventually: Callable[..., Awaitable[None]]
) -> None:
    """It is interrupted; meanwhile the loop turns and other tenants are served."""
    await database.exec("CREATE TABLE many (x)")
    await database.batch([["INSERT INTO many VALUES (?)", [number]] for number in range(300)])
    other = Database(databases, "other")
    began = time.monotonic()
    running = asyncio.ensure_future(database.sql(query))
    turns = 0
    while not running.done():
        turns += 1
        assert await other.sql("SELECT 1 AS one") == [{"one": 1}]
    with pytest.raises(SqlError, match="and were interrupted"):
        await running
    assert time.monotonic() - began < 10
    assert turns > 3
    assert await database.sql("SELECT count(*) AS n FROM many") == [{"n": 300}]


@pytest.mark.parametrize(
    "query",
    [
        "SELECT zeroblob(1000000000)",
        "SELECT hex(zeroblob(1500000))",
        "SELECT group_concat(hex(zeroblob(500000)), '') FROM many",
        "SELECT replace(hex(zeroblob(500000)), '0', 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb')",
        "SELECT trim('a', hex(zeroblob(1000)))",
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


async def test_what_nobody_waits_for_is_interrupted(database: Database) -> None:
    """And its turn is given to the next at once."""
    began = time.monotonic()
    running = asyncio.ensure_future(database.sql(FOREVER))
    await asyncio.sleep(0.05)
    running.cancel()
    assert await database.sql("SELECT 1 AS x") == [{"x": 1}]
    assert time.monotonic() - began < 0.5
    assert running.cancelled()


async def test_no_more_files_are_open_than_may_be(databases: Databases) -> None:
    """Those that were used longest ago are closed, and opened again when they are needed."""
    names = [f"t-{number}" for number in range(10)]
    await asyncio.gather(*(Database(databases, name).exec("CREATE TABLE a (x)") for name in names))
    await Database(databases, "t-0").sql("SELECT * FROM a")
    mine = str(databases._folder)
    opened = [link for link in _descriptors() if link.startswith(mine)]
    assert len(opened) <= 3
    results = await asyncio.gather(
        *(Database(databases, name).sql("SELECT count(*) AS n FROM a") for name in names * 5)
    )
    assert results == [[{"n": 0}]] * 50


def _descriptors() -> list[str]:
    found = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            found.append(str(link.readlink()))
        except OSError:
            continue
    return found


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


async def test_the_functions_that_stand_in_for_sqlites_do_what_those_do(database: Database) -> None:
    """For text, bytes, numbers and nothing."""
    query = (
        "SELECT instr('abc', 'c') AS a, instr('abc', '') AS b, instr(x'0102', x'02') AS c, instr(NULL, 'a') AS d,"
        " replace('abab', 'a', 'xy') AS e, replace('ab', '', 'x') AS f, replace(12, 1, 3) AS g, trim('  a ') AS h,"
        " trim('xaxx', 'x') AS i, ltrim('xax', 'x') AS j, rtrim('xax', 'x') AS k, trim(NULL) AS l, instr(1.5, '.') AS m"
    )
    assert (await database.sql(query))[0] == {
        "a": 3, "b": 1, "c": 2, "d": None, "e": "xybxyb", "f": "ab", "g": "32", "h": "a", "i": "a", "j": "ax",
        "k": "xa", "l": None, "m": 2,
    }  # fmt: skip


async def test_a_folder_that_is_closed_says_so(tmp_path: Path) -> None:
    """Before and after."""
    databases = Databases(tmp_path / "x")
    with pytest.raises(StoreClosed):
        await Database(databases, "a").sql("SELECT 1")
