"""Schedules: when they fire in their time zone, each time once, and what happens to what was missed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.engine import Engine, InvalidInstanceId, InvalidSchedule, Schedule, StorageError, WorkflowEntrypoint
from cloister.engine.store.store import Store
from cloister.engine.testing import VirtualClock

if TYPE_CHECKING:
    from pathlib import Path

OpenEngine = Callable[..., Engine]
HOUR = 3_600


class Tick(WorkflowEntrypoint):
    async def run(self, event: Any, step: Any) -> Any:
        schedule = event.schedule
        return None if schedule is None else [schedule.cron, schedule.scheduled_ms, event.payload]


def ms(text: str) -> int:
    return int(dt.datetime.fromisoformat(text).timestamp() * 1000)


def firings(schedule: Schedule, since: str, until: str) -> list[str]:
    """All of them between two moments, as UTC."""
    found, moment = [], ms(since)
    while (following := schedule.next_after(moment)) is not None and following <= ms(until):
        moment = following
        found.append(dt.datetime.fromtimestamp(moment / 1000, dt.UTC).strftime("%d %H:%M"))
    return found


async def fired(workflow: Any, **filters: Any) -> list[str]:
    page = await workflow.list(limit=1000, **filters)
    return [summary.id for summary in reversed(page.instances)]


# The rule


def test_a_schedule_goes_by_the_clocks_of_its_zone() -> None:
    """Nine o'clock in Berlin is another moment in summer, in winter, and in New York."""
    berlin, new_york = Schedule("0 9 * * *", zone="Europe/Berlin"), Schedule("0 9 * * *", zone="America/New_York")
    assert firings(berlin, "2027-01-10T00:00Z", "2027-01-11T00:00Z") == ["10 08:00"]
    assert firings(berlin, "2027-07-10T00:00Z", "2027-07-11T00:00Z") == ["10 07:00"]
    assert firings(new_york, "2027-01-10T00:00Z", "2027-01-11T00:00Z") == ["10 14:00"]
    assert firings(Schedule("0 9 * * 1-5"), "2027-01-08T00:00Z", "2027-01-12T00:00Z") == ["08 09:00", "11 09:00"]


def test_what_daylight_saving_skips_fires_afterwards_and_what_it_repeats_fires_once() -> None:
    """Berlin has no 02:30 on 28 March 2027, and two on 31 October; by the hour it goes on through both."""
    nightly, hourly = Schedule("30 2 * * *", zone="Europe/Berlin"), Schedule("30 * * * *", zone="Europe/Berlin")
    assert firings(nightly, "2027-03-27T12:00Z", "2027-03-29T12:00Z") == ["28 01:00", "29 00:30"]
    assert firings(nightly, "2027-10-30T12:00Z", "2027-11-01T12:00Z") == ["31 00:30", "01 01:30"]
    night = ("2027-10-30T22:00Z", "2027-10-31T03:00Z")
    assert firings(hourly, *night) == ["30 22:30", "30 23:30", "31 00:30", "31 01:30", "31 02:30"]
    assert firings(hourly, "2027-03-28T00:00Z", "2027-03-28T02:00Z") == ["28 00:30", "28 01:30"]


def test_a_change_of_half_an_hour_skips_no_firing() -> None:
    """On Lord Howe Island, 02:00 becomes 01:30 in April, and 02:30 in October."""
    early, three = (
        Schedule("*/20 2 * * *", zone="Australia/Lord_Howe"),
        Schedule("*/20 3 * * *", zone="Australia/Lord_Howe"),
    )
    for begin in ("2028-04-01T12:00Z", "2028-04-01T14:50Z", "2028-04-01T15:16Z"):
        assert firings(early, begin, "2028-04-01T16:30Z") == ["01 15:30", "01 15:50", "01 16:10"]
        assert firings(three, begin, "2028-04-01T17:30Z") == ["01 16:30", "01 16:50", "01 17:10"]
    assert firings(early, "2028-09-30T12:00Z", "2028-09-30T17:00Z") == ["30 15:40"]
    assert firings(three, "2028-09-30T12:00Z", "2028-09-30T17:00Z") == ["30 16:00", "30 16:20", "30 16:40"]


