"""The journal as another process meets it: everything checked, nothing recorded after the end."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sqlite3
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from cloister.engine import (
    Engine,
    EngineClosed,
    EngineError,
    ErrorRecord,
    InstanceFailed,
    InvalidDuration,
    InvalidStepConfig,
    InvalidStepName,
    Journal,
    JournalBreach,
    Outcome,
    PayloadTooLarge,
    RunOver,
    StepConfig,
    StepLimitExceeded,
    StepRecord,
    StorageError,
    WorkflowEntrypoint,
)
from cloister.engine.journal import LiveJournal
from cloister.engine.records import EventRecord
from cloister.engine.store.store import Store
from cloister.ipc import values

if TYPE_CHECKING:
    from pathlib import Path

    from cloister.engine.testing import VirtualClock

OpenEngine = Callable[..., Engine]


class Remote(WorkflowEntrypoint):
    """Hands its journal out and stays until it is told to end, as one does that runs elsewhere."""

    async def run(self, event: Any, step: Any) -> Any:
        over: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.env.append((step.journal, over))
        return await over


class Desk:
    """One instance whose run is in the test's hands."""

    def __init__(self, engine: Engine, clock: VirtualClock) -> None:
        self.engine, self.clock, self.runs = engine, clock, list[tuple[Journal, asyncio.Future[Any]]]()
        self.workflow = engine.workflow("w", Remote, env=self.runs)

    async def create(self) -> tuple[Any, Journal]:
        self.instance = await self.workflow.create(id="x", scope="tenant")
        await self.clock.run_until_idle()
        return self.instance, self.runs[-1][0]

    async def recorded(self) -> list[tuple[str, str, int, str]]:
        status = await self.instance.status()
        return [(step["kind"], step["name"], step["count"], step["status"]) for step in status["steps"]]


async def refuses(error: type[EngineError], call: Any) -> None:
    with pytest.raises(error):
        await call


