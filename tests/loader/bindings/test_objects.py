"""An object store: R2's names, streams both ways, atomic writes, and keys that were meant to be paths."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloister.ipc import values
from cloister.loader import NoCapacity, TenantError, TenantThrottled, WorkerStub
from cloister.loader.bindings import Bucket, ObjectStore, StorageQuota, StorageQuotaExceeded
from cloister.loader.bindings.objects import Reading

Make = Callable[..., WorkerStub]


def names_in(folder: Path) -> list[str]:
    """What lies in a folder."""
    return [path.name for path in folder.iterdir()]


@pytest.fixture
def store(runner: asyncio.Runner, tmp_path: Path) -> Iterator[ObjectStore]:
    """A store with little room."""
    store = ObjectStore(tmp_path / "objects", quota=StorageQuota(bytes=5_000_000, entries=250), most_bytes=3_000_000)
    runner.run(store.__aenter__())
    yield store
    runner.run(store.__aexit__(None, None, None))


def content(store: ObjectStore) -> list[Path]:
    """The files that hold content."""
    return sorted(store._folder.glob("??/*"))


async def test_a_tenants_code_runs_as_it_does_at_cloudflare(worker: Make, store: ObjectStore) -> None:
    """What is known of an object, and its content, which is read like a body."""
    source = """
    from datetime import UTC
    from workers import WorkerEntrypoint
    class Default(WorkerEntrypoint):
        async def main(self):
            bucket = self.env.BUCKET
            put = await bucket.put("a/b.json", '{"c": 1}', {"httpMetadata": {"contentType": "application/json"},
                                                            "customMetadata": {"by": "me"}})
            got = await bucket.get("a/b.json")
            head = await bucket.head("a/b.json")
            part = await bucket.get("a/b.json", {"range": {"offset": 2, "length": 1}})
            tail = await bucket.get("a/b.json", range={"suffix": 2})
            same = await bucket.get("a/b.json", {"onlyIf": {"etagDoesNotMatch": put.etag}})
            found = [put.key, put.size, put.httpEtag, (await got.json()).c, head.customMetadata.by, head.body,
                     got.httpMetadata.contentType, await part.text(), await tail.text(), same.body,
                     await bucket.get("nothing"), await bucket.head("nothing")]
            await bucket.put("a/c", b"2")
            await bucket.put("d", b"3")
            page = await bucket.list({"delimiter": "/"})
            below = await bucket.list({"prefix": "a/", "limit": 1})
            rest = await bucket.list({"prefix": "a/", "cursor": below.cursor})
            await bucket.delete(["a/c", "nothing"])
            return [*found, page.delimitedPrefixes, [one.key for one in page.objects], below.truncated,
                    [one.key for one in rest.objects], await bucket.get("a/c"),
                    [put["key"], head["customMetadata"]["by"], got["bodyUsed"], head["storageClass"]],
                    [put.checksums.md5, isinstance(page.objects[0].uploaded.toISOString(), str),
                     head.uploaded.toISOString()[-5] + head.uploaded.toISOString()[-1],
                     abs(head.uploaded.getTime() - put["uploaded"].replace(tzinfo=UTC).timestamp() * 1000) < 1],
                    [tail.range.offset, tail.range.length, page.objects.length, page.delimitedPrefixes.to_py()]]
    """
    etag = hashlib.md5(b'{"c": 1}', usedforsecurity=False).hexdigest()
    assert await worker(source, env={"BUCKET": Bucket(store, "t")}).get_entrypoint().main() == [
        "a/b.json", 8, f'"{etag}"', 1, "me", None, "application/json", "c", "1}", None, None, None, ["a/"], ["d"], True,
        ["a/c"], None, ["a/b.json", "me", True, "Standard"], [etag, True, ".Z", True],
        [6, 2, 1, ["a/"]],
    ]  # fmt: skip


async def test_an_object_becomes_the_headers_of_an_answer(worker: Make, store: ObjectStore) -> None:
    """What is known of its content, under the names that HTTP has for it; and when it was put there, as a time."""
    source = """
    import datetime
    from workers import Headers, WorkerEntrypoint
    class Default(WorkerEntrypoint):
        async def main(self):
            about = {"contentType": "text/css", "cacheControl": "no-store", "contentEncoding": "br"}
            await self.env.BUCKET.put("key", "x", {"httpMetadata": about})
            found, headers = await self.env.BUCKET.get("key"), Headers({"content-type": "text/plain"})
            found.writeHttpMetadata(headers)
            age = datetime.datetime.now(datetime.UTC).replace(tzinfo=None) - found.uploaded
            return [sorted(headers.items()), -1 < age.total_seconds() < 600]
    """
    assert await worker(source, env={"BUCKET": Bucket(store, "t")}).get_entrypoint().main() == [
        [["cache-control", "no-store"], ["content-encoding", "br"], ["content-type", "text/css"]], True,
    ]  # fmt: skip


async def test_objects_stream_in_and_out(worker: Make, store: ObjectStore) -> None:
    """Larger than a message may be in pieces, neither side holding all of it."""
    source = """
    import hashlib
    from workers import WorkerEntrypoint
    class Default(WorkerEntrypoint):
        async def main(self):
            async def pieces():
                for number in range(25):
                    yield bytes([number]) * 100_000
            put = await self.env.BUCKET.put("large", pieces())
            digest, sizes = hashlib.md5(), []
            async for piece in (await self.env.BUCKET.get("large")).body:
                digest.update(piece)
                sizes.append(len(piece))
            async for _ in (await self.env.BUCKET.get("large")).body:
                break
            return [put.size, put.etag == digest.hexdigest(), sum(sizes), max(sizes)]
    """
    entry = worker(source, env={"BUCKET": Bucket(store, "t")}).get_entrypoint()
    assert await entry.main() == [2_500_000, True, 2_500_000, 262_144]


async def test_a_request_becomes_an_object_and_an_object_a_response(worker: Make, store: ObjectStore) -> None:
    """What comes in goes to the store, and from there out, without the tenant reading it."""
    source = """
    from workers import Response, WorkerEntrypoint
    class Default(WorkerEntrypoint):
        async def fetch(self, request):
            key = request.url.rpartition("/")[2]
            if request.method == "PUT":
                return Response((await self.env.BUCKET.put(key, request.body)).etag)
            found = await self.env.BUCKET.get(key)
            return Response("nothing there", status=404) if found is None else Response(found.body)
    """
    entry = worker(source, env={"BUCKET": Bucket(store, "t")}).get_entrypoint()

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 100_000

    put = await entry.fetch("https://a.example/k", method="PUT", body=pieces())
    assert await put.text() == hashlib.md5(b"x" * 2_000_000, usedforsecurity=False).hexdigest()
    assert await (await entry.fetch("https://a.example/k")).bytes() == b"x" * 2_000_000
    assert (await entry.fetch("https://a.example/other")).status == 404


@pytest.mark.parametrize(
    "key",
    ["../escape", "../../../../tmp/escape", "/etc/passwd", "a/../../b", ".", "..", "index.db", "a\\..\\b", "con", "~",
     "a" * 1024, "-rf", "*", "a\nb", "ä/ö", "%2e%2e/x", "index.db-wal", "00/x"],
    ids=lambda key: key[:20],
)  # fmt: skip
async def test_no_key_leads_out_of_the_folder(store: ObjectStore, tmp_path: Path, key: str) -> None:
    """Or to what is not an object's: it is a name in a table, whatever it looks like."""
    bucket = Bucket(store, "t")
    await bucket.put(key, "content")
    assert names_in(tmp_path) == ["objects"]
    assert {name for name in names_in(tmp_path / "objects") if len(name) != 2} <= {
        "index.db", "index.db-wal", "index.db-shm"
    }  # fmt: skip
    assert [file.read_bytes() for file in content(store)] == [b"content"]
    assert [one["key"] for one in (await bucket.list())["objects"]] == [key]
    await bucket.delete(key)
    assert content(store) == []


