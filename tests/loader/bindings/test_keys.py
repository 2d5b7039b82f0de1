"""A key-value store: what Cloudflare's has, by the same names; its limits; and whose data is whose."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloister.ipc.answering import MAX_HELD
from cloister.loader import TenantError, TenantThrottled, WorkerStub
from cloister.loader.bindings import KeyValue, KeyValueStore, StorageQuota, StorageQuotaExceeded, StoreClosed, keys

Make = Callable[..., WorkerStub]


class Clock:
    """Time that stands still until a test says so."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:  # type: ignore[override, unused-ignore]
    """The store's."""
    return Clock()


@pytest.fixture
def store(runner: asyncio.Runner, tmp_path: Path, clock: Clock) -> Iterator[KeyValueStore]:
    """A store with little room."""
    store = KeyValueStore(tmp_path / "keys.db", quota=StorageQuota(bytes=10_000, entries=20), now=clock)
    runner.run(store.__aenter__())
    yield store
    runner.run(store.__aexit__(None, None, None))


async def test_what_is_put_and_read_piece_by_piece_is_bounded(tmp_path: Path) -> None:
    """How fast it goes is up to the tenant: what it has begun is held, and too much of it is refused."""
    quota = StorageQuota(bytes=1 << 30, entries=20)
    async with KeyValueStore(tmp_path / "large.db", quota=quota) as store:
        mine, others = KeyValue(store, "t"), KeyValue(store, "u")
        await mine.put("a", bytes(4 << 20))
        unread = [await mine.get("a", "stream") for _ in range(16)]
        with pytest.raises(TenantThrottled, match="more than 64 MiB of values"):
            await mine.get("a", "stream")
        assert await others.get("a", "stream") is None
        assert [piece async for piece in unread.pop()] == [bytes(256 << 10)] * 16
        unread[0] = await mine.get("a", "stream")  # and the one that nobody will read is gone
        await asyncio.sleep(0)
        unread.append(await mine.get("a", "stream"))
        del unread
        await asyncio.sleep(0)
        assert store.held._of == {}


