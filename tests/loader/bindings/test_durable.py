"""Durable objects: one of each id, with storage that outlives every sandbox, and alarms that are kept."""

from __future__ import annotations

import asyncio
import sqlite3
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloister.loader import Loader, LoaderConfig, TenantError, WorkerCode, WorkerStub
from cloister.loader.bindings import DatabaseLimits, DurableObjects, StoreClosed

COUNTER = """
import asyncio
from workers import DurableObject, Request, Response, WorkerEntrypoint, env

class Mixin:
    def mixed(self):
        return 1234

class Counter(DurableObject, Mixin):
    def __init__(self, ctx, env):
        super().__init__(ctx, env)
        self.calls = 0

    async def increment(self, by=1):
        self.calls += 1
        value = (await self.ctx.storage.get("value") or 0) + by
        await self.ctx.storage.put("value", value)
        return value

    async def seen(self):
        return [self.calls, await self.ctx.storage.get("value"), str(self.ctx.id), self.ctx.id.name, self.ctx.props]

    async def fetch(self, request):
        if request.method == "POST":
            return Response(request.body)
        return Response(f"{type(request).__name__} {request.url} {self.ctx.id.name}")

    async def slow(self, event):
        await asyncio.sleep(3600)

    def options(self, subject, options):
        return [subject, options.color]

    def fails(self):
        raise ValueError("no")

    def abort(self):
        try:
            self.ctx.abort("enough")
        except Exception:
            return "caught"

class Default(WorkerEntrypoint):
    async def bump(self, name):
        return await self.env.COUNTERS.getByName(name).increment()

    async def go(self):
        ns = self.env.COUNTERS
        one, same, other = ns.idFromName("one"), ns.idFromName("one"), ns.newUniqueId()
        assert one.equals(same) and one == same and not one.equals(other) and one.name == "one" and other.name is None
        assert len(one.toString()) == len(str(other)) == 64 and str(ns.newUniqueId()) != str(other)
        assert ns.idFromString(one.toString()) == one
        try:
            ns.idFromString("zz")
        except TypeError:
            pass
        stub = ns.get(one)
        assert stub.id == one and stub.name == "one"
        assert [await stub.increment(), await ns.getByName("one").increment(5)] == [1, 6]
        assert await ns.get(other).increment() == 1
        assert await stub.mixed() == 1234 and await stub.options("a", color="red") == ["a", "red"]
        answer = await stub.fetch("http://fake-host/ping")
        assert isinstance(answer, Response) and await answer.text() == "Request http://fake-host/ping one"
        body = b"x" * 700_000
        assert await (await stub.fetch("http://a.b", method="POST", body=body)).bytes() == body
        assert await (await stub.fetch("http://a.b", {"method": "POST", "body": body})).bytes() == body
        for call in (stub.fails(), stub.nothing(), stub.alarm({}), stub.ctx()):
            try:
                await call
            except Exception as error:
                assert any(words in str(error) for words in ("no", "does not exist", "may be called")), str(error)
            else:
                raise AssertionError("it was called")
        return await stub.seen()
"""

STORAGE = """
import asyncio
from workers import DurableObject

def raises(kind, text, function, *args):
    try:
        function(*args)
    except kind as error:
        assert text in str(error), str(error)
    else:
        raise AssertionError(f"no {{kind.__name__}}")

class Counter(DurableObject):
    async def go(self):
        storage, sql = self.ctx.storage, self.ctx.storage.sql
{body}
"""


@pytest.fixture
def home(runner: asyncio.Runner, loader: Loader, tmp_path: Path) -> Iterator[Home]:
    """Objects of one tenant, and its code."""
    home = Home(loader, tmp_path / "objects")
    runner.run(home.open())
    yield home
    runner.run(home.close())