async def test_no_tenant_sees_anothers(store: ObjectStore) -> None:
    """Nor one bucket another's; each tenant has its own quota."""
    buckets = [Bucket(store, "a"), Bucket(store, "b"), Bucket(store, "a", name="other")]
    for number, bucket in enumerate(buckets):
        await bucket.put("key", str(number))
    await buckets[0].delete("key")
    assert [await bucket.head("key") is None for bucket in buckets] == [True, False, False]
    assert [len((await bucket.list())["objects"]) for bucket in buckets] == [0, 1, 1]
    assert (await store.usage("a"))["entries"] == 1


async def test_a_write_that_fails_changes_nothing(store: ObjectStore) -> None:
    """Neither what was there nor what is counted, and it leaves no file."""
    bucket = Bucket(store, "t")
    await bucket.put("key", "before")
    usage = await store.usage("t")
    with pytest.raises(ValueError, match="another MD5"):
        await bucket.put("key", "after", md5="0" * 32)
    with pytest.raises(ValueError, match="another SHA256"):
        await bucket.put("key", "after", {"sha256": bytes(32)})
    assert await bucket.put("key", "after", only_if={"etag_matches": "0"}) is None
    with pytest.raises(StorageQuotaExceeded, match="more than 3,000,000 bytes"):
        await bucket.put("key", b"x" * 3_000_001)
    assert await store.usage("t") == usage
    assert [file.read_bytes() for file in content(store)] == [b"before"]