async def test_the_journal_says_whose_it_is(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """The identity comes from the engine, never from whoever holds the journal."""
    async with open_engine() as engine:
        _, journal = await Desk(engine, clock).create()
        assert (journal.workflow_name, journal.scope, journal.instance_id, journal.run) == (
            "w",
            "tenant",
            "x",
            1,
        )
        assert (journal.history, journal.code_digest) == ((), None)


async def test_a_live_journal_is_small(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """Tens of thousands may be open at once: a dict for its attributes would be the largest thing in it."""
    async with open_engine() as engine:
        _, journal = await Desk(engine, clock).create()
        assert not hasattr(journal, "__dict__")


async def test_an_outcome_is_recorded_once(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """A second outcome of the same step is a breach and changes nothing."""
    async with open_engine() as engine:
        desk = Desk(engine, clock)
        instance, journal = await desk.create()
        assert (await journal.settle(Outcome("a", 1, 1, value=b"\x01"))).state == "done"
        for again in (Outcome("a", 1, 1, value=b"\x02"), Outcome("a", 1, 2, value=b"\x02")):
            await refuses(JournalBreach, journal.settle(again))
        racing = [journal.settle(Outcome("b", 1, 1, value=bytes([n]))) for n in range(5)]
        results = await asyncio.gather(*racing, return_exceptions=True)
        assert [isinstance(result, JournalBreach) for result in results] == [False, True, True, True, True]
        desk.runs[-1][1].set_result("end")
        assert await instance.result() == "end"
        assert await desk.recorded() == [("do", "a", 1, "done"), ("do", "b", 1, "done")]


async def claimed_with(desk: Desk, *events: tuple[str, Any]) -> Journal:
    """Its journal anew, for a run that was claimed with these events unread."""
    await desk.instance.pause()
    for kind, payload in events:
        await desk.instance.send_event(type=kind, payload=payload)
    await desk.instance.resume()
    await desk.clock.run_until_idle()
    return desk.runs[-1][0]


async def test_an_event_that_came_along_is_taken_before_whatever_is_recorded_next(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """In the order in which they were sent, once each; whoever asks for one gets the next."""
    async with open_engine() as engine:
        desk = Desk(engine, clock)
        await desk.create()
        journal = await claimed_with(desk, ("go", 1), ("other", 0), ("go", 2), ("go", 3))
        assert [kind for kind, _ in journal.mail] == ["go", "go", "go", "other"]
        for _ in range(2):  # it may not know whether it was heard
            journal.took("first", 1, "go", "1 hour")
        assert (await journal.settle(Outcome("a", 1, 1, value=b"\x01"))).state == "done"
        journal.took("second", 1, "go")
        assert values.loads((await journal.wait_for_event("third", 1, "go")).payload) == 3
        assert [kind for kind, _ in journal.mail] == ["other"]
        for name, kind, timeout in (("x", "go", None), ("x", "none", None), ("x", "other", 999)):
            with pytest.raises(JournalBreach):
                journal.took(name, 1, kind, timeout)
        journal.took("fourth", 1, "other")
        records = (await claimed_with(desk)).history
        told = [values.loads(record.value or b"") for record in records if record.kind == "wait"]
        assert [event["payload"] for event in told] == [1, 2, 3, 0]
        assert [record.name for record in records] == ["first", "a", "second", "third", "fourth"]


async def test_what_a_run_was_told_of_and_did_not_take_comes_along_again(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """A run that is over takes nothing any more. Few events come along, and no large ones; to a rehearsal none."""
    async with open_engine() as engine:
        desk = Desk(engine, clock)
        await desk.create()
        first = await claimed_with(desk, *((f"e{number}", number) for number in range(6)))
        again = await claimed_with(desk)
        assert len(first.mail) == 4
        assert again.mail == first.mail
        with pytest.raises(RunOver):
            first.took("w", 1, "e0")
        assert again.rehearsal().mail == ()
        again.took("w", 1, "e0")
        assert [kind for kind, _ in (await claimed_with(desk, ("a", "x" * 5000))).mail] == []


async def test_hostile_input_is_named_and_changes_nothing(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """Types, ranges, sizes, names and attempts are checked; after all of it the run goes on as if nothing had
    been.
    """
    large = b"x" * 1_048_577
    async with open_engine() as engine:
        desk = Desk(engine, clock)
        _, journal = await desk.create()
        wrong: Any = "wrong"
        await refuses(JournalBreach, journal.settle(wrong))
        await refuses(JournalBreach, journal.settle(Outcome("a", 1, 2, value=b"")))
        await refuses(JournalBreach, journal.settle(Outcome("a", wrong, 1, value=b"")))
        await refuses(StepLimitExceeded, journal.settle(Outcome("a", 25_001, 1, value=b"")))
        await refuses(InvalidStepName, journal.settle(Outcome("a\0", 1, 1, value=b"")))
        await refuses(InvalidStepName, journal.settle(Outcome(wrong * 60, 1, 1, value=b"")))
        await refuses(PayloadTooLarge, journal.settle(Outcome("a", 1, 1, value=large)))
        await refuses(InvalidDuration, journal.sleep("s", 1))
        await refuses(InvalidDuration, journal.sleep("s", 1, duration=1, until=1))
        await refuses(InvalidDuration, journal.sleep("s", 1, duration="forever"))
        await refuses(InvalidStepName, journal.wait_for_event("w", 1, wrong * 60))
        await refuses(InvalidDuration, journal.wait_for_event("w", 1, "t", []))
        await refuses(InvalidStepConfig, journal.configure(wrong))
        for digest, code in ((wrong, b""), (b"", b""), (b"d", wrong), (b"d" * 65, b"")):
            with pytest.raises(JournalBreach):
                journal.pin(digest, code)
        with pytest.raises(JournalBreach):
            journal.started("a", 1, 7)
        await refuses(JournalBreach, journal.pinned_code())
        assert await desk.recorded() == []
        assert (await journal.settle(Outcome("a", 1, 1, value=b"\x01"))).state == "done"


async def test_texts_of_an_error_are_bounded(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """A hostile error neither breaks the database nor fills it."""
    async with open_engine() as engine:
        desk = Desk(engine, clock)
        _, journal = await desk.create()
        error = ErrorRecord("N" * 10_000, "\ud800\0" + "m" * 1_000_000, "t" * 1_000_000)
        verdict = await journal.settle(Outcome("a", 1, 1, error=error, retryable=False))
        assert verdict.state == "failed"
        assert verdict.error is not None
        assert (len(verdict.error.name), len(verdict.error.message), len(verdict.error.trace)) == (
            256,
            8_192,
            16_384,
        )


async def test_the_same_wait_cannot_be_waited_for_twice_at_once(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """Each wait has one waiter, so that each event has one receiver."""
    async with open_engine() as engine:
        desk = Desk(engine, clock)
        instance, journal = await desk.create()
        waiting = asyncio.create_task(journal.wait_for_event("w", 1, "t"))
        await asyncio.sleep(0)
        await refuses(JournalBreach, journal.wait_for_event("w", 1, "t"))
        await instance.send_event(type="t", payload="p")
        record = await waiting
        assert (record.type, values.loads(record.payload), record.timestamp_ms) == ("t", "p", clock.now())
        await refuses(JournalBreach, journal.wait_for_event("w", 1, "t"))


async def test_a_retry_is_one_verdict_now_and_one_attempt_later(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """`settle` answers at once; `attempt` waits for the delay, over parking, and knows the number."""
    async with open_engine() as engine:
        desk = Desk(engine, clock)
        instance, journal = await desk.create()
        assert await journal.attempt("a", 1) == 1
        config = StepConfig(3, 60_000, "constant")
        failure = Outcome("a", 1, 1, config, error=ErrorRecord("E", "m"))
        assert (await journal.settle(failure)).state == "retry"
        retrying = asyncio.create_task(journal.attempt("a", 1))
        await clock.advance(1)
        await refuses(RunOver, retrying)
        assert (await instance.status())["status"] == "waiting"
        await clock.advance(59)
        journal = desk.runs[-1][0]
        (record,) = journal.history
        assert (record.state, record.attempts, record.config, record.error) == (
            "retrying", 1, config, ErrorRecord("E", "m")
        )  # fmt: skip
        assert await journal.attempt("a", 1) == 2
        assert (await journal.settle(Outcome("a", 1, 2, value=b"\xc0"))).state == "done"


async def test_the_history_of_a_run_is_what_the_earlier_ones_recorded(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """In the order of recording; a wait's value is the map of the event."""
    async with open_engine() as engine:
        desk = Desk(engine, clock)
        instance, journal = await desk.create()
        await instance.send_event(type="t", payload=[1])
        await journal.wait_for_event("w", 1, "t")
        await journal.settle(Outcome("b", 1, 1, value=b"\x01"))
        await journal.settle(Outcome("a", 1, 1, error=ErrorRecord("E", "m", "trace"), retryable=False))
        sleeping = asyncio.create_task(journal.sleep("s", 1, duration="1 minute"))
        sent = clock.now()
        await clock.advance(60)
        await refuses(RunOver, sleeping)
        history = desk.runs[-1][0].history
        assert values.loads(history[0].value or b"") == {"type": "t", "payload": [1], "timestamp": sent}
        assert history[1:] == (
            StepRecord("do", "b", 1, "done", 1, b"\x01", config=StepConfig()),
            StepRecord("do", "a", 1, "failed", 1, error=ErrorRecord("E", "m", "trace"), config=StepConfig()),
            StepRecord("sleep", "s", 1, "done", due_ms=sent + 60_000),
        )


async def asleep(desk: Desk, *work: Any) -> tuple[StepRecord, ...]:
    """What a run finds on record that waits for all of this and is woken ten minutes later."""
    pending = [asyncio.create_task(each) for each in work]
    await desk.clock.advance(1)
    for each in pending:
        await refuses(RunOver, each)
    desk.clock.set_wall(600)
    await desk.clock.advance(1)
    assert len(desk.runs) == 2
    return desk.runs[-1][0].history


async def test_sleeps_that_are_over_are_on_record_in_the_order_in_which_they_ended(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """Before the run goes on, which so has nothing to ask; what is not over is waited for as before."""
    async with open_engine() as engine:
        desk = Desk(engine, clock)
        _, journal = await desk.create()
        sleeps = {"late": "3 minutes", "long": "1 hour", "early": "2 minutes"}
        history = await asleep(desk, *(journal.sleep(name, 1, duration=duration) for name, duration in sleeps.items()))
        assert [(step.name, step.state) for step in history] == [
            ("early", "done"), ("late", "done"), ("long", "waiting")
        ]  # fmt: skip
        assert await desk.recorded() == [
            ("sleep", "late", 1, "done"), ("sleep", "long", 1, "waiting"), ("sleep", "early", 1, "done")
        ]  # fmt: skip


async def test_no_sleep_is_over_before_what_was_to_come_first(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """A wait that gives up earlier does so first, though the host comes to both late."""
    async with open_engine() as engine:
        desk = Desk(engine, clock)
        _, journal = await desk.create()
        history = await asleep(
            desk,
            journal.sleep("first", 1, duration="1 minute"),
            journal.wait_for_event("second", 1, "t", "2 minutes"),
            journal.sleep("third", 1, duration="3 minutes"),
        )
        assert [(step.name, step.state) for step in history] == [
            ("first", "done"), ("second", "waiting"), ("third", "waiting")
        ]  # fmt: skip


async def test_code_is_pinned_before_whatever_is_recorded_after_it(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """A woken run finds the code that the first one pinned; another digest is refused."""
    async with open_engine() as engine:
        desk = Desk(engine, clock)
        _, journal = await desk.create()
        journal.pin(b"digest", b"code")
        journal.pin(b"digest", b"code")
        with pytest.raises(JournalBreach):
            journal.pin(b"other", b"code")
        await asyncio.gather(journal.sleep("s", 1, duration="1 minute"), clock.advance(1), return_exceptions=True)
    async with open_engine() as engine:
        desk = Desk(engine, clock)
        await clock.advance(60)
        journal = desk.runs[-1][0]
        assert journal.code_digest == b"digest"
        assert await journal.pinned_code() == b"code"
        desk.runs[-1][1].set_result(None)
        await clock.run_until_idle()
    async with open_engine() as engine:
        await clock.run_until_idle()
    database = sqlite3.connect(engine._path)
    assert database.execute("SELECT count(*) FROM codes").fetchone() == (0,)
    database.close()


async def test_nothing_is_recorded_by_a_run_that_is_over(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """The fence: each method of a journal that outlived its run says so and writes nothing."""
    async with open_engine() as engine:
        desk = Desk(engine, clock)
        instance, journal = await desk.create()
        waiting = asyncio.create_task(journal.wait_for_event("w", 1, "t"))
        await clock.run_until_idle()
        before = await desk.recorded()
        await instance.terminate()
        await refuses(RunOver, waiting)
        await refuses(RunOver, journal.settle(Outcome("a", 1, 1, value=b"")))
        await refuses(RunOver, journal.attempt("a", 1))
        await refuses(RunOver, journal.sleep("s", 1, duration=1))
        await refuses(RunOver, journal.wait_for_event("w", 2, "t"))
        await refuses(RunOver, journal.pinned_code())
        with pytest.raises(RunOver):
            journal.started("a", 1, 1)
        with pytest.raises(RunOver):
            journal.pin(b"d", b"c")
        assert await desk.recorded() == before


async def test_the_ten_thousand_and_first_step_is_refused(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """Sleeps do not count with steps, and what is recorded already may be asked for again."""
    async with open_engine(synchronous="normal") as engine:
        desk = Desk(engine, clock)
        instance, journal = await desk.create()
        await asyncio.gather(*(journal.settle(Outcome(f"s{n}", 1, 1, value=b"")) for n in range(10_000)))
        await refuses(StepLimitExceeded, journal.settle(Outcome("more", 1, 1, value=b"")))
        await journal.sleep("s", 1, duration=0)
        desk.runs[-1][1].set_exception(StepLimitExceeded("over"))
        with pytest.raises(InstanceFailed, match="StepLimitExceeded"):
            await instance.result()


async def idles(clock: VirtualClock) -> None:
    """Longer than a run lingers, and shorter than anything it waits for."""
    for _ in range(10):
        await clock.advance(0.1)


async def test_a_run_that_was_answered_while_it_was_asked_whether_it_rests_is_not_parked(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """It goes on with that answer now, and not when the next of its deadlines comes."""
    async with open_engine() as engine:
        _, journal = await Desk(engine, clock).create()
        sleeping = asyncio.create_task(journal.sleep("s", 1, duration=3_600_000))
        asked: list[asyncio.Future[bool]] = []

        async def only_waits() -> bool:
            asked.append(asyncio.get_running_loop().create_future())
            return await asked[-1]

        journal.only_waits = only_waits
        await idles(clock)
        await journal.keep("now", 1, b"\x01")
        asked[0].set_result(True)
        await clock.run_until_idle()
        assert engine.statistics().parked == 0
        await idles(clock)
        asked[1].set_result(True)
        await clock.run_until_idle()
        assert engine.statistics().parked == 1
        await refuses(RunOver, sleeping)


async def test_a_run_that_writes_when_its_time_to_be_parked_comes_is_parked_later(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """It would take up its slot until the end of its wait."""
    async with open_engine() as engine:
        _, journal = await Desk(engine, clock).create()
        sleeping = asyncio.create_task(journal.sleep("s", 1, duration=3_600_000))
        await clock.run_until_idle()
        with journal.hold():
            await idles(clock)
            assert engine.statistics().parked == 0
        keeping = asyncio.create_task(journal.keep("now", 1, b"\x01"))
        journal._writes += 1  # type: ignore[attr-defined] # it takes its time
        await idles(clock)
        assert engine.statistics().parked == 0
        journal._writes -= 1  # type: ignore[attr-defined]
        await keeping
        await idles(clock)
        assert engine.statistics().parked == 1
        await refuses(RunOver, sleeping)


@pytest.mark.parametrize("at_once", [False, True])
async def test_a_write_that_fails_when_nobody_waits_for_it_any_longer_loses_the_run(
    open_engine: OpenEngine, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    """Its step was cancelled meanwhile: what the run has in memory would not be what is on record."""
    real, failing = Store.commit, list[None]()

    def commit(store: Store) -> None:
        if failing:
            failing.pop()
            raise OSError("disk full")
        real(store)

    monkeypatch.setattr(Store, "commit", commit)
    async with open_engine() as engine:
        desk = Desk(engine, clock)
        instance, journal = await desk.create()
        failing.append(None)
        if at_once:
            told: list[BaseException | None] = []
            assert journal.record_result("a", 1, b"\x01", None, told.append)
        else:
            settling = asyncio.create_task(journal.settle(Outcome("a", 1, 1, value=b"\x01")))
            await asyncio.sleep(0)
            settling.cancel()
        await clock.run_until_idle()
        await refuses(RunOver, journal.settle(Outcome("b", 1, 1, value=b"\x02")))
        if at_once:
            assert [type(error) for error in told] == [StorageError]
        assert engine.statistics().lost == 1
        again, over = desk.runs[-1]
        assert again.history == ()
        assert (await again.settle(Outcome("a", 1, 1, value=b"\x03"))).state == "done"
        over.set_result("end")
        assert await instance.result() == "end"
        assert await desk.recorded() == [("do", "a", 1, "done")]


async def test_a_cancelled_step_whose_result_was_on_its_way_keeps_the_run_from_being_put_aside(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """Until it is known to be on record the run is in the midst of something: a pause waits for it."""
    async with open_engine() as engine:
        desk = Desk(engine, clock)
        instance, journal = await desk.create()
        settling = asyncio.create_task(journal.settle(Outcome("a", 1, 1, value=b"\x01")))
        await asyncio.sleep(0)
        settling.cancel()
        await instance.pause()
        await clock.run_until_idle()
        assert (await instance.status())["status"] == "paused"
        assert await desk.recorded() == [("do", "a", 1, "done")]


async def test_the_last_wait_may_end_in_the_turn_in_which_the_run_is_found_to_wait(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """Then it has no nearest deadline, and goes on."""
    async with open_engine() as engine:
        _, journal = await Desk(engine, clock).create()
        assert isinstance(journal, LiveJournal)
        waiting = asyncio.create_task(journal.wait_for_event("w", 1, "go"))
        await clock.run_until_idle()
        journal.deliver("w", 1, EventRecord("go", values.dumps(None), 0).encode())
        journal._lingered(journal._activity)
        assert journal._asking is not None
        await journal._asking
        assert (await waiting).type == "go"


async def test_a_result_that_is_recorded_at_once_is_told_of_when_it_is_durable(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """Once, in order, and the record is the one that `settle` makes."""
    async with open_engine() as engine:
        desk = Desk(engine, clock)
        instance, journal = await desk.create()
        told: list[tuple[str, BaseException | None]] = []
        for name in ("a", "b"):
            told_of = functools.partial(lambda name, error: told.append((name, error)), name)
            assert journal.record_result(name, 1, b"\x01", "1 1 outer", told_of)
        assert told == []
        await journal.settle(Outcome("c", 1, 1, value=b"\x01", within="1 1 outer"))
        assert told == [("a", None), ("b", None)]
        assert not journal.record_result("a", 1, b"\x02", None, lambda error: told.append(("again", error)))
        await refuses(JournalBreach, journal.settle(Outcome("a", 1, 1, value=b"\x02")))
        steps = (await instance.status())["steps"]
        first, *others = ({**step, "name": "", "started": 0, "ended": 0} for step in steps)
        assert [first] * 2 == others
        desk.runs[-1][1].set_result("end")
        assert await instance.result() == "end"
        assert not journal.record_result("d", 1, b"\x01", None, lambda error: told.append(("over", error)))
        assert told == [("a", None), ("b", None)]


async def test_however_results_are_recorded_they_are_told_in_the_order_of_their_records(
    open_engine: OpenEngine, clock: VirtualClock, path: Path, hands: str
) -> None:
    """Of one commit or of several, and while others return to the run: a replay has no other order to go by."""
    async with open_engine() as engine:
        desk = Desk(engine, clock)
        instance, journal = await desk.create()
        told: list[str] = []

        def at_once(name: str) -> None:
            assert journal.record_result(name, 1, b"\x01", None, lambda error: told.append(name))

        async def slowly(name: str) -> None:
            await journal.settle(Outcome(name, 1, 1, error=ErrorRecord("E", "no"), retryable=False))
            told.append(name)

        async def heard() -> None:
            await journal.wait_for_event("event", 1, "go")
            told.append("event")

        waiting = [asyncio.create_task(heard())]
        await clock.run_until_idle()
        for number, name in enumerate("abcdefgh"):
            if number == 3:
                waiting.append(asyncio.create_task(instance.send_event(type="go")))
            elif number % 2:
                at_once(name)
            else:
                waiting.append(asyncio.create_task(slowly(name)))
            await asyncio.sleep(0)  # what was begun is queued; now and then it is committed as well
        await asyncio.gather(*waiting)
        await clock.run_until_idle()
        with contextlib.closing(sqlite3.connect(path)) as base:
            recorded = base.execute("SELECT name FROM steps WHERE finished IS NOT NULL ORDER BY finished")
            assert told == [name for (name,) in recorded]
        assert sorted(told) == sorted([*"abcefgh", "event"])


@pytest.mark.parametrize("at_once", [True, False])
async def test_the_end_of_an_instance_is_told_in_its_turn_like_every_other_outcome(
    open_engine: OpenEngine, clock: VirtualClock, path: Path, hands: str, at_once: bool
) -> None:
    """Though whoever has it stored is not who awaits it: results before and after it are of the same commit."""
    async with open_engine() as engine:
        desk = Desk(engine, clock)
        _, journal = await desk.create()
        told: list[str] = []

        async def awaited(name: str) -> None:
            await journal.child(name, 1, desk.workflow.child({"id": name}, scope="tenant"))
            told.append(name)

        async def settled(name: str) -> None:
            await journal.settle(Outcome(name, 1, 1, value=b"\x01"))
            told.append(name)

        def record(name: str) -> list[asyncio.Task[None]]:
            if not at_once:
                return [asyncio.create_task(settled(name))]
            assert journal.record_result(name, 1, b"\x01", None, lambda error: told.append(name))
            return []

        children = ["c", "f"]
        waiting = [asyncio.create_task(awaited(name)) for name in children]
        await clock.run_until_idle()
        ends = [(await desk.workflow.get(name, scope="tenant")).terminate() for name in children]
        first, last = (asyncio.create_task(end) for end in ends)
        waiting += [*record("a"), first]
        await asyncio.sleep(0)
        waiting += [*record("d"), last, *record("g")]
        await asyncio.gather(*waiting)
        await clock.run_until_idle()
        with contextlib.closing(sqlite3.connect(path)) as base:
            recorded = base.execute(
                "SELECT name FROM steps WHERE finished IS NOT NULL AND instance = 1 ORDER BY finished"
            )
            assert told == [name for (name,) in recorded]
        assert sorted(told) == ["a", "c", "d", "f", "g"]


async def test_what_has_waited_its_turn_is_told_before_what_is_recorded_meanwhile(
    open_engine: OpenEngine, clock: VirtualClock, hands: str
) -> None:
    """Whoever is told by a task hears of it a turn later: that turn is its own as well."""
    loop = asyncio.get_running_loop()
    async with open_engine() as engine:
        _, journal = await Desk(engine, clock).create()
        told: list[str] = []

        def tell(name: str) -> None:
            if asyncio.current_task() is None:
                told.append(name)
            else:
                loop.call_soon(told.append, name)

        before, turns = ("wait", "event", 1), journal._turns  # type: ignore[attr-defined]
        turns.join(before)
        assert journal.record_result("a", 1, b"\x01", None, lambda error: tell("a"))
        await clock.run_until_idle()
        assert told == []
        turns.leave(before)
        assert journal.record_result("b", 1, b"\x01", None, lambda error: tell("b"))
        await clock.run_until_idle()
        assert told == ["a", "b"]


async def test_a_result_that_cannot_be_queued_leaves_nothing_behind(
    open_engine: OpenEngine, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the engine closes: the step is not taken to have its outcome, nor its bytes to be stored."""
    async with open_engine() as engine:
        desk = Desk(engine, clock)
        _, journal = await desk.create()
        with monkeypatch.context() as closing:
            closing.setattr(journal._writer, "closing", True)  # type: ignore[attr-defined]
            with pytest.raises(EngineClosed):
                journal.record_result("a", 1, b"\x01", None, lambda _: None)
        assert journal._room._stored == 0  # type: ignore[attr-defined]
        assert (await journal.settle(Outcome("a", 1, 1, value=b"\x02"))).state == "done"
        assert await desk.recorded() == [("do", "a", 1, "done")]


@pytest.mark.parametrize(
    ("name", "count", "value", "within"),
    [
        (1, 1, b"\x01", None),
        ("x" * 257, 1, b"\x01", None),
        ("line\n", 1, b"\x01", None),
        ("a", 0, b"\x01", None),
        ("a", True, b"\x01", None),
        ("a", 10**9, b"\x01", None),
        ("a", 1, "text", None),
        ("a", 1, b"x" * 1_048_577, None),
        ("a", 1, b"\x01", 5),
        ("a", 1, b"\x01", "x" * 301),
    ],
)
async def test_what_could_not_be_settled_is_not_recorded_at_once(
    open_engine: OpenEngine, clock: VirtualClock, name: Any, count: Any, value: Any, within: Any
) -> None:
    """Whatever `settle` has an error for is left to it, and nothing has happened."""
    async with open_engine() as engine:
        desk = Desk(engine, clock)
        _, journal = await desk.create()
        assert not journal.record_result(name, count, value, within, lambda _: None)
        await refuses(EngineError, journal.settle(Outcome(name, count, 1, value=value, within=within)))
        assert await desk.recorded() == []
