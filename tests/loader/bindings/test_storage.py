"""What a tenant stores in all of its stores together, held against its quota, and counted where it is."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from cloister.loader import Quota, TenantError, WorkerStub
from cloister.loader.bindings import (
    Bucket,
    Database,
    DatabaseLimits,
    Databases,
    KeyValue,
    KeyValueStore,
    ObjectStore,
    Queue,
    QueueStore,
    Storage,
    StorageQuotaExceeded,
)
from cloister.loader.errors import LoadFailed

Make = Callable[..., WorkerStub]


@dataclass(frozen=True)
class Stores:
    """One of each, and what they have in common."""

    storage: Storage
    keys: KeyValueStore
    databases: Databases
    objects: ObjectStore
    queues: QueueStore

    def bindings(self, tenant: str) -> tuple[KeyValue, Database, Bucket, Queue]:
        """Those of one tenant."""
        return (
            KeyValue(self.keys, tenant),
            Database(self.databases, tenant),
            Bucket(self.objects, tenant),
            Queue(self.queues, tenant, "jobs"),
        )


@asynccontextmanager
async def opened(folder: Path, limit: int | None) -> AsyncIterator[Stores]:
    """Stores in a folder, whose tenants may have so much."""
    storage = Storage(lambda tenant: Quota(storage_bytes=None if tenant == "free" else limit))
    async with AsyncExitStack() as stack:
        yield Stores(
            storage,
            await stack.enter_async_context(KeyValueStore(folder / "keys.db", storage=storage)),
            await stack.enter_async_context(
                Databases(folder / "databases", storage=storage, limits=DatabaseLimits(seconds=100))
            ),
            await stack.enter_async_context(ObjectStore(folder / "objects", storage=storage)),
            await stack.enter_async_context(QueueStore(folder / "queues.db", storage=storage)),
        )


async def fill(stores: Stores, tenant: str) -> None:
    """30,000 bytes of each kind, and a little."""
    keys, database, bucket, queue = stores.bindings(tenant)
    await keys.put("key", b"x" * 30_000)
    await database.exec("CREATE TABLE a (x)")
    await database.sql("INSERT INTO a VALUES (zeroblob(30000))")
    await bucket.put("key", b"x" * 30_000)
    await queue.send("x" * 30_000)


async def test_all_that_a_tenant_stores_counts_together(tmp_path: Path) -> None:
    """Whichever store is the last straw, it is refused there, and nothing changes; others may go on."""
    async with opened(tmp_path, 160_000) as stores:
        await fill(stores, "t")
        used = await stores.storage.usage("t")
        assert 130_000 < used < 160_000
        keys, database, bucket, queue = stores.bindings("t")
        with pytest.raises(StorageQuotaExceeded, match=r"at most 160,000 may be \(Quota.storage_bytes\)"):
            await keys.put("more", b"x" * 40_000)
        with pytest.raises(StorageQuotaExceeded, match=r"at most 160,000 may be \(Quota.storage_bytes\)"):
            await database.sql("INSERT INTO a VALUES (zeroblob(40000))")
        with pytest.raises(StorageQuotaExceeded):
            await bucket.put("more", b"x" * 40_000)
        with pytest.raises(StorageQuotaExceeded, match=r"Quota.storage_bytes"):
            await queue.send("x" * 40_000)
        assert await stores.storage.usage("t") == used
        assert await keys.get("more") is None
        assert await bucket.get("more") is None
        assert await database.sql("SELECT count(*) AS n FROM a") == [{"n": 1}]
        await fill(stores, "free")
        await fill(stores, "other")


@pytest.mark.parametrize("kind", ["keys", "databases", "objects", "queues"])
async def test_what_is_deleted_gives_room_everywhere(tmp_path: Path, kind: str) -> None:
    """Of one kind, for another."""
    async with opened(tmp_path, 160_000) as stores:
        await fill(stores, "t")
        keys, *_ = stores.bindings("t")
        with pytest.raises(StorageQuotaExceeded):
            await keys.put("more", b"x" * 40_000)
        await getattr(stores, kind).drop("t")
        assert 80_000 < await stores.storage.usage("t") < 120_000
        await keys.put("more", b"x" * 40_000)


async def test_two_stores_at_once_do_not_both_get_the_last_of_it(tmp_path: Path) -> None:
    """Of many that would fit alone, as many are stored as fit together."""
    async with opened(tmp_path, 100_000) as stores:
        keys, database, bucket, queue = stores.bindings("t")
        await database.exec("CREATE TABLE a (x)")
        done = await asyncio.gather(
            *(keys.put(f"{n}", b"x" * 20_000) for n in range(4)),
            *(bucket.put(f"{n}", b"x" * 20_000) for n in range(4)),
            *(queue.send("x" * 20_000) for n in range(4)),
            *(database.sql("INSERT INTO a VALUES (zeroblob(20000))") for n in range(4)),
            return_exceptions=True,
        )
        refused = [error for error in done if isinstance(error, BaseException)]
        assert {type(error) for error in refused} == {StorageQuotaExceeded}
        assert 60_000 < await stores.storage.usage("t") <= 100_000
        before = await stores.storage.usage("t")
    async with opened(tmp_path, 100_000) as stores:
        assert await stores.storage.usage("t") == before


async def test_a_transaction_that_fails_is_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither what it would have stored, nor what it would have deleted."""
    async with opened(tmp_path, 160_000) as stores:
        keys, *_ = stores.bindings("t")
        await keys.put("key", b"x" * 30_000)
        before = await stores.storage.usage("t")

        def fail(connection: object) -> None:
            stores.keys.charge(connection, "t", 1000, 1)  # type: ignore[arg-type]
            stores.keys.charge(connection, "t", -500, 0)  # type: ignore[arg-type]
            raise RuntimeError("the disk is full")

        with pytest.raises(RuntimeError):
            await stores.keys.work("t", fail)
        assert await stores.storage.usage("t") == before == (await stores.keys.usage("t"))["bytes"]