async def test_a_body_that_stands_still_holds_no_more_than_may_be_held(
    worker: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor for longer than a while; what others of the tenant's put is stored."""
    monkeypatch.setattr(keys, "_IDLE_S", 0.2)
    source = """
    import asyncio
    from workers import WorkerEntrypoint
    async def body():
        yield b"x" * 1_000_000
        await asyncio.Event().wait()
    class Default(WorkerEntrypoint):
        async def main(self):
            with_body = asyncio.ensure_future(self.env.KV.put("a", body()))
            await asyncio.wait({with_body}, timeout=0.01)
            await self.env.KV.put("b", b"yes")
            try:
                await with_body
            except TimeoutError as error:
                return str(error)
    """
    async with KeyValueStore(tmp_path / "large.db") as store:
        entry = worker(source, env={"KV": KeyValue(store, "t")}).get_entrypoint()
        assert await entry.main() == "a value that is put has to go on within 0.2 s"
        assert store.held._of == {}
        monkeypatch.undo()
        store.held.more("t", MAX_HELD - 100_000)
        with pytest.raises(TenantError, match="TenantThrottled: tenant 't' reads or writes more than 64 MiB"):
            await entry.main()
        store.held.less("t", MAX_HELD - 100_000)
        assert store.held._of == {}


async def test_a_value_is_a_stream(worker: Make, store: KeyValueStore) -> None:
    """To be read piece by piece, or as the body of a response."""
    source = """
    from workers import Response, WorkerEntrypoint
    class Default(WorkerEntrypoint):
        async def main(self):
            kv = self.env.KV
            await kv.put("a", "x" * 9_000)
            await kv.put("b", "", metadata={"c": 1})
            pieces = [piece async for piece in await kv.get("a", "stream")]
            body = await Response(await kv.get("a", {"type": "stream"})).text()
            found = await kv.getWithMetadata("b", "stream")
            return [len(pieces), sum(map(len, pieces)), body == "x" * 9_000, await kv.get("c", "stream"),
                    [piece async for piece in found.value], found.metadata]
    """
    found = await worker(source, env={"KV": KeyValue(store, "t")}).get_entrypoint().main()
    assert found == [1, 9_000, True, None, [], {"c": 1}]
    assert store.held._of == {}, "nor of one that is empty"


async def test_a_tenants_code_runs_as_it_does_at_cloudflare(worker: Make, store: KeyValueStore) -> None:
    """Options as a dict in its spelling; values as text, JSON or bytes; pages with a cursor."""
    source = """
    from workers import WorkerEntrypoint
    class Default(WorkerEntrypoint):
        async def main(self):
            kv = self.env.KV
            await kv.put("a:1", "text", {"expirationTtl": 60, "metadata": {"by": "me"}})
            await kv.put("a:2", '{"b": [1]}')
            await kv.put("c", b"\\x00\\xff")
            pair = await kv.getWithMetadata("a:1")
            page = await kv.list({"prefix": "a:", "limit": 1})
            rest = await kv.list({"prefix": "a:", "cursor": page.cursor})
            found = [await kv.get("a:1"), (await kv.get("a:2", "json")).b, await kv.get("c", {"type": "arrayBuffer"}),
                     await kv.get("nothing"), pair.value, pair.metadata.by, page.keys[0].name, page.list_complete,
                     [key.name for key in rest.keys], rest.list_complete, await kv.get(["a:1", "nothing"])]
            await kv.delete("a:1")
            return [*found, await kv.get("a:1")]
    """
    entry = worker(source.replace("page.keys", 'page["keys"]').replace("rest.keys", 'rest["keys"]'),
                   env={"KV": KeyValue(store, "t")}).get_entrypoint()  # fmt: skip
    assert await entry.main() == ["text", [1], b"\x00\xff", None, "text", "me", "a:1", False, ["a:2"], True,
                                  {"a:1": "text", "nothing": None}, None]  # fmt: skip


async def test_a_body_is_a_value(worker: Make, store: KeyValueStore) -> None:
    """Read by the host as it comes: a response's, and what a generator yields."""
    source = """
    from workers import Response, WorkerEntrypoint
    class Default(WorkerEntrypoint):
        async def main(self):
            async def pieces():
                yield b"ab"
                yield b"cd"
            await self.env.KV.put("a", Response("short").body)
            await self.env.KV.put("b", pieces())
            return [await self.env.KV.get("a"), await self.env.KV.get("b")]
    """
    assert await worker(source, env={"KV": KeyValue(store, "t")}).get_entrypoint().main() == ["short", "abcd"]


async def test_no_tenant_sees_anothers(store: KeyValueStore) -> None:
    """Nor one namespace another's, whatever the keys; and each has its own quota."""
    bindings = [KeyValue(store, "a"), KeyValue(store, "b"), KeyValue(store, "a", namespace="other")]
    for number, binding in enumerate(bindings):
        await binding.put("key", str(number))
    assert [await binding.get("key") for binding in bindings] == ["0", "1", "2"]
    await bindings[0].delete("key")
    assert [await binding.get("key") for binding in bindings] == [None, "1", "2"]
    assert [len((await binding.list())["keys"]) for binding in bindings] == [0, 1, 1]
    await store.drop("a")
    assert [await binding.get("key") for binding in bindings] == [None, "1", None]
    assert await store.usage("a") == {"bytes": 0, "entries": 0}


async def test_a_page_of_much_metadata_ends_early(tmp_path: Path) -> None:
    """All of it would be written while the host does nothing else; each page goes on where the last one ended."""
    names = [f"{n:03}" for n in range(300)]
    async with KeyValueStore(tmp_path / "many.db") as store:
        kv = KeyValue(store, "a")
        for name in names:
            await kv.put(name, "", metadata=[[]] * 250)
        pages = [await kv.list()]
        while not pages[-1]["list_complete"]:
            pages.append(await kv.list(cursor=pages[-1]["cursor"]))
    assert [key["name"] for page in pages for key in page["keys"]] == names
    assert 2 < len(pages) < 6


async def test_what_has_expired_is_not_there(store: KeyValueStore, clock: Clock) -> None:
    """Neither to read nor to list, and it takes no room for long."""
    kv = KeyValue(store, "a")
    await kv.put("soon", "1", expiration_ttl=60)
    await kv.put("then", "2", expiration=clock.now + 100)
    await kv.put("never", "3")
    assert [(key["name"], key.get("expiration")) for key in (await kv.list())["keys"]] == [
        ("never", None), ("soon", 1_000_060), ("then", 1_000_100)
    ]  # fmt: skip
    clock.now += 60
    assert [await kv.get(key) for key in ("soon", "then", "never")] == [None, "2", "3"]
    assert [key["name"] for key in (await kv.list())["keys"]] == ["never", "then"]
    clock.now += 41
    await KeyValue(store, "b").put("x", "y")
    assert (await store.usage("a"))["entries"] == 1


async def test_a_quota_is_of_bytes_and_of_entries(store: KeyValueStore) -> None:
    """Beyond it nothing is stored; replacing and deleting gives room back; others are not concerned."""
    kv = KeyValue(store, "a")
    await kv.put("large", "x" * 9000)
    with pytest.raises(
        StorageQuotaExceeded, match=r"10,0\d\d bytes in 2 entries would be stored; at most 10,000 bytes"
    ):
        await kv.put("more", "x" * 1000)
    assert await kv.get("more") is None
    await kv.put("large", "x" * 100)
    await kv.put("more", "x" * 1000)
    await KeyValue(store, "b").put("large", "x" * 9000)
    for number in range(18):
        await kv.put(f"{number}", "")
    with pytest.raises(StorageQuotaExceeded, match="20 entries"):
        await kv.put("one more", "")
    await kv.delete("0")
    await kv.put("one more", "")
    assert (await store.usage("a"))["entries"] == 20


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("put('', 'x')", "ValueError: a key is text that is not empty"),
        ("put('..', 'x')", "ValueError: '..' is no key"),
        ("put('k' * 513, 'x')", "ValueError: a key has at most 512 bytes; this one has 513"),
        ("put('ä' * 257, 'x')", "ValueError: a key has at most 512 bytes"),
        ("put('a\\0b', 'x')", "ValueError: a key holds no zero"),
        ("put(5, 'x')", "ValueError: a key is text"),
        ("put('a', 5)", "TypeError: a value is text, bytes or a body, not int"),
        ("put('a', b'x' * (8 * 1024 * 1024 + 1))", "ValueError: a value has at most 8,388,608 bytes"),
        ("put('a', 'x', {'expirationTtl': 59})", "ValueError: a value lives for 60 seconds at least"),
        ("put('a', 'x', {'expiration': 1})", "ValueError: a value lives for 60 seconds at least"),
        ("put('a', 'x', {'expirationTtl': '60'})", "ValueError: expiration_ttl is a number of seconds"),
        ("put('a', 'x', {'metadata': 'm' * 2000})", "ValueError: metadata takes 2,002 bytes as JSON"),
        ("put('a', 'x', {'nonsense': 1})", "TypeError: put() has no option 'nonsense'"),
        ("put('a', 'x', 'nonsense')", "TypeError: put() takes its options as a dict or as keywords"),
        ("get('a', 'nonsense')", "ValueError: type is one of text, json"),
        ("get(['a'] * 101)", "ValueError: at most 100 keys are read at once, not 101"),
        ("get([['a']])", "ValueError: a key is text"),
        ("list({'limit': 0})", "ValueError: limit is a whole number from 1 to 1,000"),
        ("list({'cursor': '!'})", "ValueError: the cursor is not one that list() gave"),
        ("list({'prefix': 3})", "TypeError: prefix is text"),
        ("work('a')", "CapabilityError: KeyValue has no method 'work'"),
        ("_sweep('a')", "AttributeError"),
    ],
)
async def test_bad_input_gets_a_clear_error(worker: Make, store: KeyValueStore, call: str, error: str) -> None:
    """From a tenant's side, and nothing is stored."""
    source = f"""
    from workers import WorkerEntrypoint
    class Default(WorkerEntrypoint):
        async def main(self):
            return await self.env.KV.{call}
    """
    with pytest.raises(TenantError) as caught:
        await worker(source, env={"KV": KeyValue(store, "t")}).get_entrypoint().main()
    assert str(caught.value).startswith(error), caught.value
    assert await store.usage("t") == {"bytes": 0, "entries": 0}


