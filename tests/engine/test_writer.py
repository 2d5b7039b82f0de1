"""Group commit: many operations to a sync, each answered after it, none harmed by its neighbours."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import threading
import time
from contextlib import asynccontextmanager, closing
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from cloister.engine import EngineClosed, InstanceAlreadyExists, InstanceNotFound, StorageError, handover
from cloister.engine import promptness as promptness_module
from cloister.engine.database import connect
from cloister.engine.errors import RunOver
from cloister.engine.handover import Handover
from cloister.engine.log import CHECKPOINT_PAGES, Log
from cloister.engine.options import Creation
from cloister.engine.promptness import PROMPT, PROOF, Promptness
from cloister.engine.records import Address, Status
from cloister.engine.store import ending, events, instances, usage
from cloister.engine.store.backlog import Bounds
from cloister.engine.store.brief import BRIEF_BYTES
from cloister.engine.store.queue import lose, postpone, recover, release
from cloister.engine.store.store import Store
from cloister.engine.writer import Writer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    Rests = Callable[[Handover[Any]], Awaitable[None]]

pytestmark = pytest.mark.usefixtures("hands")


@asynccontextmanager
async def open_writer(path: Path, open_store: Callable[[], Store] | None = None) -> AsyncIterator[Writer]:
    writer = Writer(open_store or (lambda: Store(connect(path, "full"))))
    await writer.open()
    await writer.submit(recover, "w", 0)
    yield writer
    await writer.close()


def create(writer: Writer, name: str) -> Awaitable[int]:
    return writer.submit(instances.create, "w", "", Creation(name, b"\xc0"), 0, False)


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
            await writer.submit(instances.find, Address("w", "", name))


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

    if isinstance(fault, SystemExit):  # in the loop it is a signal's
        monkeypatch.setattr(promptness_module, "PROOF", 1 << 30)
    async with open_writer(path) as writer:
        await create(writer, "before")
        monkeypatch.setattr(Store, "commit", fail)
        for name in ("lost1", "lost2"):
            with pytest.raises(StorageError):
                await create(writer, name)
        monkeypatch.setattr(Store, "commit", real)
        await create(writer, "after")
        await writer.submit(instances.find, Address("w", "", "before"))
        with pytest.raises(Exception, match="no instance 'lost1'"):
            await writer.submit(instances.find, Address("w", "", "lost1"))


async def test_closing_commits_what_was_submitted_and_takes_no_more(path: Path) -> None:
    """Nobody who was let in is turned away at the end."""
    async with open_writer(path) as writer:
        last = create(writer, "last")
    await last
    with pytest.raises(EngineClosed):
        await create(writer, "too late")


async def test_a_prompt_disk_is_waited_for_in_the_loop_and_a_late_one_is_not(
    path: Path, hands: str, rests: Rests
) -> None:
    """Whoever does it, the order and the answers are the same."""
    async with open_writer(path) as writer:
        for n in range(5):
            await rests(writer._handover)
            await create(writer, f"i{n}")
        assert writer.commits_here == {"thread": 0, "loop": 5}[hands]
        assert writer.commits == writer.operations == 6


async def test_what_may_take_long_is_never_done_in_the_loop(path: Path, rests: Rests) -> None:
    """Neither a verb that may, nor many of those that do not, nor what queues behind one that may."""
    async with open_writer(path) as writer:
        before = writer.commits_here
        await rests(writer._handover)
        await asyncio.gather(writer.submit(recover, "w", 0), create(writer, "a"))
        await rests(writer._handover)
        await asyncio.gather(*(create(writer, f"i{n}") for n in range(5)))
        assert writer.commits_here == before


async def test_what_is_brief_by_itself_is_not_where_there_is_much_of_something(path: Path, rests: Rests) -> None:
    """Large params; the first count of what is queued; an end with which children, events or their ids go."""
    event = b"\xc0"
    async with open_writer(path) as writer:
        a, b, c = [await create(writer, name) for name in "abc"]
        await writer.submit(events.send_event, Address("w", "", "a"), "go", event, None, 0)
        await writer.submit(events.take_event, b, "wait", 1, 0, "go", None, 0, 0)
        await writer.submit(events.send_event, Address("w", "", "b"), "go", event, "1", 0)
        store = writer._store
        assert store is not None
        store.bounds["w"] = Bounds(10, 10)
        before = writer.commits_here
        await rests(writer._handover)
        await writer.submit(instances.create, "w", "", Creation("d", bytes(BRIEF_BYTES + 1)), 0, True)
        await rests(writer._handover)
        await create(writer, "e")
        for number, childless in ((a, True), (b, True), (c, False)):
            await rests(writer._handover)
            await writer.submit(ending.finish, number, Status.COMPLETE, event, None, 0, childless)
        assert writer.commits_here == before


async def test_the_rest_of_it_is_brief(path: Path, hands: str, rests: Rests) -> None:
    """What is queued was counted, and nobody has sent the instance anything."""
    async with open_writer(path) as writer:
        assert writer._store is not None
        writer._store.bounds["w"] = Bounds(10, 10)
        await create(writer, "a")
        before = writer.commits_here
        await rests(writer._handover)
        number = await create(writer, "b")
        await rests(writer._handover)
        await writer.submit(ending.finish, number, Status.COMPLETE, b"\xc0", None, 0, True)
        assert writer.commits_here == before + {"thread": 0, "loop": 2}[hands]


async def test_what_takes_the_loop_long_is_late_whatever_it_waited_for(
    path: Path, hands: str, rests: Rests, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk may have been prompt: what it wrote had to be found first."""
    told: list[float] = []
    real: Callable[..., bytes | None] = events.take_event
    now = 0.0

    def slow(*args: object) -> bytes | None:
        nonlocal now
        now += 10
        return real(*args)

    async with open_writer(path) as writer:
        number = await create(writer, "a")
        await rests(writer._handover)
        clock = SimpleNamespace(perf_counter=lambda: now, monotonic=time.monotonic, sleep=time.sleep)
        monkeypatch.setattr("cloister.engine.writer.time", clock)
        monkeypatch.setattr("cloister.engine.store.brief._BRIEF", {slow})
        monkeypatch.setattr(Promptness, "took", lambda _, seconds: told.append(seconds))
        await writer.submit(slow, number, "wait", 1, 0, "go", None, 0, 0)
        assert told == [{"thread": 0, "loop": 10}[hands]]


