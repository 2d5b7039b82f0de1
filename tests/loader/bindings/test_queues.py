"""Queues: durable, in batches, with retries, a way out for what never works, and turns between tenants."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloister.loader import Limits, NoCapacity, TenantError, WorkerStub
from cloister.loader.bindings import Consumer, Delivering, Queue, QueueStore, StorageQuota, StorageQuotaExceeded

Make = Callable[..., WorkerStub]
Eventually = Callable[[Callable[[], Any]], Awaitable[None]]

WORKS = """
from workers import WorkerEntrypoint

class Default(WorkerEntrypoint):
    async def order(self, *bodies):
        if len(bodies) == 1:
            await self.env.JOBS.send(bodies[0])
        else:
            await self.env.JOBS.sendBatch([{"body": body} for body in bodies])

    async def queue(self, batch, env, ctx):
        assert (env, ctx) == (None, None)
        await self.env.SEEN([batch.queue, [[one.body, one.attempts] for one in batch.messages]])
        for message in batch.messages:
            if message.body == "again":
                message.retry({"delaySeconds": 0})
            if message.body == "acked":
                message.ack()
            if message.body == "later":
                message.retry()
        if any(message.body == "raises" for message in batch.messages):
            raise ValueError("no")
        if any(message.body == "spins" for message in batch.messages):
            while True:
                pass
"""
QUICK = Delivering(max_wait_s=0.01, retry_s=0.01)


@pytest.fixture
def store(runner: asyncio.Runner, tmp_path: Path) -> Iterator[QueueStore]:
    """A store with room for thirty messages of a tenant."""
    store = QueueStore(tmp_path / "queues.db", quota=StorageQuota(entries=30, bytes=500_000))
    runner.run(store.__aenter__())
    yield store
    runner.run(store.__aexit__(None, None, None))


@pytest.fixture
def seen() -> list[Any]:
    """What the consumer of this test was given."""
    return []


@pytest.fixture
def shop(worker: Make, store: QueueStore, seen: list[Any]) -> Any:
    """A tenant that sends to itself."""

    def see(what: Any) -> None:
        seen.append(what)

    return worker(
        WORKS, env={"JOBS": Queue(store, "t", "jobs"), "SEEN": see}, limits=Limits(cpu_ms=100)
    ).get_entrypoint()


def consumer(store: QueueStore, entry: Any, delivering: Delivering = QUICK, queue: str = "jobs") -> Consumer:
    """Delivers to one tenant."""
    return Consumer(store, queue, lambda _: entry, delivering=delivering)


async def empty(store: QueueStore) -> bool:
    """Whether nothing waits."""
    return (await store.usage("t"))["entries"] == 0


async def test_messages_come_in_batches(
    store: QueueStore, shop: Any, seen: list[Any], eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as wait for each other for a moment, in the order in which they were sent, and then they are gone."""
    now = store.now()
    monkeypatch.setattr(store, "now", lambda: now)
    async with consumer(store, shop, Delivering(batch_size=3, max_wait_s=600.0)) as delivery:
        await shop.order("a")
        await shop.order({"b": [1]}, None, "d")
        await eventually(lambda: seen and not delivery._busy)
        now += 600.0
        delivery._wake.set()
        await eventually(lambda: empty(store))
    assert seen == [["jobs", [["a", 1], [{"b": [1]}, 1], [None, 1]]], ["jobs", [["d", 1]]]]


async def test_what_is_sent_back_comes_again(
    store: QueueStore, shop: Any, seen: list[Any], eventually: Eventually
) -> None:
    """At once if it says so, and after a while that doubles otherwise; what was said of others stands."""
    async with consumer(store, shop):
        await shop.order("acked", "again", "later", "fine")
        await eventually(lambda: empty(store))
    attempts = [one for _, batch in seen for one in batch]
    assert attempts.count(["acked", 1]) == attempts.count(["fine", 1]) == 1
    for body in ("again", "later"):
        assert [attempt for name, attempt in attempts if name == body] == [1, 2, 3, 4]