class Home:
    """A host of objects that can be closed and opened again."""

    def __init__(self, loader: Loader, folder: Path) -> None:
        self.loader, self.folder = loader, folder
        self.tenant = f"home of {folder}"
        self.source = COUNTER
        self.seconds = 1_000_000.0
        self.limits = DatabaseLimits(seconds=60.0)
        self.options: dict[str, Any] = {}

    async def open(self) -> None:
        self.objects = DurableObjects(
            self.folder, self.load, limits=self.limits, now=lambda: self.seconds, **self.options
        )
        await self.objects.__aenter__()

    async def close(self) -> None:
        await self.objects.__aexit__()

    def load(self, tenant: str) -> WorkerStub:
        return self.loader.get(tenant, lambda: self.code(tenant))

    def code(self, tenant: str) -> WorkerCode:
        namespace = self.objects.namespace(tenant, "Counter")
        modules = {"main.py": textwrap.dedent(self.source)}
        return WorkerCode(main_module="main.py", modules=modules, env={"COUNTERS": namespace})

    def counter(self, name: str = "one", tenant: str = "") -> Any:
        return self.objects.namespace(tenant or self.tenant, "Counter").by_name(name)

    async def holds(self, body: str) -> Any:
        """Have an object run the body of a function that asserts things."""
        self.source = STORAGE.format(body=textwrap.indent(textwrap.dedent(body), " " * 8))
        return await self.counter().go()


async def test_a_worker_calls_its_objects(home: Home) -> None:
    """By name and by id, methods and fetch; each has what is its own."""
    calls, value, id_, name, props = await home.load(home.tenant).get_entrypoint().go()
    assert (calls, value, name, props) == (2, 6, "one", None)
    assert len(id_) == 64


async def test_the_host_calls_objects(home: Home) -> None:
    """The same ones, by their names."""
    assert [await home.counter().increment(), await home.counter().increment(2)] == [1, 3]
    assert (await home.counter().seen())[:2] == [2, 3]
    response = await home.counter("two").fetch("http://a.b/c")
    assert await response.text() == "Request http://a.b/c two"
    streamed = await home.counter("two").fetch("http://a.b/c", method="POST", body=b"x" * 700_000)
    assert len(await streamed.bytes()) == 700_000
    with pytest.raises(TenantError, match="ValueError: no"):
        await home.counter().fails()
    with pytest.raises(AttributeError, match="not a public name"):
        home.counter()._private  # noqa: B018


async def test_storage_outlives_sandbox_and_host(home: Home) -> None:
    """The object is made anew and finds what it has stored."""
    assert await home.counter().increment() == 1
    assert home.loader.evict(home.tenant)
    assert (await home.counter().seen())[:2] == [0, 1]
    await home.close()
    home.loader.evict(home.tenant)
    await home.open()
    assert await home.counter().increment() == 2


async def test_calls_of_an_object_do_not_come_between_reading_and_writing(home: Home) -> None:
    """Many at once, from several sandboxes of the tenant or one, count each other."""
    found = await asyncio.gather(*(home.counter().increment() for _ in range(40)))
    assert sorted(found) == list(range(1, 41))


async def test_there_is_one_object_of_an_id_whoever_of_the_tenants_sandboxes_is_asked(tmp_path: Path) -> None:
    """Also while the tenant has several of them."""
    config = LoaderConfig(max_sandboxes=8, spares=1, sandboxes_per_tenant=4, calls_per_sandbox=1)
    async with Loader(config=config) as loader:
        home = Home(loader, tmp_path)
        await home.open()
        entry = home.load(home.tenant).get_entrypoint()
        calls = await asyncio.gather(*(entry.bump("x") for _ in range(30)))
        assert sorted(calls) == list(range(1, 31))
        assert loader.statistics().warm > 1
        assert (await home.counter("x").seen())[0] == 30
        await home.close()


