"""CPU time charged to calls: shared among those in flight, forgiven at records, looked at no later than needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cloister.sandbox.watch import Account


class Timer:
    def __init__(self, machine: Machine, when: float, what: Callable[[], None]) -> None:
        self._machine, self._when, self.what = machine, when, what

    def when(self) -> float:
        return self._when

    def cancel(self) -> None:
        self._machine.timers.remove(self)


class Machine:
    """A clock, a process's CPU time, and timers, all of them moved by hand."""

    def __init__(self, cores: int = 1) -> None:
        self.now = self.cpu = 0.0
        self.timers: list[Timer] = []
        self.over: list[str] = []
        self.watch = Account(lambda: self.cpu, lambda: self.now, self._call_at)
        self.watch._cores = cores

    def _call_at(self, when: float, what: Callable[[], None]) -> Timer:
        timer = Timer(self, when, what)
        self.timers.append(timer)
        return timer

    def run(self, seconds: float, *, busy: float = 1.0) -> None:
        """Time goes by, and the process is busy for that part of it; timers go off on the way."""
        end = self.now + seconds
        while due := [timer for timer in self.timers if timer.when() <= end]:
            timer = min(due, key=Timer.when)
            self._go_to(timer.when(), busy)
            self.timers.remove(timer)
            timer.what()
        self._go_to(end, busy)

    def _go_to(self, when: float, busy: float) -> None:
        if when > self.now:
            self.cpu += (when - self.now) * busy
            self.now = when


def test_a_call_is_ended_when_it_has_used_its_limit() -> None:
    """Once, and not before it has."""
    machine = Machine()
    machine.watch.begin(50, lambda: machine.over.append("one"))
    machine.run(0.049)
    assert machine.over == []
    machine.run(0.02)
    assert machine.over == ["one"]
    machine.run(10)
    assert machine.over == ["one"]


def test_only_cpu_counts() -> None:
    """A call that waits for a day has used nothing; it is looked at now and then."""
    machine = Machine()
    machine.watch.begin(1000, lambda: machine.over.append("one"))
    machine.run(86_400, busy=0.0)
    assert machine.over == []
    machine.run(1.01)
    assert machine.over == ["one"]


def test_calls_in_flight_share_what_is_used() -> None:
    """Two at a time are charged a half each, whoever of them used it."""
    machine = Machine()
    machine.watch.begin(100, lambda: machine.over.append("one"))
    other = machine.watch.begin(1000, lambda: machine.over.append("other"))
    machine.run(0.15)
    assert machine.over == []
    assert other.used == pytest.approx(0.075, abs=0.03)
    machine.run(0.06)
    assert machine.over == ["one"]
    machine.watch.end(other)
    assert other.used == pytest.approx(0.1, abs=0.02)


def test_what_was_used_before_a_call_is_not_its_own() -> None:
    """Neither what ran before it began, nor what runs after its end."""
    machine = Machine()
    machine.run(5)
    first = machine.watch.begin(100, lambda: machine.over.append("first"))
    machine.run(0.05)
    machine.watch.end(first)
    machine.run(5)
    second = machine.watch.begin(100, lambda: machine.over.append("second"))
    machine.run(0.09)
    machine.watch.end(second)
    machine.run(5)
    assert machine.over == []
    assert first.used == pytest.approx(0.05)
    assert second.used == pytest.approx(0.09)


def test_a_durable_run_starts_anew_at_each_record() -> None:
    """It may use its limit between any two records, for as long as it makes progress."""
    machine = Machine()
    charge = machine.watch.begin(100, lambda: machine.over.append("run"))
    for _ in range(10):
        machine.run(0.09)
        machine.watch.restart(charge)
    assert machine.over == []
    machine.run(0.11)
    assert machine.over == ["run"]


@pytest.mark.parametrize("pause", [0.0001, 0.0004, 0.0011, 0.005])
def test_records_that_come_fast_are_not_looked_at_each(pause: float) -> None:
    """A hundredth of the limit may count for the stretch after a record that it was used before: not more, however many
    there are, and what comes after the last is charged."""
    machine = Machine()
    charge = machine.watch.begin(100, lambda: machine.over.append("run"))
    looks = 0

    def cpu() -> float:
        nonlocal looks
        looks += 1
        return machine.cpu

    machine.watch._cpu = cpu
    for _ in range(int(1 / pause)):
        machine.run(pause)
        machine.watch.restart(charge)
    assert looks <= 1 / max(pause, 0.001) + 20
    machine.run(0.098)
    assert machine.over == []
    machine.run(0.009)
    assert machine.over == ["run"]