async def test_a_condition_is_a_map_or_the_headers_of_a_request(worker: Make, store: ObjectStore) -> None:
    """Tags, one or several, with or without quotes, and times; as R2 and HTTP have them."""
    source = """
    import datetime
    from email.utils import format_datetime
    from js import Headers, Object
    from pyodide.ffi import to_js
    from workers import Request, WorkerEntrypoint
    class Default(WorkerEntrypoint):
        async def go(self):
            bucket = self.env.BUCKET
            put = await bucket.put("a", "tea")
            before = put.uploaded - datetime.timedelta(hours=1)
            after = put.uploaded + datetime.timedelta(hours=1)
            def http(moment):
                return format_datetime(moment.replace(tzinfo=datetime.UTC), usegmt=True)
            def headers(**given):
                return Headers.new((name.replace("_", "-"), value) for name, value in given.items())
            request = Request("http://a.b", headers={"If-Unmodified-Since": http(put.uploaded), "x-other": "1"})
            held = [
                {"etagMatches": put.etag}, {"etagMatches": ["0", put.httpEtag]}, {"etagDoesNotMatch": "0"},
                {"uploadedBefore": after}, {"uploadedAfter": before}, {"etagMatches": "*"},
                headers(If_Match=f'"0", {put.httpEtag}'), headers(if_none_match='"0"'), request.js_object.headers,
                headers(if_none_match='"0"', if_modified_since=http(after)), Headers.new(),
                headers(if_modified_since="soon"), headers(if_unmodified_since="Mon, 99 Jan 9999999 00:00:00 GMT"),
            ]
            failed = [
                to_js({"onlyIf": headers(if_match='"0"')}, dict_converter=Object.fromEntries).onlyIf,
                {"etagMatches": "0"}, {"etagDoesNotMatch": put.etag}, {"etagDoesNotMatch": "*"},
                {"uploadedBefore": before}, {"uploadedAfter": after}, headers(if_none_match=put.httpEtag),
                headers(if_match='"0"'), headers(if_modified_since=http(put.uploaded)),
            ]
            found = [[(await bucket.get("a", {"onlyIf": one})).body is None for one in ones] for ones in (held, failed)]
            found.append([await bucket.put("a", "no", {"onlyIf": one}) for one in failed])
            found.append([await bucket.put("b", "no", {"onlyIf": one}) for one in ({"etagMatches": "*"}, held[3])])
            found.append((await bucket.put("a", "coffee", onlyIf=held[0])).size)
            found.append((await bucket.put("b", "new", onlyIf={"etagDoesNotMatch": "*"})).size)
            for wrong in (1, {"etagMatches": 1}, {"uploadedBefore": "soon"}, {"other": 1}):
                try:
                    await bucket.get("a", {"onlyIf": wrong})
                except TypeError as error:
                    found.append(str(error)[:20])
            return found
    """
    assert await worker(source, env={"BUCKET": Bucket(store, "t")}).get_entrypoint().go() == [
        [False] * 13, [True] * 9, [None] * 9, [None] * 2, 6, 3,
        "only_if takes its op", "an etag is text, or ", "uploaded_before and ", "only_if has no optio",
    ]  # fmt: skip