async def test_what_is_left_of_an_old_object_has_no_storage(home: Home) -> None:
    """A redeploy begins a new one while a call of the old one goes on; that one can do no harm."""
    class_ = """
    import asyncio
    from workers import DurableObject
    class Counter(DurableObject):
        async def wait(self, begun, go):
            await begun()
            await go()
            await self.ctx.storage.put("value", "old")
        async def get(self):
            return await self.ctx.storage.get("value")
        async def put(self, value):
            await self.ctx.storage.put("value", value)
    """
    home.source = class_
    begun, go = asyncio.Event(), asyncio.Event()

    async def tell() -> None:
        begun.set()

    async def wait() -> None:
        await go.wait()

    old = asyncio.ensure_future(home.counter().wait(tell, wait))
    await begun.wait()
    home.source = class_ + "\n    # newer\n"
    await home.loader.redeploy(home.tenant)
    await home.counter().put("new")
    go.set()
    with pytest.raises(TenantError, match="another one of its id"):
        await old
    assert await home.counter().get() == "new"


async def test_objects_of_tenants_have_nothing_in_common(home: Home) -> None:
    """The same name is another object, and dropping one leaves the other."""
    assert await home.counter(tenant="a").increment() == 1
    assert await home.counter(tenant="b").increment(5) == 5
    assert await home.objects.size("a") > 0
    await home.objects.drop("a")
    assert await home.objects.size("a") == 0
    assert await home.counter(tenant="a").increment() == 1
    assert await home.counter(tenant="b").increment() == 6


async def test_an_object_can_end_itself(home: Home) -> None:
    """No `except Exception` stands in the way; the next call finds a new one, with what was stored."""
    await home.counter().increment()
    with pytest.raises(TenantError, match="enough"):
        await home.counter().abort()
    assert (await home.counter().seen())[:2] == [0, 1]


async def test_what_a_tenant_says_of_an_object_is_checked(home: Home) -> None:
    """An id that is none, a name that is too long, a method that is not its to call."""
    namespace = home.objects.namespace(home.tenant, "Counter")
    for wrong in ("../x", "A" * 64, 5, None):
        with pytest.raises(TypeError, match="64 hex digits"):
            await namespace.call(wrong, None, "seen", [], {})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="at most 1,024"):
        await namespace.call("a" * 64, "x" * 1025, "seen", [], {})
    for method in ("_private", "alarm", "fetch"):
        with pytest.raises(Exception, match="may be called from outside"):
            await namespace.call("a" * 64, None, method, [], {})
    with pytest.raises(Exception, match="no such entrypoint"):
        await home.objects.namespace(home.tenant, "Nothing").by_name("x").go()
    await home.close()
    with pytest.raises(StoreClosed):
        _ = home.objects.alarms
    await home.open()


# Storage


async def test_keys_and_values_are_kept(home: Home) -> None:
    """One at a time and several, of every kind that can be sent, in order and in part."""
    await home.holds("""
        assert await storage.get("missing") is None and await storage.list() == {}
        await storage.put("key1", {"a": [1, 2.5, True, None, b"x"], "b": {"c": "d"}})
        assert (await storage.get("key1")).b.c == "d" and storage.kv.get("key1")["a"] == [1, 2.5, True, None, b"x"]
        await storage.put({"a": 1, "b": 2, "c": {3}})
        found = await storage.get(["b", "a", "missing"])
        assert list(found.items()) == [("b", 2), ("a", 1)] and await storage.get([]) == {}
        assert await storage.delete("a") is True and await storage.delete("a") is False
        assert await storage.delete(["b", "c", "missing"]) == 2
        await storage.put({f"item:{n:03d}": n for n in range(5)} | {"other": 9})
        assert list(await storage.list({"prefix": "item:", "limit": 2})) == ["item:000", "item:001"]
        assert list(await storage.list(prefix="item:", reverse=True, limit=1)) == ["item:004"]
        assert list(await storage.list({"start": "item:003", "end": "k"})) == ["item:003", "item:004"]
        assert list(await storage.list({"startAfter": "item:003", "prefix": "item:"})) == ["item:004"]
        await storage.put("%_", 1)
        assert list(await storage.list({"prefix": "%"})) == ["%_"]
        await storage.sync()
        await storage.put(7, "seven")
        assert await storage.get("7") == "seven" and await storage.delete(7) is True
        assert (found.size, found.has("b"), found.keys().next().value, {*found.keys()}) == (2, True, "b", {"a", "b"})
        assert (await storage.list(prefix="none")).keys().next().done is True
        for wrong in ("", None, ["x"] * 129):
            raises(TypeError, "a key is text", storage.kv.get, wrong)
        await storage.deleteAll()
        assert await storage.list() == {}
        await storage.put("again", 1)
        assert await storage.get("again") == 1
        storage.put("not awaited", 1)
        assert await asyncio.gather(storage.get("not awaited"), storage.get("again")) == [1, 1]
        storage.put("", 1)  # as a promise that nobody looks at
        try:
            await storage.put("", 1)
        except TypeError:
            return
        raise AssertionError("it was stored")
    """)