async def test_a_transaction_that_fails_as_it_begins_leaves_nothing_behind(
    path: Path, hands: str, rests: Rests, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had begun to count for quotas. The loop leaves it to the thread, and whoever waits for that is told why."""
    real, faults = usage.begin, 1

    def begin(store: Store) -> None:
        nonlocal faults
        real(store)
        if faults:
            faults -= 1
            raise sqlite3.OperationalError("database or disk is full")

    def open_store() -> Store:
        store = Store(connect(path, "full"))
        store.quotas = quotas
        return store

    quotas: dict[str, int] = {}
    async with open_writer(path, open_store) as writer:
        await create(writer, "a")
        quotas["w"] = 10_000
        monkeypatch.setattr(usage, "begin", begin)
        await rests(writer._handover)
        if hands == "thread":
            with pytest.raises(StorageError, match="disk is full"):
                await create(writer, "b")
        else:
            await create(writer, "b")
        await create(writer, "c")
        store = writer._store
        assert store is not None
        assert (store.counted, faults) == ({1: 10_000}, 0)
        ((stored,),) = store.execute("SELECT bytes FROM usage").fetchall()
        assert stored == 300 * {"thread": 2, "loop": 3}[hands] + {"thread": 2, "loop": 3}[hands]


@pytest.mark.parametrize("hands", ["loop"], indirect=True)
async def test_the_loop_does_not_wait_for_a_file_that_another_program_has(
    path: Path, hands: str, rests: Rests, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread does, and the loop goes on meanwhile."""
    monkeypatch.setattr("cloister.engine.writer.PATIENCE_SECONDS", 200.0)
    async with open_writer(path) as writer:
        await rests(writer._handover)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        waiting = asyncio.ensure_future(create(writer, "a"))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not waiting.done()
        other.execute("COMMIT")
        other.close()
        await waiting
        assert writer.commits_here == 0
        await rests(writer._handover)
        await create(writer, "b")
        assert writer.commits_here == 1


def log_of(path: Path) -> tuple[int, int]:
    """How many pages the log has, and how many of them are in the database as well: from the index of the log."""
    index = path.with_name(path.name + "-shm").read_bytes()
    pages, done = (int.from_bytes(index[at : at + 4], sys.byteorder) for at in (16, 96))
    return pages, done


@pytest.mark.parametrize("hands", ["loop"], indirect=True)
async def test_no_commit_that_the_loop_makes_shortens_the_log(
    path: Path, hands: str, rests: Rests, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the thread has left it; and the thread does, before long."""
    monkeypatch.setattr("cloister.engine.writer.TIDY_COMMITS", 60)
    async with open_writer(path) as writer:

        async def write(size: int, name: str) -> None:
            await rests(writer._handover)
            await writer.submit(instances.create, "w", "", Creation(name, b"x" * size), 0, True)

        while (before := log_of(path))[0] < CHECKPOINT_PAGES - 40:
            await write(BRIEF_BYTES + 1, f"thread {before[0]}")
            writer._untidy = 0
        here = writer.commits_here
        for n in range(20):
            await write(BRIEF_BYTES, f"loop {n}")
        pages, done = log_of(path)
        assert writer.commits_here == here + 20
        assert pages > CHECKPOINT_PAGES + 100
        assert done == before[1]
        for n in range(60):
            await write(10, f"more {n}")
        assert log_of(path)[0] < pages  # it was begun anew


async def test_a_host_that_rests_gives_back_what_the_log_has(
    path: Path, hands: str, rests: Rests, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once nobody reads in it, and sleeps until there is work; whoever has written last. What was written is in the
    database.
    """
    log = path.with_name(f"{path.name}-wal")
    quiet = threading.Event()

    class Bell(handover.SimpleQueue):  # type: ignore[name-defined,misc]
        def get(self, block: bool = True, timeout: float | None = None) -> None:
            while timeout is not None and self.empty() and not quiet.is_set():
                self.listened_to = True
                time.sleep(0.001)
            return super().get(block, None if timeout is None else 0)  # type: ignore[no-any-return]

    def cut(log: Log) -> bool:
        cuts.append(of_log(log))
        return cuts[-1]

    cuts, of_log = list[bool](), Log.cut
    monkeypatch.setattr(Log, "cut", cut)
    monkeypatch.setattr(handover, "SimpleQueue", Bell)
    async with open_writer(path) as writer:
        for name in ("a", "b"):
            here = writer.commits_here
            for number in range(4):
                await rests(writer._handover)
                await create(writer, f"{name}{number}")
            assert log.stat().st_size > 0
            assert writer.commits_here == here + (hands == "loop") * (4 if name == "a" else 3), "one sees it begin"
            with closing(sqlite3.connect(path, isolation_level=None)) as reader:
                reader.execute("BEGIN")
                reader.execute("SELECT count(*) FROM instances").fetchone()
                looks = len(cuts)
                quiet.set()
                while len(cuts) < looks + 3:  # noqa: ASYNC110 - nobody says when it is
                    await asyncio.sleep(0)
                assert not any(cuts[looks:])
            while not writer._rests:  # noqa: ASYNC110 - nobody says when it is
                await asyncio.sleep(0)
            quiet.clear()
            assert log.stat().st_size == 0
        await rests(writer._handover)
        with closing(sqlite3.connect(f"file:{path}?immutable=1", uri=True)) as alone:
            assert alone.execute("SELECT count(*) FROM instances").fetchone() == (8,)


@pytest.mark.parametrize("hands", ["loop"], indirect=True)
async def test_what_stops_the_host_reaches_it(
    path: Path, hands: str, rests: Rests, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupt that hits the loop while it commits is the host's, and who waited is told all the same."""

    def stop(store: Store) -> None:
        raise KeyboardInterrupt

    async with open_writer(path) as writer:
        with monkeypatch.context() as patch:
            patch.setattr(Store, "commit", stop)
            await rests(writer._handover)
            waiting = create(writer, "a")
            with pytest.raises(KeyboardInterrupt):
                writer._handover.hurry()
            with pytest.raises(StorageError):
                await waiting
        await create(writer, "a")


async def test_what_is_hurried_may_be_done_at_once(path: Path) -> None:
    """Then there is nothing to wait for."""
    async with open_writer(path) as writer:
        refused: list[BaseException] = []
        writer.submit_unhurried(refused.append, instances.find, Address("w", "", "nobody"))
        assert await writer.idle()
        assert [type(error) for error in refused] == [InstanceNotFound]


@pytest.fixture
def promptness(monkeypatch: pytest.MonkeyPatch) -> Promptness:
    monkeypatch.setattr(promptness_module, "PROOF", PROOF)
    return Promptness()


def test_promptness_is_earned_and_lost(promptness: Promptness) -> None:
    """One late commit is borne with, and a stall is remembered for long."""
    for _ in range(PROOF):
        assert not promptness.proven
        promptness.took(PROMPT)
    for _ in range(PROOF):
        assert promptness.proven
        promptness.took(PROMPT / 4)
    promptness.took(2 * PROMPT)
    assert promptness.proven
    promptness.took(100 * PROMPT)
    for _ in range(300):
        promptness.took(PROMPT / 4)
        assert not promptness.proven


@pytest.mark.parametrize(("every", "seconds"), [(1, 1.5 * PROMPT), (8, 4 * PROMPT)])
def test_a_disk_that_is_late_too_often_is_never_prompt(promptness: Promptness, every: int, seconds: float) -> None:
    """Nor one that is prompt between."""
    proven = 0
    for n in range(10_000):
        promptness.took(PROMPT / 4 if n % every else seconds)
        proven += promptness.proven
    assert not proven