async def test_the_count_is_right_after_a_kill(tmp_path: Path) -> None:
    """A host that is killed while it stores: what is counted afterwards is what is there."""
    program = textwrap.dedent(
        """
        import asyncio, sys
        from pathlib import Path
        sys.path[:0] = sys.argv[2:]
        from test_storage import opened, fill

        async def main():
            async with opened(Path(sys.argv[1]), None) as stores:
                await fill(stores, "t")
                print("begun", flush=True)
                keys, database, bucket, queue = stores.bindings("t")
                number = 0
                while True:
                    number += 1
                    await asyncio.gather(
                        keys.put(f"{number}", b"x" * 1000), bucket.put(f"{number}", b"x" * 1000), queue.send(number),
                        database.sql("INSERT INTO a VALUES (zeroblob(10000))"),
                    )

        asyncio.run(main())
        """
    )
    process = subprocess.Popen(  # noqa: ASYNC220 - there is nothing else to do
        [sys.executable, "-c", program, str(tmp_path), str(Path(__file__).parent)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    await asyncio.to_thread(process.stdout.readline)
    await asyncio.sleep(0.2)  # it is in the middle of something
    signal.pidfd_send_signal(pidfd := os.pidfd_open(process.pid), signal.SIGKILL)
    os.close(pidfd)
    await asyncio.to_thread(process.communicate)
    async with opened(tmp_path, 10**9) as stores:
        counted = await stores.storage.usage("t")
        there = sum(
            [
                (await stores.keys.usage("t"))["bytes"],
                (await stores.objects.usage("t"))["bytes"],
                (await stores.queues.usage("t"))["bytes"],
                await stores.databases.size("t"),
            ]
        )
        page = await stores.bindings("t")[2].list()
        files = list((tmp_path / "objects").glob("??/*"))
        assert counted == there
        assert len(page["objects"]) == len(files)


async def test_more_tenants_at_once_than_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is about to store something is not forgotten before."""
    monkeypatch.setattr("cloister.loader.bindings.storage._REMEMBERED", 1)
    storage = Storage()
    async with storage.held("one") as one, storage.held("two") as two, storage.held("one") as again:
        assert one is again is not two


async def test_a_quota_that_changes_holds_at_once(tmp_path: Path) -> None:
    """And one that cannot be had is the host's failure."""
    limits = {"t": 50_000}

    def quotas(tenant: str) -> Quota:
        return Quota(storage_bytes=limits[tenant])

    storage = Storage(quotas)
    async with KeyValueStore(tmp_path / "keys.db", storage=storage) as store:
        keys = KeyValue(store, "t")
        await keys.put("a", b"x" * 40_000)
        limits["t"] = 10_000
        with pytest.raises(StorageQuotaExceeded):
            await keys.put("b", b"x")
        assert await keys.get("a") == "x" * 40_000
        await keys.put("a", b"x")
        with pytest.raises(LoadFailed, match="the host's quotas raised KeyError"):
            await KeyValue(store, "unknown").put("a", b"x")


async def test_a_tenant_is_told_by_a_typed_error(worker: Make, tmp_path: Path) -> None:
    """From inside."""
    source = """
    from workers import WorkerEntrypoint
    class Default(WorkerEntrypoint):
        async def main(self):
            await self.env.KV.put("a", "x" * 2000)
    """
    storage = Storage(quota=Quota(storage_bytes=1000))
    async with KeyValueStore(tmp_path / "keys.db", storage=storage) as store:
        with pytest.raises(TenantError) as caught:
            await worker(source, env={"KV": KeyValue(store, "t")}).get_entrypoint().main()
    assert caught.value.name == "StorageQuotaExceeded"
    assert "2,001 bytes would be stored in all; at most 1,000 may be" in caught.value.message