async def test_there_are_no_containers(home: Home) -> None:
    """Which whoever asks for one is told."""
    await home.holds("""
        raises(NotImplementedError, "there are no containers here", getattr, self.ctx, "container")
    """)


async def test_tables_are_kept(home: Home) -> None:
    """Statements without awaiting, rows as maps; several statements in one text."""
    await home.holds("""
        sql.exec("DROP TABLE IF EXISTS t; CREATE TABLE t (id INTEGER PRIMARY KEY, val TEXT);")
        written = sql.exec("INSERT INTO t VALUES (?, ?)", 1, "hello")
        assert written.rowsWritten == 1 and written.toArray() == []
        sql.exec("INSERT INTO t VALUES (?, ?)", 2, "world; of")
        rows = sql.exec("SELECT id, val FROM t ORDER BY id").toArray()
        assert [row.val for row in rows] == ["hello", "world; of"] and rows[0]["id"] == 1
        cursor = sql.exec("SELECT id, val FROM t")
        assert list(cursor.columnNames) == ["id", "val"] and cursor.rowsRead == 2
        assert cursor.next().value.id == 1 and [row["id"] for row in cursor] == [2] and cursor.next().done
        assert sql.exec("SELECT val FROM t WHERE id = 1").one()["val"] == "hello"
        assert list(sql.exec("SELECT id FROM t").raw()) == [[1], [2]]
        raises(ValueError, "Expected exactly one result", sql.exec("SELECT id FROM t").one)
        raises(ValueError, "no results", sql.exec("SELECT id FROM t WHERE id = 9").one)
        raises(Exception, "no such table", sql.exec, "SELECT * FROM missing")
        assert sql.databaseSize > 0 and sql.exec("SELECT ?", True).one()["?"] == 1
        sql.exec("CREATE TABLE other (a REFERENCES t (id))")
        sql.exec("INSERT INTO other VALUES (1)")
        sql.exec("CREATE VIEW v AS SELECT * FROM t")
        await storage.put("key", 1)
        await storage.deleteAll()
        raises(Exception, "no such table", sql.exec, "SELECT * FROM t")
    """)


async def test_a_transaction_is_done_or_not_at_all(home: Home) -> None:
    """What was written in it is read in it; what it raises undoes it, and no sooner is anything done."""
    await home.holds("""
        sql.exec("CREATE TABLE t (id INTEGER PRIMARY KEY)")
        async def body(txn):
            await txn.put("key", "value")
            sql.exec("INSERT INTO t VALUES (1)")
            assert sql.exec("SELECT count(*) AS n FROM t").one().n == 1
            return await txn.get("key")
        assert await storage.transaction(body) == "value" and await storage.get("key") == "value"
        def sync():
            sql.exec("INSERT INTO t VALUES (2)")
            storage.kv.put("key", "other")
            assert storage.kv.get("key") == "other" and sql.exec("SELECT max(id) AS n FROM t").one().n == 2
            sql.exec("INSERT INTO t VALUES (1)")
        raises(Exception, "UNIQUE", storage.transactionSync, sync)
        assert await storage.get("key") == "value" and sql.exec("SELECT count(*) AS n FROM t").one().n == 1
        async def rolled(txn):
            await txn.put("key", "gone")
            txn.rollback()
        await storage.transaction(rolled)
        assert await storage.get("key") == "value"
        def outer():
            storage.kv.put("outer", 1)
            def inner():
                storage.kv.put("inner", 1)
                raise ValueError("inner")
            raises(ValueError, "inner", storage.transactionSync, inner)
            return 5
        assert storage.transactionSync(outer) == 5
        assert await storage.get("outer") == 1 and await storage.get("inner") is None
    """)