async def test_when_it_raises_what_was_acknowledged_is_done(
    store: QueueStore, shop: Any, seen: list[Any], eventually: Eventually
) -> None:
    """The rest comes again, so many times; then it is in the queue for what never worked."""
    delivering = Delivering(max_wait_s=0.01, retry_s=0.01, max_retries=1, dead_letter="dead")
    dead: list[Any] = []

    class Undertaker:
        async def handle(self, event: Any, subject: Any) -> Any:
            dead.extend(message["body"] for message in subject["messages"])
            return {"again": {}, "error": ""}

    async with consumer(store, shop, delivering), consumer(store, Undertaker(), queue="dead"):
        await shop.order("acked", "raises", "innocent")
        await eventually(lambda: empty(store))
    assert [one for _, batch in seen for one in batch] == [
        ["acked", 1], ["raises", 1], ["innocent", 1], ["raises", 2], ["innocent", 2]
    ]  # fmt: skip
    assert sorted(dead) == ["innocent", "raises"]


async def test_a_message_that_kills_its_sandbox_comes_to_an_end(
    store: QueueStore, shop: Any, seen: list[Any], eventually: Eventually
) -> None:
    """Each delivery was counted before it was made."""
    async with consumer(store, shop, Delivering(max_wait_s=0.01, retry_s=0.01, max_retries=2)):
        await shop.order("spins")
        await eventually(lambda: empty(store))
    assert [batch for _, batch in seen] == [[["spins", 1]], [["spins", 2]], [["spins", 3]]]


async def test_what_the_host_could_not_do_does_not_count(
    store: QueueStore, shop: Any, seen: list[Any], eventually: Eventually
) -> None:
    """No room is no fault of the message's."""
    refusals = 10

    class Full:
        async def handle(self, event: Any, subject: Any) -> Any:
            nonlocal refusals
            if refusals:
                refusals -= 1
                raise NoCapacity("full")
            return await shop.handle(event, subject)

    async with consumer(store, Full(), Delivering(max_wait_s=0.0, retry_s=0.001, max_retries=0)):
        await shop.order("a")
        await eventually(lambda: empty(store))
    assert (refusals, seen) == (0, [["jobs", [["a", 1]]]])


async def test_messages_survive_their_host(tmp_path: Path, shop: Any, seen: list[Any], eventually: Eventually) -> None:
    """What was sent is there when a store is opened again; what was being delivered comes again, counted."""
    now = 1000.0
    path = tmp_path / "again.db"
    async with QueueStore(path, now=lambda: now) as store:
        await Queue(store, "t", "jobs").send("a")
        (taken,) = await store.take("t", "jobs", 10, now + 60)
        assert (taken.attempts, await store.take("t", "jobs", 10, now + 60)) == (1, [])
    now += 61
    async with QueueStore(path, now=lambda: now) as store:
        (taken,) = await store.take("t", "jobs", 10, now + 60)
        assert (taken.attempts, taken.body) == (2, b"\xa1a")


KILLED = """
import asyncio, sys
from cloister.loader import Loader, WorkerCode
from cloister.loader.bindings import Consumer, Delivering, Queue, QueueStore

async def seen(what):
    print(what, flush=True)
    await asyncio.Event().wait()

async def main():
    code = WorkerCode(main_module="main.py", modules={"main.py": sys.argv[2]}, env={"SEEN": seen})
    async with QueueStore(sys.argv[1]) as store, Loader(max_sandboxes=2, spares=0) as loader:
        jobs = Queue(store, "t", "jobs")
        for body in ("a", "b", "c"):
            await jobs.send(body)
        entry = loader.get("t", lambda: code).get_entrypoint()
        delivering = Delivering(batch_size=2, max_wait_s=0.01, visibility_s=600)
        async with Consumer(store, "jobs", lambda _: entry, delivering=delivering):
            await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_host_that_is_killed_loses_no_message(
    tmp_path: Path, worker: Make, seen: list[Any], eventually: Eventually
) -> None:
    """What was being handled comes again when its time is over, with its deliveries counted; what was not, once."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED, str(tmp_path / "killed.db"), WORKS, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert b"[['a', 1], ['b', 1]]" in await process.stdout.readline()
    process.kill()
    await process.wait()
    entry = worker(WORKS, env={"SEEN": lambda what: seen.append(what)}).get_entrypoint()
    async with QueueStore(tmp_path / "killed.db", now=lambda: time.time() + 601) as store:
        delivering = Delivering(batch_size=2, max_wait_s=0.01, visibility_s=600)
        async with consumer(store, entry, delivering):
            await eventually(lambda: empty(store))
    assert sorted(pair for _, batch in seen for pair in batch) == [["a", 2], ["b", 2], ["c", 1]]