async def test_a_requests_headers_say_what_an_object_is_and_which_part_is_wanted(
    worker: Make, store: ObjectStore
) -> None:
    """As R2 has it; what is no range of bytes is all of them."""
    source = """
    from js import Headers
    from workers import Request, WorkerEntrypoint
    class Default(WorkerEntrypoint):
        async def go(self):
            told = {"content-type": "text/x", "cache-control": "no-store", "expires": "Thu, 01 Dec 1994 16:00:00 GMT",
                    "x-other": "1"}
            await self.env.BUCKET.put("a", "0123456789", httpMetadata=Request("http://a.b", headers=told).headers)
            headers = Headers.new()
            (await self.env.BUCKET.head("a")).writeHttpMetadata(headers)
            found = [dict(headers.items())]
            for one in ("bytes=2-4", "bytes=7-", "bytes=-2", "bytes=8-99", "bytes=4-2", "bytes=-", "lines=1-2", ""):
                asked = Request("http://a.b", headers={"range": one})
                found.append(await (await self.env.BUCKET.get("a", {"range": asked.headers})).text())
            return found
    """
    everything = "0123456789"
    assert await worker(source, env={"BUCKET": Bucket(store, "t")}).get_entrypoint().go() == [
        {"cache-control": "no-store", "content-type": "text/x", "expires": "Thu, 01 Dec 1994 16:00:00 GMT"},
        "234", "789", "89", "89", everything, everything, everything, everything,
    ]  # fmt: skip


async def test_headers_cross_to_another_worker(worker: Make) -> None:
    """With all that they say, and in order."""
    other = worker("""
    from workers import Headers, WorkerEntrypoint
    class Default(WorkerEntrypoint):
        def more(self, headers):
            assert isinstance(headers, Headers)
            headers.append("x-more", "1")
            return headers
    """).get_entrypoint()
    source = """
    from workers import Headers, WorkerEntrypoint
    class Default(WorkerEntrypoint):
        async def go(self):
            return (await self.env.OTHER.more(Headers([("set-cookie", "a"), ("set-cookie", "b")]))).pairs
    """
    found = await worker(source, env={"OTHER": other}).get_entrypoint().go()
    assert found == [["set-cookie", "a"], ["set-cookie", "b"], ["x-more", "1"]]


async def test_a_quota_is_of_bytes_and_of_entries(store: ObjectStore) -> None:
    """Replacing gives back what was there; two that race for the last room do not both get it."""
    bucket = Bucket(store, "t")
    await bucket.put("a", b"x" * 2_900_000)
    await bucket.put("a", b"x" * 2_900_000)
    with pytest.raises(StorageQuotaExceeded):
        await bucket.put("b", b"x" * 2_900_000)
    results = await asyncio.gather(
        *(bucket.put(f"c{number}", b"x" * 1_500_000) for number in range(3)), return_exceptions=True
    )
    assert sorted(type(result).__name__ for result in results) == [
        "Sent",
        "StorageQuotaExceeded",
        "StorageQuotaExceeded",
    ]
    assert len(content(store)) == 2
    await bucket.delete([f"c{number}" for number in range(3)])
    for number in range(249):
        await bucket.put(f"{number}", "")
    with pytest.raises(StorageQuotaExceeded, match="251 entries"):
        await bucket.put("one more", "")