async def test_no_read_holds_up_the_host(tmp_path: Path) -> None:
    """Values are many and large, or JSON that takes long to be read: that is told, instead of done."""
    async with KeyValueStore(tmp_path / "many.db") as store:
        pairs = KeyValue(store, "t")
        for number in range(5):
            await pairs.put(f"{number}", b"x" * 4_000_000)
        assert len((await pairs.get(["0", "1", "2", "0"], "bytes"))["0"]) == 4_000_000
        with pytest.raises(ValueError, match="read fewer at once"):
            await pairs.get([f"{number}" for number in range(5)], "bytes")
        await pairs.put("json", "[" + "[]," * 60_000 + "[]]")
        with pytest.raises(ValueError, match="read it as text"):
            await pairs.get("json", "json")
        assert len(await pairs.get("json")) == 180_004


async def test_what_is_no_json_is_told_and_not_obeyed(store: KeyValueStore) -> None:
    """However deep it is nested."""
    kv = KeyValue(store, "a")
    await kv.put("deep", "[" * 5000)
    with pytest.raises(ValueError, match="the value of 'deep' is not JSON"):
        await kv.get("deep", "json")


async def test_what_is_acknowledged_is_in_the_file(tmp_path: Path) -> None:
    """A store that is opened again has it, and one that is closed says so."""
    async with KeyValueStore(tmp_path / "x.db") as store:
        await KeyValue(store, "a").put("key", "value")
        with sqlite3.connect(f"file:{tmp_path / 'x.db'}?mode=ro", uri=True) as reader:
            assert reader.execute("SELECT value FROM pairs").fetchall() == [(b"value",)]
        reader.close()
    with pytest.raises(StoreClosed):
        await KeyValue(store, "a").get("key")
    async with KeyValueStore(tmp_path / "x.db") as store:
        assert await KeyValue(store, "a").get("key") == "value"