@given(
    cron=st.sampled_from(["* * * * *", "*/7 3 * * *", "30 2 * * *", "0 0 1 * *", "15 10 * * MON", "0 12 L * *"]),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]),
    moment=st.integers(ms("2026-01-01T00:00Z"), ms("2030-01-01T00:00Z")),
)
@settings(deadline=None)
def test_the_last_firing_and_the_next_one_agree(cron: str, zone: str, moment: int) -> None:
    """Between the last firing until a moment and the next after it there is none, at any millisecond."""
    schedule = Schedule(cron, zone=zone)
    last, following = schedule.last_until(moment), schedule.next_after(moment)
    assert last is not None
    assert following is not None
    assert last <= moment < following
    assert schedule.next_after(last) == following
    assert schedule.last_until(following) == following
    assert schedule.last_until(following - 1) == last


@pytest.mark.parametrize(
    ("cron", "zone"),
    [("", "UTC"), ("* * * *", "UTC"), ("* * * * * *", "UTC"), ("61 * * * *", "UTC"), ("@daily", "UTC"), (7, "UTC"),
     ("0 9 * * *", "Mars/Base"), ("0 9 * * *", "../../etc/passwd"), ("0 9 * * *", 7), ("0 9 * * *", ""),
     ("0 " * 200, "UTC"), ("0 0 31 2 *", "UTC")],
)  # fmt: skip
def test_what_is_no_schedule_is_refused_when_it_is_written(cron: Any, zone: Any) -> None:
    """Not when it should have fired."""
    with pytest.raises(InvalidSchedule):
        Schedule(cron, zone=zone)


async def test_schedules_that_would_share_ids_are_refused(open_engine: OpenEngine) -> None:
    """The same name twice in one scope; other scopes and other zones are other schedules."""
    async with open_engine() as engine:
        with pytest.raises(InvalidSchedule, match="twice"):
            engine.workflow("w", Tick, schedules=["0 9 * * *", Schedule("0 9 * * *")])
        with pytest.raises(InvalidSchedule, match="at most"):
            engine.workflow("w", Tick, schedules=[f"0 {n % 24} {n // 24 + 1} * *" for n in range(101)])
        wrong: list[Any] = [7, [7]]
        for schedules in wrong:
            with pytest.raises((TypeError, InvalidSchedule)):
                engine.workflow("w", Tick, schedules=schedules)
        with pytest.raises(Exception, match="retention"):
            engine.workflow("w", Tick, schedules=[Schedule("0 9 * * *", retention="40 days")])
        engine.workflow(
            "w",
            Tick,
            schedules=["0 9 * * *", Schedule("0 9 * * *", zone="Europe/Berlin"), Schedule("0 9 * * *", scope="t")],
        )


# The firing