async def test_no_call_begins_while_concurrency_is_blocked(home: Home) -> None:
    """In the constructor and later; what it gives is given, and when it raises the object is done with."""
    home.source = """
    import asyncio
    from workers import DurableObject
    class Counter(DurableObject):
        def __init__(self, ctx, env):
            super().__init__(ctx, env)
            self.log = []
            ctx.blockConcurrencyWhile(self.begin)
        async def begin(self):
            await asyncio.sleep(0.01)
            self.value = await self.ctx.storage.get("value") or 0
            if self.value == 2:
                raise ValueError("two is too many")
        async def block(self, begun, go):
            async def work():
                await begun()
                await go()
                self.log.append("blocked")
                return 42
            return await self.ctx.blockConcurrencyWhile(work)
        async def note(self):
            self.log.append("note")
            return self.log
        async def put(self, value):
            await self.ctx.storage.put("value", value)
            self.ctx.abort()
        def get(self):
            return self.value
    """
    assert await home.counter().get() == 0
    begun, go = asyncio.Event(), asyncio.Event()

    async def tell() -> None:
        begun.set()

    async def wait() -> None:
        await go.wait()

    blocking = asyncio.ensure_future(home.counter().block(tell, wait))
    await begun.wait()
    note = asyncio.ensure_future(home.counter().note())
    go.set()
    assert await blocking == 42
    assert await note == ["blocked", "note"]
    with pytest.raises(TenantError, match="aborted"):
        await home.counter().put(2)
    for _ in range(2):
        with pytest.raises(TenantError, match="two is too many"):
            await home.counter().get()


async def test_an_object_cannot_store_more_than_it_may(home: Home) -> None:
    """And says so."""
    await home.close()
    home.limits = DatabaseLimits(bytes=256 * 1024)
    await home.open()
    await home.holds("""
        for n in range(20):
            try:
                await storage.put(f"k{n}", "x" * 50_000)
            except Exception as error:
                assert "would be larger than" in str(error), error
                break
        else:
            raise AssertionError("it was stored")
    """)


async def test_a_tenant_has_so_many_objects_and_others_are_not_concerned(home: Home) -> None:
    """One more that would store something is refused; those that there are go on."""
    await home.close()
    home.options = {"most_objects": 3}
    await home.open()
    for name in ("a", "b", "c", "a"):
        await home.counter(name).increment()
    await home.close()
    await home.open()
    with pytest.raises(TenantError, match="3 objects store something"):
        await home.counter("d").increment()
    assert await home.counter("a").increment() == 3
    assert await home.counter("d", tenant="other").increment() == 1


async def test_an_object_that_only_looks_counts_once(home: Home) -> None:
    """However often it is made anew."""
    await home.close()
    home.options = {"most_objects": 2}
    await home.open()
    home.source = COUNTER.replace('await self.ctx.storage.put("value", value)', "pass")
    look = (
        "async def look(self):\n        return self.ctx.storage.sql.exec('SELECT 1 AS n').one().n\n\n    async def seen"
    )
    home.source = home.source.replace("async def seen", look)
    for _ in range(4):
        assert await home.counter().look() == 1
        home.loader.evict(home.tenant)
    assert await home.counter("two").look() == 1
    with pytest.raises(TenantError, match="2 objects store something"):
        await home.counter("three").look()