async def test_what_is_being_written_counts_too(store: ObjectStore) -> None:
    """However many objects are begun at once, no more of the disk is taken."""
    begun = asyncio.Semaphore(0)
    go_on = asyncio.Event()

    async def content_that_pauses() -> AsyncIterator[bytes]:
        yield b"x" * 2_000_000
        begun.release()
        await go_on.wait()

    writing = [asyncio.ensure_future(store.write(content_that_pauses(), "t", 5_000_000)) for _ in range(2)]
    for _ in writing:
        await begun.acquire()
    with pytest.raises(StorageQuotaExceeded, match="being written"):
        await store.write(content_that_pauses(), "t", 5_000_000)
    other = asyncio.ensure_future(store.write(content_that_pauses(), "other", 5_000_000))
    go_on.set()
    assert [written.size for written in await asyncio.gather(*writing, other)] == [2_000_000] * 3
    assert (await store.write(content_that_pauses(), "t", 5_000_000)).size == 2_000_000


async def test_a_write_that_nobody_waits_for_is_done_or_not(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given up at the moment when it is put on disk: the object is there, with its content, and the old one is gone."""
    bucket = Bucket(store, "t")
    await bucket.put("key", "before")
    task: asyncio.Task[Any]
    loop, enter = asyncio.get_running_loop(), bucket._enter
    given_up = threading.Event()

    def entering(*arguments: Any) -> Any:
        loop.call_soon_threadsafe(task.cancel)
        loop.call_soon_threadsafe(given_up.set)
        given_up.wait()
        return enter(*arguments)

    monkeypatch.setattr(bucket, "_enter", entering)
    task = asyncio.ensure_future(bucket.put("key", "after"))
    with pytest.raises(asyncio.CancelledError):
        await task
    found = await bucket.get("key")
    assert found is not None
    assert found.attributes["body"] == b"after"


async def test_a_stream_that_breaks_or_never_ends_leaves_nothing(worker: Make, store: ObjectStore) -> None:
    """Its maker is stopped as soon as there is too much."""
    source = """
    from workers import WorkerEntrypoint
    class Default(WorkerEntrypoint):
        async def main(self, kind):
            async def breaks():
                yield b"some"
                raise ValueError("broken")
            async def wrong():
                yield {"a": 1}
            async def endless():
                while True:
                    yield b"x" * 100_000
            try:
                await self.env.BUCKET.put("key", {"breaks": breaks, "wrong": wrong, "endless": endless}[kind]())
            except Exception as error:
                return f"{type(error).__name__}: {error}"
    """
    entry = worker(source, env={"BUCKET": Bucket(store, "t")}).get_entrypoint()
    assert "broken" in await entry.main("breaks")
    assert "a piece of a body that is dict" in await entry.main("wrong")
    assert "more than 3,000,000 bytes" in await entry.main("endless")
    assert content(store) == []
    assert await store.usage("t") == {"bytes": 0, "entries": 0}


async def test_what_is_being_read_can_be_replaced(store: ObjectStore) -> None:
    """Who has begun reads to the end what was there."""
    bucket = Bucket(store, "t")
    await bucket.put("key", b"a" * 1_000_000)
    reading: Any = await bucket.get("key")
    await bucket.put("key", b"b" * 1_000_000)
    assert b"".join([piece async for piece in reading._body]) == b"a" * 1_000_000
    assert len(content(store)) == 1


async def test_no_tenant_holds_more_files_open_than_it_may(tmp_path: Path) -> None:
    """What is read or written and never goes on keeps a file of the host's; what is let go of makes room."""
    async with ObjectStore(tmp_path / "few", files=4, files_per_tenant=2) as store:
        bucket, other = Bucket(store, "t"), Bucket(store, "other")
        for one in (bucket, other):
            await one.put("large", b"x" * 1_000_000)
        held = [await bucket.get("large") for _ in range(2)]
        for _ in range(3):
            with pytest.raises(TenantThrottled, match="reads or writes 2 objects at once already") as caught:
                await bucket.get("large")
            with pytest.raises(TenantThrottled):
                await bucket.put("more", b"x")
        assert (caught.value.quota, caught.value.limit) == ("files_per_tenant", 2)
        others = [await other.get("large") for _ in range(2)]
        with pytest.raises(NoCapacity, match=r"ObjectStore\(files=\.\.\.\)"):
            await Bucket(store, "third").put("more", b"x")
        assert held[0] is not None
        assert isinstance(held[0]._body, Reading)
        await held[0]._body.aclose()
        for _ in range(5):
            await bucket.put("small", b"x")
            assert await bucket.get("small") is not None
        del others
        gc.collect()
        assert len([await other.get("large") for _ in range(2)]) == 2


async def test_a_file_is_not_held_for_ever(tmp_path: Path) -> None:
    """Neither by who does not read on, nor by who does not go on with what it writes."""

    async def stuck() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.Event().wait()

    async with ObjectStore(tmp_path / "few", files_per_tenant=1, idle_s=0.05) as store:
        bucket = Bucket(store, "t")
        await bucket.put("large", b"x" * 1_000_000)
        held = await bucket.get("large")
        assert held is not None
        assert isinstance(held._body, Reading)
        while True:
            try:
                await bucket.put("small", b"x")
                break
            except TenantThrottled:
                await asyncio.sleep(0.01)
        with pytest.raises(TimeoutError, match="has to be read on within"):
            await anext(held._body)
        with pytest.raises(TimeoutError, match="has to go on within"):
            await store.write(stuck(), "t", 100)
        await bucket.put("small", b"x")
        assert len(content(store)) == 2


async def test_a_page_of_much_metadata_ends_early(store: ObjectStore) -> None:
    """All of it would be written while the host does nothing else; each page goes on where the last one ended."""
    bucket = Bucket(store, "t")
    many: list[Any] = [[]] * 2040
    told = {"custom_metadata": {"a": many}, "http_metadata": {"content_type": many}}
    names = [f"{n:03}" for n in range(30)]
    for name in names:
        await bucket.put(name, b"", told)
    pages = [await bucket.list()]
    while pages[-1]["truncated"]:
        pages.append(await bucket.list(cursor=pages[-1]["cursor"]))
    assert [one["key"] for page in pages for one in page["objects"]] == names
    assert 3 < len(pages) < 10
    page = await bucket.list(limit=1)
    assert page["objects"][0]["customMetadata"] == {"a": many}


async def test_a_page_of_long_metadata_fits_into_an_answer(tmp_path: Path) -> None:
    """As many objects as a page may have, each with as much metadata as it may have, are too much for one."""
    told = {"custom_metadata": {"a": "x" * 8100}, "http_metadata": {"content_type": "y" * 8100}}
    async with ObjectStore(tmp_path / "long") as store:
        bucket = Bucket(store, "t")
        for n in range(300):
            await bucket.put(f"{n:03}", b"", told)
        page = await bucket.list()
        rest = await bucket.list(cursor=page["cursor"])
    assert len(values.dumps(page)) < 5_000_000
    assert [one["key"] for each in (page, rest) for one in each["objects"]] == [f"{n:03}" for n in range(300)]


async def test_a_folder_costs_one_step_whatever_is_in_it(store: ObjectStore) -> None:
    """However many it holds, and whatever they are called; each page goes on where the last one ended."""
    bucket = Bucket(store, "t")
    last = "\U0010ffff"
    names = [f"{folder}/{n}" for folder in ("a", "b", f"b{last}", last) for n in range(20)]
    for name in [*names, "a", "b0", f"a/{last}x", f"{last}x", f"{last}{last}"]:
        await bucket.put(name, b"")
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    await store.look("", lambda connection: connection.set_progress_handler(step, 1))
    page = await bucket.list(delimiter="/")
    few = steps
    assert page["delimitedPrefixes"] == ["a/", "b/", f"b{last}/", f"{last}/"]
    assert [one["key"] for one in page["objects"]] == ["a", "b0", f"{last}x", f"{last}{last}"]
    for n in range(20, 120):
        await bucket.put(f"a/{n}", b"")
    steps = 0
    assert await bucket.list(delimiter="/") == page
    assert steps <= few
    await store.look("", lambda connection: connection.set_progress_handler(None, 1))
    found, cursor = [], None
    while True:
        page = await bucket.list(delimiter="/", limit=1, **({"cursor": cursor} if cursor else {}))
        found += [one["key"] for one in page["objects"]] + page["delimitedPrefixes"]
        if not page["truncated"]:
            break
        cursor = page["cursor"]
    assert found == ["a", "a/", "b/", "b0", f"b{last}/", f"{last}/", f"{last}x", f"{last}{last}"]
    assert len((await bucket.list(prefix=last))["objects"]) == 22
    assert [one["key"] for one in (await bucket.list(start_after=f"{last}x"))["objects"]] == [f"{last}{last}"]


async def test_a_tenant_can_be_deleted(store: ObjectStore) -> None:
    """With all that is its, and nothing that is others'."""
    for tenant in ("a", "b"):
        await Bucket(store, tenant, name="one").put("key", b"x")
        await Bucket(store, tenant, name="two").put("key", b"x")
    await store.drop("a")
    assert await store.usage("a") == {"bytes": 0, "entries": 0}
    assert len(content(store)) == 2
    assert await Bucket(store, "b", name="two").head("key") is not None


async def test_what_a_crash_left_behind_goes_when_the_store_is_opened(tmp_path: Path) -> None:
    """A file that no row knows; what was acknowledged is there."""
    async with ObjectStore(tmp_path / "x") as store:
        await Bucket(store, "t").put("key", "content")
    orphan = tmp_path / "x" / "00" / "00orphan"
    await asyncio.to_thread(orphan.parent.mkdir, exist_ok=True)
    await asyncio.to_thread(orphan.write_bytes, b"half")
    async with ObjectStore(tmp_path / "x") as store:
        assert [file.read_bytes() for file in content(store)] == [b"content"]
        found: Any = await Bucket(store, "t").get("key")
        assert found._body == b"content"


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("put('', 'x')", "ValueError: a key is text that is not empty"),
        ("put('k' * 1025, 'x')", "ValueError: a key has at most 1,024 bytes"),
        ("put('a', 5)", "TypeError: an object is text, bytes or a stream of bytes, not int"),
        ("put('a', 'x', {'httpMetadata': {'nonsense': 1}})", "TypeError: http_metadata has no option 'nonsense'"),
        ("put('a', 'x', {'customMetadata': {'a': 'b' * 9000}})", "ValueError: custom_metadata takes 9,0"),
        ("put('a', 'x', {'customMetadata': [1]})", "ValueError: metadata are maps of text"),
        ("get('a', {'range': {'offset': -1}})", ""),
        ("delete(['a'] * 1001)", "ValueError: at most 1,000 objects are deleted at once"),
        ("list({'limit': 1001})", "ValueError: limit is a whole number from 1 to 1,000"),
        ("list({'cursor': 'ä'})", "ValueError: the cursor is not one that list() gave"),
        ("put('a', 'x', sha1='tea')", "ValueError: one checksum is given at most, in hexadecimal digits or as bytes"),
        ("put('a', 'x', sha1='00', md5='00')", "ValueError: one checksum is given at most"),
        ("forget(['a'])", "CapabilityError: Bucket has no method 'forget'"),
    ],
)
async def test_bad_input_gets_a_clear_error(worker: Make, store: ObjectStore, call: str, error: str) -> None:
    """From a tenant's side, and nothing is stored."""
    source = f"""
    from workers import WorkerEntrypoint
    class Default(WorkerEntrypoint):
        async def main(self):
            return await self.env.BUCKET.{call}
    """
    entry = worker(source, env={"BUCKET": Bucket(store, "t")}).get_entrypoint()
    if error:
        with pytest.raises(TenantError) as caught:
            await entry.main()
        assert str(caught.value).startswith(error), caught.value
    else:
        assert await entry.main() is None
    assert content(store) == []