async def test_a_delay_is_kept(store: QueueStore, tmp_path: Path) -> None:
    """Neither sooner nor in the way of what is due."""
    now = 1000.0
    async with QueueStore(tmp_path / "delayed.db", now=lambda: now) as delayed:
        queue = Queue(delayed, "t", "jobs")
        await queue.send("later", {"delaySeconds": 10})
        await queue.send("now")
        assert [message.body for message in await delayed.take("t", "jobs", 10, now + 60)] == [b"\xa3now"]
        assert (await delayed.waiting("jobs", frozenset()))[1] == 1010.0
        now = 1010.0
        assert [message.body for message in await delayed.take("t", "jobs", 10, now + 60)] == [b"\xa5later"]


async def test_a_long_queue_holds_up_nobody_else(store: QueueStore, eventually: Eventually) -> None:
    """A tenant has one batch at a time; others have theirs beside it."""
    gate, order = asyncio.Event(), []

    def entry(tenant: str) -> Any:
        class Entry:
            async def handle(self, event: Any, subject: Any) -> Any:
                order.append(tenant)
                if tenant == "greedy":
                    await gate.wait()
                return {"again": {}, "error": ""}

        return Entry()

    for _ in range(25):
        await Queue(store, "greedy", "jobs").send("x")
    async with Consumer(store, "jobs", entry, delivering=Delivering(max_wait_s=0.0, at_once=4)):
        await eventually(lambda: order == ["greedy"])
        await Queue(store, "modest", "jobs").send("x")
        await eventually(lambda: order == ["greedy", "modest"])
        gate.set()
        await eventually(lambda: order.count("greedy") == 3)


async def test_a_long_queue_is_looked_at_as_quickly_as_a_short_one(tmp_path: Path) -> None:
    """SQLite takes no more steps for thirty thousand messages of a tenant than for thirty."""

    async def steps(messages: int) -> int:
        taken = 0

        def step() -> int:
            nonlocal taken
            taken += 1
            return 0

        async with QueueStore(tmp_path / f"{messages}.db") as store:
            await store.send("greedy", "jobs", [(b"", 0.0)] * messages)
            await store.send("modest", "jobs", [(b"", 0.0)])
            await store.send("modest", "jobs", [(b"", 60.0)])
            await store.look("", lambda connection: connection.set_progress_handler(step, 10))
            due, following = await store.waiting("jobs", frozenset(), 10)
            await store.look("", lambda connection: connection.set_progress_handler(None, 10))
        assert [(backlog.tenant, backlog.messages) for backlog in due] == [("greedy", 10), ("modest", 1)]
        assert following is not None
        return taken

    assert await steps(30_000) <= 2 * await steps(30)


