"""Objects that come in parts: nothing is there before all of it is, and nothing stays of what was given up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloister.loader import WorkerStub
from cloister.loader.bindings import Bucket, ObjectStore, StorageQuota, StorageQuotaExceeded

Make = Callable[..., WorkerStub]


class Clock:
    """A clock that stands still."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """The store's."""
    return Clock()


@pytest.fixture
def store(runner: asyncio.Runner, tmp_path: Path, clock: Clock) -> Iterator[ObjectStore]:
    """A store with little room."""
    quota = StorageQuota(bytes=1_000_000, entries=20)
    store = ObjectStore(tmp_path / "objects", quota=quota, most_bytes=900_000, now=clock)
    runner.run(store.__aenter__())
    yield store
    runner.run(store.__aexit__(None, None, None))


def files(store: ObjectStore) -> int:
    """How many files hold content."""
    return len(list(store._folder.glob("??/*")))


async def text(bucket: Bucket, worker: Make, key: str) -> str:
    """An object, as a tenant reads it."""
    source = """
    from workers import WorkerEntrypoint
    class Default(WorkerEntrypoint):
        async def main(self, key):
            return await (await self.env.BUCKET.get(key)).text()
    """
    found: str = await worker(source, env={"BUCKET": bucket}).get_entrypoint().main(key)
    return found


async def test_a_tenants_code_runs_as_it_does_at_cloudflare(worker: Make, store: ObjectStore) -> None:
    """Parts in any order, and larger than a message; another request may go on with the upload."""
    source = """
    from workers import WorkerEntrypoint
    class Default(WorkerEntrypoint):
        async def main(self):
            bucket, about = self.env.BUCKET, {"contentType": "text/css"}
            upload = await bucket.createMultipartUpload("a/b", {"httpMetadata": about, "customMetadata": {"by": "me"}})
            second = await upload.uploadPart(2, b"b" * 10)
            again = bucket.resumeMultipartUpload("a/b", upload.uploadId)
            first = await again.uploadPart(1, "a" * 400_000)
            before = await bucket.head("a/b")
            made = await upload.complete([second, first])
            found = await bucket.get("a/b")
            return [upload["key"] == upload.key == "a/b", upload["uploadId"] == upload.uploadId, before, made.size,
                    first["partNumber"], second.partNumber, await found.text() == "a" * 400_000 + "b" * 10,
                    found.httpMetadata.contentType, found.customMetadata.by]
    """
    assert await worker(source, env={"BUCKET": Bucket(store, "t")}).get_entrypoint().main() == [
        True, True, None, 400_010, 1, 2, True, "text/css", "me",
    ]  # fmt: skip
    assert files(store) == 1


async def test_parts_count_as_stored_until_they_are_the_object(store: ObjectStore) -> None:
    """One takes another's place; afterwards there is the object, and nothing else."""
    bucket = Bucket(store, "t")
    upload = await bucket.create_multipart_upload("key")
    begun = await store.usage("t")
    await upload.upload_part(1, b"x" * 900)
    part = await upload.upload_part(1, b"y" * 300)
    assert await store.usage("t") == {"bytes": begun["bytes"] + 300, "entries": 2}
    with pytest.raises(StorageQuotaExceeded):
        await upload.upload_part(2, b"z" * 999_990)
    assert files(store) == 1
    await upload.complete([part])
    await bucket.put("other", b"y" * 300)
    one = await store.usage("t")
    assert (one["entries"], files(store)) == (2, 2)
    await bucket.delete(["key", "other"])
    assert await store.usage("t") == {"bytes": 0, "entries": 0}


async def test_an_upload_is_completed_with_parts_that_are_there(store: ObjectStore, worker: Make) -> None:
    """A wrong one changes nothing; those that are not named are not part of it."""
    bucket = Bucket(store, "t")
    await bucket.put("key", b"before")
    upload = await bucket.create_multipart_upload("key")
    one, two = await upload.upload_part(1, b"one"), await upload.upload_part(2, b"two")
    for wrong in ([], [one, one], [{**one, "etag": "no"}], [one, {"partNumber": 3, "etag": ""}], "parts"):
        with pytest.raises(ValueError):
            await upload.complete(wrong)
    assert await text(bucket, worker, "key") == "before"
    await upload.complete([two])
    assert await text(bucket, worker, "key") == "two"
    assert files(store) == 1
    for late in (upload.complete([two]), upload.upload_part(1, b"x")):
        with pytest.raises(ValueError, match="no upload"):
            await late
    assert files(store) == 1


async def test_an_upload_is_given_up(store: ObjectStore) -> None:
    """Nothing stays of it."""
    upload = await Bucket(store, "t").create_multipart_upload("key")
    await upload.upload_part(1, b"data")
    await upload.abort()
    await upload.abort()
    assert await Bucket(store, "t").head("key") is None
    assert (await store.usage("t"), files(store)) == ({"bytes": 0, "entries": 0}, 0)


async def test_an_upload_is_its_tenants_and_its_buckets(store: ObjectStore) -> None:
    """Who knows its name has nothing of it."""
    upload = await Bucket(store, "t").create_multipart_upload("key")
    part = await upload.upload_part(1, b"data")
    for bucket, key in ((Bucket(store, "u"), "key"), (Bucket(store, "t", name="b"), "key"), (Bucket(store, "t"), "k")):
        other = bucket.resume_multipart_upload(key, upload.rpc_attributes()["uploadId"])
        for attempt in (other.complete([part]), other.upload_part(1, b"x")):
            with pytest.raises(ValueError, match="no upload"):
                await attempt
        await other.abort()
    assert files(store) == 1
    assert (await upload.complete([part])).attributes["size"] == 4


async def test_an_upload_outlives_the_host_and_not_its_tenant(store: ObjectStore, tmp_path: Path) -> None:
    """Parts are not swept away when the store is opened again; they go with all that is the tenant's."""
    upload = await Bucket(store, "t").create_multipart_upload("key")
    part = await upload.upload_part(1, b"data")
    async with ObjectStore(tmp_path / "objects") as again:
        same = Bucket(again, "t").resume_multipart_upload("key", upload.rpc_attributes()["uploadId"])
        await same.upload_part(2, b"more")
        assert files(store) == 2
        await again.drop("t")
        assert (await again.usage("t"), files(store)) == ({"bytes": 0, "entries": 0}, 0)
        with pytest.raises(ValueError, match="no upload"):
            await same.complete([part])


async def test_what_nobody_finishes_is_forgotten(store: ObjectStore, clock: Clock) -> None:
    """After a week, when the tenant begins another."""
    bucket = Bucket(store, "t")
    await (await bucket.create_multipart_upload("key")).upload_part(1, b"data")
    clock.now += 6 * 86_400
    kept = await bucket.create_multipart_upload("key")
    await kept.upload_part(1, b"data")
    assert files(store) == 2
    clock.now += 2 * 86_400
    await bucket.create_multipart_upload("key")
    assert files(store) == 1
    assert (await store.usage("t"))["entries"] == 3