async def test_an_object_that_was_not_called_for_long_is_made_anew(home: Home) -> None:
    """No more are known at once than the host allows, however many there are."""
    await home.close()
    home.options = {"most_known": 2}
    await home.open()
    for name in ("a", "b", "c"):
        await home.counter(name).increment()
    assert len(home.objects._homes) == 2
    assert (await home.counter("c").seen())[:2] == [1, 1]
    assert (await home.counter("a").seen())[:2] == [0, 1]


# Alarms


ALARMED = """
from workers import DurableObject
class Counter(DurableObject):
    async def set(self, when):
        await self.ctx.storage.setAlarm(when)
    async def get(self):
        return await self.ctx.storage.getAlarm()
    async def forget(self):
        await self.ctx.storage.deleteAlarm()
    async def rings(self):
        return [await self.ctx.storage.get("rings"), self.ctx.id.name]
    async def alarm(self, info):
        rings = await self.ctx.storage.get("rings") or []
        rings.append([info.retryCount, info.isRetry, await self.ctx.storage.getAlarm()])
        await self.ctx.storage.put("rings", rings)
        if len(rings) < 3:
            raise ValueError("not yet")
"""


async def test_an_alarm_rings_when_it_is_due_and_again_when_it_fails(home: Home, eventually: Any) -> None:
    """While it rings it is not set; each time it waits twice as long; when it went well it is over."""
    home.source = ALARMED
    now_ms = home.seconds * 1000
    await home.counter().set(now_ms + 5000)
    assert await home.counter().get() == now_ms + 5000
    assert await home.counter().rings() == [None, "one"]
    home.seconds += 5
    home.objects.alarms._changed.set()

    async def rung(times: int) -> bool:
        return len((await home.counter().rings())[0] or []) == times

    for times, wait in ((1, 2), (2, 4), (3, 0)):
        await eventually(lambda times=times: rung(times))
        if wait:
            await eventually(lambda wait=wait: alarm_is(home, (home.seconds + wait) * 1000))
        home.seconds += wait
        home.objects.alarms._changed.set()
    await eventually(lambda: alarm_is(home, None))
    assert await home.counter().rings() == [[[0, False, None], [1, True, None], [2, True, None]], "one"]


async def alarm_is(home: Home, at_ms: float | None) -> bool:
    found: float | None = await home.counter().get()
    return found == at_ms


async def test_an_alarm_is_kept_when_the_host_ends_and_can_be_taken_back(home: Home, eventually: Any) -> None:
    """It rings in the next host, without anybody having called."""
    home.source = ALARMED.replace("len(rings) < 3", "False")
    now_ms = home.seconds * 1000
    await home.counter().set(now_ms + 1000)
    await home.counter("two").set(now_ms + 1000)
    await home.counter("two").forget()
    await home.close()
    home.loader.evict(home.tenant)
    home.seconds += 10
    await home.open()
    file = home.folder / "alarms.db"

    def over() -> bool:
        connection = sqlite3.connect(file)
        try:
            return bool(connection.execute("SELECT count(*) FROM alarms").fetchone()[0] == 0)
        finally:
            connection.close()

    await eventually(over)
    assert (await home.counter().rings())[0] == [[0, False, None]]
    assert (await home.counter("two").rings())[0] is None


async def test_an_alarm_that_nobody_hears_is_over_when_it_has_rung(
    home: Home, eventually: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Of an object without `alarm`, which is told so. Moments are dates as well as numbers."""
    caplog.set_level("INFO", "cloister.tail")
    await home.holds("await storage.setAlarm(5)\nassert await storage.getAlarm() in (5, None)")
    await eventually(lambda: "the alarm of one rang, and Counter has no alarm()" in caplog.text)
    home.source = ALARMED.replace("setAlarm(when)", "setAlarm(__import__('datetime').datetime(2100, 1, 1))")
    await home.loader.redeploy(home.tenant)
    await home.counter().set(None)
    assert await home.counter().get() == 4102444800000