async def test_a_store_that_fails_once_ends_no_delivery(
    store: QueueStore, shop: Any, seen: list[Any], monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    """It is looked at again."""
    monkeypatch.setattr("cloister.loader.bindings.consumer._AFTER_FAILURE", 0.01)
    waiting, failed = store.waiting, asyncio.Event()

    async def fails_once(*arguments: Any) -> Any:
        if not failed.is_set():
            failed.set()
            raise sqlite3.OperationalError("disk I/O error")
        return await waiting(*arguments)

    monkeypatch.setattr(store, "waiting", fails_once)
    async with consumer(store, shop):
        await failed.wait()
        await shop.order("x")
        await eventually(lambda: seen == [["jobs", [["x", 1]]]])


async def test_all_that_a_host_may_send_can_be_delivered(store: QueueStore, eventually: Eventually) -> None:
    """It may have more values within than a tenant's may have: it was taken, and must not hold up the rest for ever."""
    bodies: list[Any] = []

    class Takes:
        async def handle(self, event: str, batch: Any) -> Any:
            """All of it."""
            bodies.extend(message["body"] for message in batch["messages"])
            return {"again": {}, "error": ""}

    async with Consumer(store, "jobs", lambda _: Takes(), delivering=QUICK):
        await Queue(store, "t", "jobs").send([0] * 100_000)
        await Queue(store, "t", "jobs").send("next")
        await eventually(lambda: len(bodies) == 2)
    assert [len(body) for body in bodies] == [100_000, 4]


async def test_what_was_delivered_twice_is_settled_once(store: QueueStore) -> None:
    """The second time it is gone: it is not counted again, and what has its number now stays."""
    queue = Queue(store, "t", "jobs")
    await queue.send("x")
    first, second = await store.take("t", "jobs", 1, 0), await store.take("t", "jobs", 1, 0)
    await store.settle("t", first, [], [], None)
    await queue.send("y")
    assert (await store.take("t", "jobs", 1, 0))[0].number == first[0].number
    await store.settle("t", second, [], [], None)
    assert (await store.usage("t"))["entries"] == 1
    assert len(await store.take("t", "jobs", 10, 0)) == 1


async def test_no_tenant_sees_anothers_messages(store: QueueStore, eventually: Eventually) -> None:
    """Each entrypoint is given what its own tenant has sent."""
    got: dict[str, list[Any]] = {"a": [], "b": []}

    def entry(tenant: str) -> Any:
        class Entry:
            async def handle(self, event: Any, subject: Any) -> Any:
                got[tenant] += [message["body"] for message in subject["messages"]]
                return {"again": {}, "error": ""}

        return Entry()

    async with Consumer(store, "jobs", entry, delivering=QUICK):
        for tenant in got:
            await Queue(store, tenant, "jobs").send_batch([{"body": f"{tenant}{number}"} for number in range(5)])
        await eventually(lambda: all(len(bodies) == 5 for bodies in got.values()))
    assert got == {tenant: [f"{tenant}{number}" for number in range(5)] for tenant in got}


async def test_a_quota_is_of_what_waits(store: QueueStore) -> None:
    """A batch that does not fit is not sent at all; what was delivered makes room."""
    queue = Queue(store, "t", "jobs")
    for number in range(28):
        await queue.send(number)
    with pytest.raises(StorageQuotaExceeded, match="31 entries"):
        await queue.send_batch([{"body": "x"}] * 3)
    assert (await store.usage("t"))["entries"] == 28
    taken = await store.take("t", "jobs", 10, 0)
    await store.settle("t", taken, [], [], None)
    await queue.send_batch([{"body": "x"}] * 3)
    with pytest.raises(StorageQuotaExceeded, match="bytes"):
        await queue.send_batch([{"body": "x" * 100_000}] * 6)


@pytest.mark.parametrize(
    "answer",
    ["None", "{'again': 5, 'error': ''}", "{'again': {'x': 'y'}, 'error': ''}",
     "{'again': {'x': float('nan')}, 'error': ''}",
     "{'again': {'x': True}, 'error': ''}", "{'again': {}, 'error': 7}", "['again']"],
)  # fmt: skip
async def test_a_forged_answer_counts_against_the_message(
    store: QueueStore, worker: Make, eventually: Eventually, answer: str
) -> None:
    """A tenant that answers for its batch by itself says nothing, or nothing beyond its own messages."""
    source = f"""
    import sys
    from workers import WorkerEntrypoint
    class Default(WorkerEntrypoint):
        async def queue(self, batch, env, ctx):
            async def forged(*_):
                return {answer}
            sys.modules["cloister.sandbox.guest.handlers"].HANDLERS["queue"] = forged
            raise ValueError
    """
    await Queue(store, "t", "jobs").send("a")
    entry = worker(source).get_entrypoint()
    async with consumer(store, entry, Delivering(max_wait_s=0.0, retry_s=0.001, max_retries=2)):
        await eventually(lambda: empty(store))


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("send('x' * 200_000)", "ValueError: a message is plain data of at most 131,072 bytes"),
        ("send(print)", "ValueError: a message is plain data"),
        ("send('x', {'delaySeconds': -1})", "ValueError: delay_seconds is a whole number from 0 to"),
        ("send('x', {'nonsense': 1})", "TypeError: send() has no option 'nonsense'"),
        ("sendBatch('x')", "TypeError: a batch is a list of at most 100 messages"),
        ("sendBatch([{'body': 1}] * 101)", "TypeError: a batch is a list of at most 100 messages"),
        ("sendBatch(['x'])", "TypeError: a message of a batch is a dict with a body"),
        ("take('t', 'jobs', 10, 0)", "CapabilityError: Queue has no method 'take'"),
    ],
)
async def test_bad_input_gets_a_clear_error(worker: Make, store: QueueStore, call: str, error: str) -> None:
    """From a tenant's side, and nothing is sent."""
    source = f"""
    from workers import WorkerEntrypoint
    class Default(WorkerEntrypoint):
        async def main(self):
            return await self.env.JOBS.{call}
    """
    with pytest.raises(TenantError) as caught:
        await worker(source, env={"JOBS": Queue(store, "t", "jobs")}).get_entrypoint().main()
    assert str(caught.value).startswith(error), caught.value
    assert await empty(store)