async def test_each_firing_creates_one_instance_whose_id_tells_which(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """With the params, labels and scope of its schedule; the run is told what it was fired for."""
    async with open_engine() as engine:
        schedule = Schedule("*/15 * * * *", scope="t", params={"x": 1}, labels={"kind": "tick"}, retention="1 day")
        workflow = engine.workflow("w", Tick, schedules=[schedule, "0 * * * *"])
        began = clock.now()
        await clock.advance(HOUR)
        quarters = [began - began % 900_000 + n * 900_000 for n in range(1, 5)]
        assert await fired(workflow, scope="t", labels={"kind": "tick"}) == [f"*/15 * * * * {q}" for q in quarters]
        instance = await workflow.get(f"*/15 * * * * {quarters[0]}", scope="t")
        assert await instance.result() == ["*/15 * * * *", quarters[0], {"x": 1}]
        status = await instance.status()
        assert status["created"] == quarters[0], "neither early nor late"
        assert status["expires"] == quarters[0] + 86_400_000
        assert len(await fired(workflow, scope="")) == 1
        assert (await workflow.delete_batch([instance.id], scope="t"))["errors"] == []
        with pytest.raises(InvalidInstanceId):
            await workflow.create(id=instance.id)
        assert await (await workflow.create()).result() is None


@pytest.mark.parametrize("away", ["10 minutes", "a week"])
async def test_what_was_missed_is_made_up_for_once(open_engine: OpenEngine, clock: VirtualClock, away: str) -> None:
    """By its latest firing, however many there were; and nothing that was not missed."""
    schedules = ["0 * * * *", Schedule("30 2 * * *", zone="Europe/Berlin")]
    async with open_engine() as engine:
        workflow = engine.workflow("w", Tick, schedules=schedules)
        await clock.advance(2 * HOUR)
        seen = await fired(workflow)
    await clock.advance(600 if away == "10 minutes" else 7 * 24 * HOUR + 600)
    async with open_engine() as engine:
        workflow = engine.workflow("w", Tick, schedules=schedules)
        await clock.run_until_idle()
        made_up = [name for name in await fired(workflow) if name not in seen]
        now = clock.now()
        hourly = f"0 * * * * {now - now % 3_600_000}"
        expected = set() if away == "10 minutes" else {hourly}
        assert {name for name in made_up if name.startswith("0 *")} == expected
        assert len(made_up) == (0 if away == "10 minutes" else 2)
        await clock.advance(HOUR)
        assert f"0 * * * * {now - now % 3_600_000 + 3_600_000}" in await fired(workflow)


async def test_a_schedule_makes_up_for_nothing_before_it_was_there(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """New, or taken away and put back: it begins now."""
    async with open_engine() as engine:
        engine.workflow("w", Tick, schedules=["0 * * * *"])
        await clock.run_until_idle()
    await clock.advance(48 * HOUR)
    async with open_engine() as engine:
        engine.workflow("w", Tick)
        await clock.run_until_idle()
    await clock.advance(48 * HOUR)
    async with open_engine() as engine:
        workflow = engine.workflow("w", Tick, schedules=["0 * * * *"])
        await clock.run_until_idle()
        assert await fired(workflow) == []


async def test_a_clock_that_is_set_fires_nothing_twice_and_nothing_early(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """Back by hours: those firings were seen to. Forward by a day: one is made up for."""
    async with open_engine() as engine:
        workflow = engine.workflow("w", Tick, schedules=["0 * * * *"])
        await clock.advance(5 * HOUR)
        first = await fired(workflow)
        assert len(first) == 5
        clock.set_wall(-3 * HOUR)
        await clock.advance(3 * HOUR)
        assert await fired(workflow) == first
        await clock.advance(HOUR)
        assert len(await fired(workflow)) == 6
        clock.set_wall(24 * HOUR)
        await clock.advance(1)
        assert len(await fired(workflow)) == 7


async def test_a_firing_that_could_not_be_stored_is_stored_once_later(
    open_engine: OpenEngine, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    """Whether the failed commit was stored after all or not."""
    real = Store.commit
    for stored in (True, False):
        faults = [stored]

        def commit(store: Store, faults: list[bool] = faults) -> None:
            if faults:
                if faults.pop():
                    real(store)
                raise OSError("nobody knows")
            real(store)

        async with Engine(path.with_name(f"{stored}.db"), clock=clock) as engine:
            workflow = engine.workflow("w", Tick, schedules=["0 * * * *"])
            await clock.advance(60)
            to_the_hour = (3_600_000 - clock.now() % 3_600_000) / 1000
            await clock.advance(to_the_hour - 1)
            monkeypatch.setattr(Store, "commit", commit)
            await clock.advance(1)
            monkeypatch.setattr(Store, "commit", real)
            assert not faults
            await clock.advance(30)
            assert len(await fired(workflow)) == 1


async def test_closing_the_engine_stops_its_schedules(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """No timer is left on the clock."""
    async with open_engine() as engine:
        engine.workflow("w", Tick, schedules=["0 * * * *", "30 * * * *"])
        await clock.advance(HOUR)
    assert clock._timers == []


# Added and removed while a host runs


async def test_a_schedule_that_is_added_fires_under_every_host_until_it_is_removed(
    open_engine: OpenEngine, clock: VirtualClock
) -> None:
    """With all that it was given; those that are given with the workflow come and go beside it."""
    daily = Schedule(
        "30 * * * *", zone="Europe/Berlin", scope="t", params={"x": 1}, labels={"kind": "added"}, retention="1 day"
    )
    async with open_engine() as engine:
        workflow = engine.workflow("w", Tick, schedules=["0 * * * *"])
        await workflow.add_schedule(daily)
        await workflow.add_schedule("15 * * * *")
        await clock.advance(HOUR)
        assert len(await fired(workflow, labels={"kind": "added"}, scope="t")) == 1
        assert len(await fired(workflow)) == 3
    async with open_engine() as engine:
        workflow = engine.workflow("w", Tick)
        assert {(each.scope, each.name) for each in await workflow.schedules()} == {
            ("t", "30 * * * * Europe/Berlin"),
            ("", "15 * * * *"),
        }
        assert [each.cron for each in await workflow.schedules(scope="t")] == ["30 * * * *"]
        await clock.advance(HOUR)
        ids = await fired(workflow, labels={"kind": "added"}, scope="t")
        assert len(ids) == 2
        instance = await workflow.get(ids[-1], scope="t")
        assert (await instance.result())[2] == {"x": 1}
        status = await instance.status()
        assert status["expires"] == status["ended"] + 86_400_000
        await workflow.remove_schedule(daily)
        await clock.advance(2 * HOUR)
        assert len(await fired(workflow, scope="t")) == 2
    async with open_engine() as engine:
        workflow = engine.workflow("w", Tick)
        await clock.advance(HOUR)
        assert len(await fired(workflow, scope="t")) == 2
        assert [each.cron for each in await workflow.schedules()] == ["15 * * * *"]


async def test_what_an_added_schedule_missed_is_made_up_for_once(open_engine: OpenEngine, clock: VirtualClock) -> None:
    """By its latest firing, as of any other."""
    async with open_engine() as engine:
        await engine.workflow("w", Tick).add_schedule("0 * * * *")
    await clock.advance(24 * HOUR)
    async with open_engine() as engine:
        workflow = engine.workflow("w", Tick)
        await clock.run_until_idle()
        assert len(await fired(workflow)) == 1


async def test_what_cannot_be_added_or_removed_is_said(
    open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch, clock: VirtualClock
) -> None:
    """One that is there, one too many, one that is no schedule, one that was not added."""
    monkeypatch.setattr("cloister.engine.store.schedules.MAX_ADDED", 2)
    async with open_engine() as engine:
        workflow = engine.workflow("w", Tick, schedules=["0 1 * * *"])
        for there in ("0 1 * * *", "0 2 * * *"):
            if there == "0 2 * * *":
                await workflow.add_schedule(there)
            with pytest.raises(InvalidSchedule, match="already"):
                await workflow.add_schedule(there)
        await workflow.add_schedule("0 3 * * *")
        with pytest.raises(InvalidSchedule, match="as many as it may"):
            await workflow.add_schedule("0 4 * * *")
        await workflow.add_schedule(Schedule("0 4 * * *", scope="t"))
        with pytest.raises(InvalidSchedule, match="no cron expression"):
            await workflow.add_schedule("0 99 * * *")
        with pytest.raises(Exception, match="retention"):
            await workflow.add_schedule(Schedule("0 5 * * *", scope="u", retention="40 days"))
        for unknown in ("0 1 * * *", "0 9 * * *"):
            with pytest.raises(InvalidSchedule, match="was added"):
                await workflow.remove_schedule(unknown)
        assert len(await workflow.schedules()) == 4


async def test_a_schedule_that_could_not_be_stored_does_not_fire(
    open_engine: OpenEngine, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever adds it is told."""
    async with open_engine() as engine:
        workflow = engine.workflow("w", Tick)
        await workflow.schedules()
        with monkeypatch.context() as broken:
            broken.setattr(Store, "commit", lambda self: 1 / 0)
            with pytest.raises(StorageError):
                await workflow.add_schedule("0 * * * *")
        await clock.advance(3 * HOUR)
        assert await fired(workflow) == []