@pytest.mark.parametrize("pause", [0.0, 0.0001, 0.004])
@pytest.mark.parametrize("took", [0.0001, 0.002, 0.006])
def test_short_calls_one_after_the_other_are_not_looked_at_each(took: float, pause: float) -> None:
    """A hundredth of the limit may have been used by another one, or by none: what they took is held against nobody,
    however many they are."""
    machine = Machine()
    looks = 0

    def cpu() -> float:
        nonlocal looks
        looks += 1
        return machine.cpu

    machine.watch._cpu = cpu
    machine.watch.bound(100, lambda: machine.over.append("stray"))
    for _ in range(int(10 / (took + pause))):
        charge = machine.watch.begin(100, lambda: machine.over.append("call"))
        machine.run(took)
        machine.watch.end(charge)
        machine.run(pause, busy=0.0)
    assert machine.over == []
    assert looks <= 13_000  # one in each millisecond, and those that a timer asks for


def test_what_was_used_before_a_call_is_not_forgiven_with_it() -> None:
    """Though nobody looked when it began: only what it can have used itself is."""
    machine = Machine(cores=2)
    machine.watch.bound(300, lambda: machine.over.append("stray"))
    for _ in range(int(10 / 0.0014)):
        charge = machine.watch.begin(300, lambda: machine.over.append("call"))
        machine.run(0.0001)
        machine.watch.end(charge)
        machine.run(0.0013)
    assert machine.over == ["stray"]


@pytest.mark.parametrize("pause", [0.002, 0.004, 0.05])
def test_who_computes_between_calls_that_are_not_looked_at_is_ended_all_the_same(pause: float) -> None:
    """Each forgives a little, which is soon used up."""
    machine = Machine()
    machine.watch.bound(100, lambda: machine.over.append("stray"))
    for _ in range(int(10 / pause)):
        charge = machine.watch.begin(100, lambda: machine.over.append("call"))
        machine.run(0.0001)
        machine.watch.end(charge)
        machine.run(pause)
    assert machine.over == ["stray"]


@pytest.mark.parametrize("cores", [1, 2, 16])
def test_more_cores_are_looked_at_sooner(cores: int) -> None:
    """All of them busy, the limit is overshot by no more than the shortest pause between two looks on each."""
    machine = Machine(cores)
    spent: list[float] = []
    machine.watch.begin(1000, lambda: spent.append(machine.cpu))
    machine.run(5, busy=cores)
    assert 1.0 <= spent[0] <= 1.0 + 0.006 * cores


def test_a_stricter_call_is_looked_at_in_time() -> None:
    """The timer of a generous one does not make it wait."""
    machine = Machine()
    machine.watch.begin(60_000, lambda: machine.over.append("generous"))
    machine.watch.begin(10, lambda: machine.over.append("strict"))
    machine.run(0.03)
    assert machine.over == ["strict"]
    assert len(machine.timers) == 1


@pytest.mark.parametrize("cores", [1, 2, 16])
def test_what_goes_on_after_an_answer_is_ended_when_it_has_used_its_limit(cores: int) -> None:
    """Nobody has to look: the timer of the call is still there, and is set again for as long as something is used."""
    machine = Machine(cores)
    spent: list[float] = []
    machine.watch.bound(300, lambda: spent.append(machine.cpu))
    charge = machine.watch.begin(300, lambda: machine.over.append("call"))
    machine.watch.end(charge)
    machine.run(5, busy=cores)
    assert machine.over == []
    assert len(spent) == 1
    assert 0.3 <= spent[0] <= 0.3 * 1.06 + 0.006 * cores


def test_what_begins_by_itself_is_ended_once_it_has_been_noticed() -> None:
    """After a rest no timer is set; a look finds that something is used, and from then on it is watched closely."""
    machine = Machine()
    machine.watch.bound(12_000, lambda: machine.over.append("stray"))
    machine.watch.end(machine.watch.begin(12_000, lambda: None))
    machine.run(60, busy=0.0)
    assert machine.timers == []
    machine.run(9)
    machine.watch.look()
    assert machine.over == []
    machine.run(3.0)
    assert machine.over == []
    machine.run(0.3)
    assert machine.over == ["stray"]
    machine.run(60)
    machine.watch.look()
    assert machine.over == ["stray"]


@pytest.mark.parametrize("cores", [1, 2, 16])
@pytest.mark.parametrize("limit_ms", [10, 100, 1000])
def test_under_a_low_limit_what_begins_by_itself_is_noticed_in_time(cores: int, limit_ms: int) -> None:
    """Within a tenth of a second of crossing it, whenever it begins and though nobody takes a look."""
    for rest in (0.0, 0.07, 1.03, 60.0):
        machine = Machine(cores)
        ended: list[float] = []
        machine.watch.bound(limit_ms, lambda: ended.append(machine.now))  # noqa: B023 - called in here
        machine.run(rest, busy=0.0)
        machine.run(3, busy=cores)
        crossed = rest + limit_ms / 1000 / cores
        assert len(ended) == 1
        assert crossed <= ended[0] <= crossed + 0.1
        machine.watch.stop()
        assert machine.timers == []


