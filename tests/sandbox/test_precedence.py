"""A process that computes gives way, for as long as it does and no longer."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloister.sandbox.precedence import WINDOW, Precedence

Until = Callable[[Callable[[], object]], Any]


class Machine:
    """A clock, CPU time and timers, moved by hand; and a process that is told what to give way to."""

    def __init__(self) -> None:
        self.now = self.cpu = self.spent = 0.0
        self.calls = 0
        self.told: list[bool] = []
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.precedence = Precedence(
            lambda: self.cpu,
            lambda: self.now,
            lambda when, what: self.timers.append((when, what)),
            busy=lambda: self.calls > 0,
            give_way=self.told.append,
            spent=lambda: self.spent,
        )

    def call(self) -> None:
        self.calls += 1
        self.precedence.begin()

    def pass_time(self, windows: int, *, busy: float, had: float = 1.0) -> None:
        for _ in range(windows):
            self.now += WINDOW
            self.cpu += WINDOW * busy
            self.spent += WINDOW * busy * had
            due = [timer for timer in self.timers if timer[0] <= self.now]
            self.timers = [timer for timer in self.timers if timer[0] > self.now]
            for _, what in due:
                what()


def test_who_only_answers_gives_way_to_nobody() -> None:
    """Short work and long waits; and it is not looked at when nothing is asked of it."""
    machine = Machine()
    machine.call()
    machine.pass_time(20, busy=0.4)
    machine.calls = 0
    machine.pass_time(1, busy=0.4)
    assert (machine.told, machine.timers) == ([], [])


def test_who_only_wants_a_core_is_not_said_to_have_one() -> None:
    """Where cores are short everybody has to wait for one, which is no reason to give a tenant another process."""
    machine = Machine()
    machine.call()
    machine.pass_time(4, busy=1.0, had=0.2)
    assert (machine.told, machine.precedence.computes) == ([True], False)
    machine.pass_time(4, busy=1.0)
    assert machine.precedence.computes
    machine.calls = 0
    machine.pass_time(2, busy=0.1)
    assert not machine.precedence.computes


def test_who_is_to_end_gives_way_to_nobody() -> None:
    """Neither to its death nor later, and it is looked at no more."""
    machine = Machine()
    machine.call()
    machine.pass_time(4, busy=1.0)
    assert machine.told == [True]
    machine.precedence.stop()
    machine.pass_time(4, busy=1.0)
    assert (machine.told, machine.timers) == ([True, False], [])


def test_who_computes_gives_way_once_and_until_it_rests() -> None:
    """Two threads count like one that is twice as busy."""
    for busy in (0.6, 1.0, 2.0):
        machine = Machine()
        machine.call()
        machine.pass_time(10, busy=busy)
        assert machine.told == [True]
        machine.pass_time(1, busy=0.0)
        assert machine.told == [True, False]


def test_a_new_call_goes_first_again() -> None:
    """It is not to wait for what the one before it did."""
    machine = Machine()
    machine.call()
    machine.pass_time(1, busy=1.0)
    machine.call()
    assert machine.told == [True, False]
    machine.pass_time(2, busy=1.0)
    assert machine.told == [True, False, True]
    assert len(machine.timers) == 1


def test_what_computes_after_its_answer_gives_way_too() -> None:
    """It goes on being looked at while it does, though nothing is asked of it."""
    machine = Machine()
    machine.call()
    machine.calls = 0
    machine.pass_time(10, busy=1.0)
    assert machine.told == [True]
    machine.pass_time(1, busy=0.0)
    assert (machine.told, machine.timers) == ([True, False], [])


def test_nothing_is_done_when_the_process_is_gone() -> None:
    """A look that was due finds nobody."""
    machine = Machine()
    machine.call()
    machine.precedence.stop()
    machine.pass_time(3, busy=1.0)
    assert (machine.told, machine.timers) == ([], [])


def test_what_is_seen_at_a_look_may_be_its_end() -> None:
    """Then it goes first again, and nobody looks any more."""
    machine = Machine()
    machine.precedence._on_look = machine.precedence.stop
    machine.call()
    machine.pass_time(3, busy=1.0)
    assert (machine.told, machine.timers) == ([], [])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may undo it")
async def test_a_sandbox_that_spins_gives_way_with_all_its_threads(tenant: Any, until: Until) -> None:
    """To every process that does not, until it is called again."""
    source = """
    import threading
    def spin():
        while not over: pass
    over = []
    def main():
        threading.Thread(target=spin).start()
        spin()
    """
    spinning = asyncio.ensure_future(tenant.do(source))

    def priorities() -> list[int]:
        threads = Path(f"/proc/{tenant.sandbox.pid}/task").iterdir()
        return [os.getpriority(os.PRIO_PROCESS, int(thread.name)) for thread in threads]

    def share_of_the_session() -> int | None:
        group = Path(f"/proc/{tenant.sandbox.pid}/autogroup")
        return int(group.read_text().split()[-1]) if group.exists() else None

    grouped = share_of_the_session() is not None
    await until(lambda: (priorities(), share_of_the_session()) == ([10, 10], 10 if grouped else None))
    tenant.sandbox._precedence.begin()
    assert priorities() == [0, 0]
    assert share_of_the_session() == (0 if grouped else None)
    spinning.cancel()
    await tenant.sandbox.close("enough")


def test_who_would_compute_if_it_could_gives_way_too() -> None:
    """With more of them than cores nobody has half of one; having waited counts like having had it."""
    machine = Machine()
    machine.call()
    machine.pass_time(3, busy=0.25 + 0.6)  # what it had, and what it waited for
    assert machine.told == [True]


async def test_waiting_for_a_core_is_seen(tenant: Any, until: Until) -> None:
    """From outside, by what the kernel knows of the process."""
    process = tenant.sandbox._process
    assert process.wanted_seconds() >= process.cpu_seconds()
    process.kill()
    await until(lambda: tenant.sandbox.died.done())
    assert process.wanted_seconds() == 0.0


async def test_nothing_is_done_to_a_process_that_has_ended(tenant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number may be another's by now."""
    told: list[object] = []
    monkeypatch.setattr("os.setpriority", lambda *what: told.append(what))
    process = tenant.sandbox._process
    process.give_way(True)
    assert len(told) == 1
    process.kill()
    await tenant.sandbox.close("enough")
    process.give_way(True)
    assert len(told) == 1


def turns_of(pid: int) -> list[str]:
    """In nanoseconds; nothing where the kernel does not say."""
    told = Path(f"/proc/{pid}/sched")
    lines = told.read_text().splitlines() if told.exists() else []
    return [line.rpartition(":")[2].strip() for line in lines if line.startswith("se.slice")]


async def test_a_sandbox_has_a_core_for_short_turns(tenant: Any) -> None:
    """So that whoever only answers waits for a tenth of a millisecond and not for three, where the kernel knows how."""
    assert turns_of(tenant.sandbox.pid) in (["100000"], [])