def test_a_little_between_calls_is_not_counted() -> None:
    """A twentieth of a core, for as long as it likes; and what a call uses is charged to that alone."""
    machine = Machine()
    machine.watch.bound(100, lambda: machine.over.append("stray"))
    for _ in range(1000):
        charge = machine.watch.begin(None, lambda: None)
        machine.run(0.5)
        machine.watch.end(charge)
        machine.run(0.5, busy=0.09)
        machine.watch.look()
    for _ in range(10_000):  # one call after the other, and something to tidy up after each
        charge = machine.watch.begin(None, lambda: None)
        machine.run(0.0001)
        machine.watch.end(charge)
        machine.run(0.0001)
    machine.watch.look()
    assert machine.over == []
    for _ in range(10):
        machine.run(1, busy=0.2)
        machine.watch.look()
    assert machine.over == ["stray"]


def test_one_timer_serves_any_number_of_calls() -> None:
    """Calls that come and go cost no timer each."""
    machine = Machine()
    for _ in range(1000):
        machine.watch.end(machine.watch.begin(1000, lambda: machine.over.append("x")))
    assert len(machine.timers) == 1
    machine.run(100)
    assert machine.timers == []
    machine.watch.begin(1000, lambda: machine.over.append("later"))
    machine.run(1.01)
    assert machine.over == ["later"]


def test_a_process_that_is_gone_reads_as_zero_and_charges_nothing() -> None:
    """What has been read before stands."""
    machine = Machine()
    machine.run(5)
    charge = machine.watch.begin(1000, lambda: machine.over.append("x"))
    machine.cpu = 0.0
    machine.run(3, busy=0.0)
    assert charge.used == 0.0
    machine.watch.stop()
    assert machine.timers == []
    machine.run(100)
    assert machine.over == []


def test_ending_twice_and_after_the_end_is_harmless() -> None:
    """A call may end while its process does."""
    machine = Machine()
    charge = machine.watch.begin(10, lambda: machine.over.append("x"))
    machine.watch.stop()
    machine.watch.end(charge)
    machine.watch.end(charge)
    machine.watch.stop()
    assert machine.over == []


def test_calls_to_the_host_between_answers_are_counted_like_those_of_one() -> None:
    """And forgiven in time: what asks now and then may go on for ever."""
    machine = Machine()
    machine.watch.bound(None, lambda: None, 10)
    assert [machine.watch.ask() for _ in range(12)] == [True] * 10 + [False] * 2
    machine.run(600, busy=0)
    assert machine.watch.ask()
    for _ in range(100):
        machine.run(61, busy=0)
        assert machine.watch.ask()
    charge = machine.watch.begin(None, lambda: None, 3)
    assert [machine.watch.ask() for _ in range(4)] == [True] * 3 + [False]
    machine.watch.end(charge)
    machine.watch.bound(None, lambda: None)
    assert all(machine.watch.ask() for _ in range(1000))


def test_what_a_visit_uses_is_its_own_and_no_stray() -> None:
    """However often: each has a limit, and what the process does by itself has another."""
    machine = Machine()
    machine.watch.bound(100, lambda: machine.over.append("stray"))
    for _ in range(10):
        visit = machine.watch.begin(100, lambda: machine.over.append("visit"), visit=True)
        machine.run(0.09)
        machine.watch.end(visit)
    assert machine.over == []
    machine.watch.begin(100, lambda: machine.over.append("visit"), visit=True)
    machine.run(0.15)
    assert machine.over == ["visit"]
    machine.run(0.15)
    assert machine.over == ["visit", "stray"]


def test_many_visits_make_a_call_no_cheaper_than_one() -> None:
    """Or a tenant would have itself visited a thousand times, and use a thousand times its limit in one call."""
    machine = Machine()
    call = machine.watch.begin(1000, lambda: None)
    visits = [machine.watch.begin(1000, lambda: None, visit=True) for _ in range(100)]
    machine.run(0.1)
    machine.watch.look()
    assert call.used == pytest.approx(0.05)
    assert visits[0].used == pytest.approx(0.0005)


def test_what_a_visited_process_asks_for_is_the_visits() -> None:
    """And the call's alone, where there is one."""
    machine = Machine()
    machine.watch.bound(None, lambda: None, 1)
    visit = machine.watch.begin(None, lambda: None, 2, visit=True)
    assert [machine.watch.ask() for _ in range(3)] == [True, True, False]
    machine.watch.begin(None, lambda: None, 1)
    assert [machine.watch.ask() for _ in range(2)] == [True, False]
    assert visit.asked == 3


async def test_what_was_used_stays_used_when_the_process_is_gone(tenant: Any) -> None:
    """Whoever counts what a call took would find that it gave some back."""
    await tenant.do("def main(): return sum(range(3_000_000))")
    before = tenant.sandbox._watch.seen
    assert before > 0
    await tenant.sandbox.close("the test is over")
    assert tenant.sandbox.cpu_seconds() >= before
