"""A process that computes gives way, for as long as it does and no longer, and not to the point of getting nothing."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloister.sandbox.lockdown.shares import Rank
from cloister.sandbox.precedence import GLANCE, SOON, WINDOW, Precedence
from cloister.sandbox.process import Process

Until = Callable[[Callable[[], object]], Any]
FIRST, BEHIND, LITTLE = Rank.FIRST, Rank.BEHIND, Rank.LITTLE


class Machine:
    """A clock, CPU time and timers, moved by hand; and a process that is told what to give way to."""

    def __init__(self) -> None:
        self.now = self.cpu = self.spent = 0.0
        self.calls = 0
        self.told: list[Rank] = []
        self.stays: list[bool] = []
        self.waits = False
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.precedence = Precedence(
            lambda: self.cpu,
            lambda: self.now,
            lambda when, what: self.timers.append((when, what)),
            busy=lambda: self.calls > 0,
            rank=self.told.append,
            spent=lambda: self.spent,
            waits=lambda: self.waits,
            stay=self.stays.append,
        )

    @staticmethod
    def read_nothing(path: str) -> bytes:
        raise OSError(errno.EMFILE, path)

    def call(self) -> None:
        self.calls += 1
        self.precedence.begin()
        self.turn()

    def turn(self) -> None:
        """Of the loop: what is due now is done."""
        due = [timer for timer in self.timers if timer[0] <= self.now]
        self.timers = [timer for timer in self.timers if timer[0] > self.now]
        for _, what in due:
            what()

    def pass_time(self, windows: float, *, busy: float, had: float = 1.0) -> None:
        while windows > 0:
            passed = WINDOW * min(windows, 1)
            windows -= 1
            self.now += passed
            self.cpu += passed * busy
            self.spent += passed * busy * had
            self.turn()


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
    assert (machine.told, machine.precedence.computes) == ([BEHIND], False)
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
    assert machine.told == [BEHIND]
    machine.precedence.stop()
    machine.pass_time(4, busy=1.0)
    assert (machine.told, machine.timers) == ([BEHIND, FIRST], [])


def test_who_computes_gives_way_once_and_until_it_rests() -> None:
    """Two threads count like one that is twice as busy."""
    for busy in (0.6, 1.0, 2.0):
        machine = Machine()
        machine.call()
        machine.pass_time(10, busy=busy)
        assert machine.told == [BEHIND]
        machine.pass_time(1, busy=0.0)
        assert machine.told == [BEHIND, FIRST]


def test_a_new_call_goes_first_again() -> None:
    """It is not to wait for what the one before it did."""
    machine = Machine()
    machine.call()
    machine.pass_time(1, busy=1.0)
    machine.call()
    assert machine.told == [BEHIND, FIRST]
    machine.pass_time(2, busy=1.0)
    assert machine.told == [BEHIND, FIRST, BEHIND]
    assert len(machine.timers) == 1


def test_call_after_call_does_not_keep_anybody_first() -> None:
    """Each is over before it would be seen, and the next one begins: that is work without a rest as well."""
    machine = Machine()
    for _ in range(50):
        machine.call()
        machine.pass_time(0.2, busy=1.0)
    assert machine.told == [BEHIND, FIRST, BEHIND]
    machine.pass_time(1, busy=0.0)
    machine.pass_time(1, busy=1.0)
    machine.call()
    assert machine.told == [BEHIND, FIRST, BEHIND, FIRST, BEHIND, FIRST]


def test_what_a_call_took_is_not_held_against_who_rests_after_it() -> None:
    """It goes first when nobody asks anything of it; who is seen to compute a whole window long unasked does not."""
    for glances in (GLANCE, SOON):
        machine = Machine()
        machine.call()
        machine.pass_time(glances / WINDOW, busy=0.9)
        machine.calls = 0
        machine.pass_time(glances / WINDOW, busy=0.9)
        machine.pass_time(2, busy=0.0)
        assert (machine.told[-1:], machine.timers) == ([FIRST], [])
    machine.call()
    machine.calls = 0
    machine.pass_time(4, busy=1.0)
    machine.pass_time(2, busy=0.0)
    assert (machine.told[-1:], machine.timers) == ([BEHIND], [])


def test_who_waits_for_a_core_after_its_answer_is_not_said_to_compute_unasked() -> None:
    """On a busy machine it takes long to tidy up; who has had half a window for itself in all is blamed."""
    for windows, told in ((4, FIRST), (12, BEHIND)):
        machine = Machine()
        machine.call()
        machine.pass_time(GLANCE / WINDOW, busy=0.3)
        machine.calls = 0
        machine.pass_time(windows, busy=1.0, had=0.05)
        assert BEHIND in machine.told
        machine.pass_time(2, busy=0.0)
        assert (machine.told[-1], machine.timers) == (told, [])


def test_who_answers_much_has_a_core_for_that() -> None:
    """However busy it is: each that is asked of it is short. With as few answers for as much, it computes."""
    for answers, told in ((60, []), (40, [BEHIND, LITTLE])):
        machine = Machine()
        machine.call()
        machine.pass_time(SOON / WINDOW, busy=0.1)
        for _ in range(2):
            for _ in range(answers):
                machine.precedence.answered()
            machine.pass_time(1, busy=1.0, had=0.05)
        assert machine.told == told
        machine.pass_time(1, busy=1.0)
        assert machine.told[-1] is BEHIND, "what was answered before counts no more"


def test_who_gives_way_and_waits_all_the_time_has_not_rested() -> None:
    """The kernel counts a wait when it is over, and some last for longer than a window."""
    machine = Machine()
    machine.call()
    machine.pass_time(1, busy=1.0)
    machine.waits = True
    machine.pass_time(3, busy=0.0)
    assert machine.told == [BEHIND, LITTLE, BEHIND, LITTLE]
    machine.waits = False
    machine.pass_time(1, busy=0.0)
    assert machine.told[-1] is FIRST


def test_who_goes_first_is_not_put_behind_for_a_moment_at_work() -> None:
    """It may have woken up just now."""
    machine = Machine()
    machine.waits = True
    machine.call()
    machine.pass_time(3, busy=0.1)
    assert machine.told == []


def test_who_was_seen_to_compute_unasked_goes_first_only_when_asked() -> None:
    """While nothing is asked of it nobody looks, and it would only have to wait for that."""
    machine = Machine()
    machine.call()
    machine.calls = 0
    machine.pass_time(1, busy=0.0)
    assert (machine.told, machine.timers) == ([], [])
    machine.precedence.look()
    machine.pass_time(2, busy=1.0)
    assert machine.told == [BEHIND]
    machine.pass_time(1, busy=0.0)
    assert (machine.told[-1], machine.timers) == (BEHIND, [])
    machine.call()
    assert machine.told[-1] is FIRST
    machine.precedence.stop()
    machine.pass_time(1, busy=1.0)
    machine.precedence.look()
    assert machine.timers == []


def test_what_computes_after_its_answer_gives_way_too() -> None:
    """It goes on being looked at while it does, though nothing is asked of it."""
    machine = Machine()
    machine.call()
    machine.calls = 0
    machine.pass_time(10, busy=1.0)
    assert machine.told == [BEHIND]
    machine.pass_time(1, busy=0.0)
    assert (machine.told[-1], machine.timers) == (BEHIND, [])


def test_nothing_is_done_when_the_process_is_gone() -> None:
    """A look that was due finds nobody."""
    machine = Machine()
    machine.call()
    machine.precedence.stop()
    machine.pass_time(3, busy=1.0)
    assert (machine.told, machine.timers) == ([], [])


def test_a_call_is_looked_at_only_once_it_has_been_sent() -> None:
    """Reading what the process has used takes as long as sending, and somebody waits for that; one look is enough for
    calls that begin together."""
    machine = Machine()
    read: list[float] = []
    machine.precedence._spent = lambda: read.append(machine.now) or 0.0  # type: ignore[func-returns-value]
    machine.precedence.begin()
    machine.precedence.begin()
    assert (read, len(machine.timers)) == ([], 1)
    machine.turn()
    assert (read, len(machine.timers)) == ([0.0], 1)


def test_who_has_just_begun_is_not_said_to_keep_a_core_busy() -> None:
    """It gives way at the first look; but its tenant gets another process only for what a whole window shows."""
    machine = Machine()
    machine.call()
    machine.pass_time(SOON / WINDOW, busy=1.0)
    assert (machine.told, machine.precedence.computes) == ([Rank.BEHIND], False)
    machine.pass_time(1, busy=1.0)
    assert machine.precedence.computes


def test_what_is_seen_at_a_look_may_be_its_end() -> None:
    """Then it goes first again, and nobody looks any more."""
    machine = Machine()
    machine.precedence._on_look = machine.precedence.stop
    machine.call()
    machine.pass_time(3, busy=1.0)
    assert (machine.told, machine.timers) == ([], [])


def test_who_computes_is_seen_soon() -> None:
    """At a glance, where it had a core; where it had to wait, at the first look. Of a tenant that was never seen,
    nothing else is known."""
    machine = Machine()
    machine.call()
    machine.pass_time(GLANCE / WINDOW, busy=1.0)
    assert machine.told == [BEHIND]
    machine = Machine()
    machine.call()
    machine.pass_time(GLANCE / WINDOW, busy=1.0, had=0.3)
    assert machine.told == []
    machine.pass_time(SOON / WINDOW, busy=1.0, had=0.3)
    assert machine.told == [BEHIND]


def test_who_has_answered_by_then_is_not_looked_at_closely() -> None:
    """Which costs the host as much as sending does; but for one that could go on, or was put behind before."""
    looks: list[float] = []
    machine = Machine()
    machine.precedence._cpu = lambda: looks.append(machine.now) or 0.0  # type: ignore[func-returns-value]
    machine.call()
    machine.calls = 0
    machine.pass_time(GLANCE / WINDOW, busy=0.3)
    assert (machine.told, machine.timers, looks) == ([], [], [])
    machine.call()
    machine.calls, machine.waits = 0, True
    machine.pass_time(GLANCE / WINDOW, busy=0.3)
    assert looks
    machine = Machine()
    machine.call()
    machine.pass_time(3, busy=1.0)
    machine.call()
    machine.calls = 0
    machine.pass_time(GLANCE / WINDOW, busy=0.0)
    assert machine.timers


def test_who_gives_way_and_gets_nothing_is_let_on_now_and_then() -> None:
    """Every other window: a machine may have more to do than cores for hours, and its call is to end one day."""
    machine = Machine()
    machine.call()
    machine.pass_time(GLANCE / WINDOW, busy=1.0, had=0.0)
    machine.pass_time(5, busy=1.0, had=0.0)
    assert machine.told == [BEHIND, LITTLE, BEHIND, LITTLE, BEHIND]
    machine.pass_time(1, busy=0.0)
    assert machine.told[-1] is FIRST


def test_who_gives_way_and_gets_a_part_goes_on_giving_way() -> None:
    """A tenth of a core is enough."""
    machine = Machine()
    machine.call()
    machine.pass_time(5, busy=1.0, had=0.11)
    assert machine.told == [BEHIND]


def test_who_gives_way_stays_on_its_core_until_it_goes_first_again() -> None:
    """Because it rests, is asked again, or is to end: each core that it came to would owe it a turn."""
    over: list[Callable[[Machine], object]] = [
        lambda machine: machine.pass_time(1, busy=0.0),
        lambda machine: machine.call(),
        lambda machine: machine.precedence.stop(),
    ]
    for end in over:
        for first in (GLANCE / WINDOW, 1):
            machine = Machine()
            machine.call()
            machine.pass_time(first, busy=1.0)
            assert machine.stays == [True]
            machine.pass_time(10, busy=1.0, had=0.8)
            assert machine.stays == [True]
            end(machine)
            assert machine.stays == [True, False]


def test_who_has_too_little_of_what_it_wants_may_go_where_there_is_more() -> None:
    """Three quarters are enough, and it stays where it has them. Who is let on may go anywhere."""
    for had in (0.7, 0.05):
        machine = Machine()
        machine.call()
        machine.pass_time(GLANCE / WINDOW, busy=1.0)
        machine.pass_time(4, busy=1.0, had=had)
        assert machine.stays == [True, False]
        machine.pass_time(1, busy=1.0)
        assert machine.stays == [True, False, True]


def test_threads_that_use_several_cores_are_not_to_share_one() -> None:
    """Nor are those that would, if they had them."""
    machine = Machine()
    machine.call()
    machine.pass_time(GLANCE / WINDOW, busy=2.0)
    machine.pass_time(4, busy=2.0)
    assert machine.stays == []
    machine.pass_time(4, busy=1.0)
    assert machine.stays == [True]
    machine.pass_time(1, busy=4.0, had=0.25)
    assert machine.stays == [True, False]


def test_threads_that_share_a_core_and_want_more_are_let_go_now_and_then() -> None:
    """Whether they would use more, or have to wait for each other anyway, shows only where they have room."""
    machine = Machine()
    machine.call()
    machine.pass_time(GLANCE / WINDOW, busy=1.0)
    assert machine.stays == [True]
    machine.pass_time(9, busy=1.3, had=1 / 1.3)
    assert machine.stays == [True]
    machine.pass_time(1, busy=1.3, had=1 / 1.3)
    assert machine.stays == [True, False]
    machine.pass_time(20, busy=1.6)
    assert machine.stays == [True, False]
    machine.pass_time(1, busy=1.0)
    assert machine.stays == [True, False, True]


SPIN = """
import threading
def spin():
    while not over: pass
over = []
def main():
    threading.Thread(target=spin).start()
    spin()
"""


def is_idle(group: Any) -> bool:
    """Whether the kernel has it that way."""
    return Path(group.share, "cpu.idle").read_text() == "1\n"


async def rests(sandbox: Any, until: Until) -> None:
    """It has done with all that its boot took, and goes first."""
    await until(lambda: not sandbox._precedence._looking)
    assert sandbox._precedence._rank is FIRST, "however long its import took"


async def test_a_sandbox_that_spins_gets_what_nobody_else_wants(tenant: Any, until: Until) -> None:
    """All its threads, until it is called again."""
    group = tenant.sandbox._footprint._group
    if group is None or not group.share:
        pytest.skip("no control group of this machine can be put behind the others")
    await rests(tenant.sandbox, until)
    assert not is_idle(group)
    spinning = asyncio.ensure_future(tenant.do(SPIN))
    await until(lambda: is_idle(group))
    tenant.sandbox._precedence.begin()
    assert not is_idle(group)
    spinning.cancel()
    await tenant.sandbox.close("enough")


async def test_the_next_sandbox_of_a_slot_is_behind_nobody(tenant: Any, until: Until) -> None:
    """Its control group is as new as soon as the slot is free, whatever the last one died of."""
    group = tenant.sandbox._footprint._group
    if group is None or not group.share:
        pytest.skip("no control group of this machine can be put behind the others")
    group.rank(BEHIND)
    tenant.sandbox._precedence._rank = BEHIND
    free: list[bool] = []
    give_back = tenant.sandbox.ended

    def ended(*what: Any) -> None:
        give_back(*what)
        free.append(not is_idle(group))

    tenant.sandbox.ended = ended
    signal.pidfd_send_signal(tenant.sandbox._process._pidfd, signal.SIGKILL)
    await until(lambda: free)
    assert free == [True]


async def test_a_sandbox_that_spins_stays_on_a_core_with_all_its_threads(tenant: Any, until: Until) -> None:
    """Until it is called again: then it has those that it had. When it is told to is the machine's business."""
    before = os.sched_getaffinity(0)

    def cores() -> list[set[int]]:
        threads = Path(f"/proc/{tenant.sandbox.pid}/task").iterdir()
        return [os.sched_getaffinity(int(thread.name)) for thread in threads]

    precedence = tenant.sandbox._precedence
    await rests(tenant.sandbox, until)
    assert cores() == [before]
    spinning = asyncio.ensure_future(tenant.do(SPIN))
    await until(lambda: len(cores()) == 2)
    precedence._decide(BEHIND)
    precedence._stay(True)
    one, other = cores()
    assert one == other
    assert len(one) == 1
    precedence.begin()
    assert cores() == [before, before]
    spinning.cancel()
    await tenant.sandbox.close("enough")


def test_threads_that_are_made_meanwhile_are_told_where_to_be_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who made them may not have been told yet. Who makes some without end is left at that."""
    process = Process(os.pidfd_open(os.getpid()))
    told: list[int] = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda thread, _cores: told.append(thread))
    for most, of_these in ((3, [1, 2, 3]), (1000, [1, 2, 3, 4, 5, 6, 7, 8])):
        told.clear()
        listed = ([str(number) for number in range(1, min(made, most) + 1)] for made in itertools.count(1))
        monkeypatch.setattr(process, "_threads", listed.__next__)
        process.stay(True)
        assert told == of_these
    process.close()


CORES = """
import concurrent.futures, multiprocessing, os
def main():
    of_process = getattr(os, "process_cpu_count", os.cpu_count)()
    of_machine = [os.sysconf(name) for name in ("SC_NPROCESSORS_ONLN", os.sysconf_names["SC_NPROCESSORS_CONF"])]
    workers = concurrent.futures.ThreadPoolExecutor()._max_workers
    cores = sorted(os.sched_getaffinity(0))
    return [os.cpu_count(), of_process, multiprocessing.cpu_count(), *of_machine, workers, cores]
"""


async def test_who_stays_on_a_core_counts_as_many_as_before(tenant: Any, until: Until) -> None:
    """Or whoever has threads for each would have one for good."""
    await rests(tenant.sandbox, until)
    cores = sorted(os.sched_getaffinity(0))
    expected = [len(cores)] * 5 + [min(32, len(cores) + 4), cores]
    tenant.sandbox._process.stay(True)
    assert len(os.sched_getaffinity(tenant.sandbox.pid)) == 1
    assert await tenant.do(CORES) == expected
    tenant.sandbox._process.stay(False)
    assert await tenant.do(CORES) == expected


async def test_who_is_to_stay_no_longer_is_told_so_whatever_the_host_lacks(
    tenant: Any, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have no descriptor left to look with."""
    await rests(tenant.sandbox, until)
    process, before = tenant.sandbox._process, os.sched_getaffinity(tenant.sandbox.pid)
    process.stay(True)
    with monkeypatch.context() as patched:
        patched.setattr("cloister.sandbox.process.kernel.read", Machine.read_nothing)
        process.stay(False)
    assert os.sched_getaffinity(tenant.sandbox.pid) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may undo it")
async def test_where_no_group_can_be_put_behind_a_nice_value_says_it(tenant: Any, until: Until) -> None:
    """Of all its threads, and of its session where the kernel gives each session its share."""
    await rests(tenant.sandbox, until)
    tenant.sandbox._precedence._tell = tenant.sandbox._process.rank
    spinning = asyncio.ensure_future(tenant.do(SPIN))

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
    assert machine.told == [BEHIND]


@pytest.mark.parametrize(("user", "limit", "may"), [(0, 0, True), (1000, 0, False), (1000, 20, True), (1000, -1, True)])
async def test_it_is_known_whether_a_nice_value_can_be_taken_back(
    tenant: Any, monkeypatch: pytest.MonkeyPatch, user: int, limit: int, may: bool
) -> None:
    """By root of the machine, or where the limit lets everybody."""
    monkeypatch.setattr("cloister.sandbox.process._rules_priorities", lambda: user == 0)
    monkeypatch.setattr("resource.getrlimit", lambda _: (limit, limit))
    assert tenant.sandbox._process.may_rise() is may


async def test_what_is_for_good_is_not_said_of_a_first_import(
    open_spawner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked at for a whole window first, where there is only a nice value and no way back."""
    monkeypatch.setattr("cloister.sandbox.lockdown.cgroups.Groups._share", lambda *_: "")
    async with open_spawner() as spawner:
        for may, soon in ((True, SOON), (False, WINDOW)):
            monkeypatch.setattr("cloister.sandbox.process.Process.may_rise", lambda _, may=may: may)
            assert (await spawner.take())._precedence._soon == soon


async def test_waiting_for_a_core_is_seen(tenant: Any, until: Until) -> None:
    """From outside, by what the kernel knows of the process."""
    process = tenant.sandbox._process
    assert process.wanted_seconds() >= process.cpu_seconds()
    process.kill()
    await until(lambda: tenant.sandbox.died.done())
    assert [process.wanted_seconds() for _ in range(2)] == [0.0, 0.0]


async def test_who_has_had_no_core_is_not_looked_at_again(tenant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Most looks are at somebody who waits for an answer: its clock tells as much."""
    process = tenant.sandbox._process
    monkeypatch.setattr(process, "cpu_seconds", lambda: 1.0)
    looks: list[int] = []

    def threads() -> int:
        looks.append(1)
        return 1

    monkeypatch.setattr(process, "threads", threads)
    found = [process.wanted_seconds() for _ in range(3)]
    assert found[0] >= 1.0
    assert found == [found[0]] * 3
    assert len(looks) == 1
    monkeypatch.setattr(process, "cpu_seconds", lambda: 1.001)
    assert process.wanted_seconds() >= found[0] + 0.001
    assert len(looks) == 2


BESIDE = """
import asyncio, hashlib, threading
def work():
    while True:
        hashlib.sha256(bytes(100_000))
async def main():
    for _ in range(2):
        threading.Thread(target=work, daemon=True).start()
    await asyncio.sleep(600)
"""


async def test_the_waiting_of_every_thread_is_seen(tenant: Any, until: Until) -> None:
    """A program may work in threads beside its first one, which does nothing."""
    process = tenant.sandbox._process
    tenant.sandbox._precedence._tell_to_stay = lambda _: None  # nor to go where there is room
    working = asyncio.ensure_future(tenant.do(BESIDE))
    await until(lambda: process.threads() == 3)
    core = min(os.sched_getaffinity(0))
    for thread in process._threads():
        os.sched_setaffinity(int(thread), {core})
    await until(lambda: process.wanted_seconds() - process.cpu_seconds() > 0.05 and process.waits())
    working.cancel()
    await tenant.sandbox.close("enough")


LATER = """
import asyncio, threading
def work():
    while True: pass
async def wait():
    await env.WAIT()
    threading.Thread(target=work, daemon=True).start()
def main():
    ctx.wait_until(wait())
"""


async def test_who_computes_when_nobody_looks_is_found_out(boot: Any, until: Until) -> None:
    """It begins long after its answer; some look at all that live comes by now and then."""
    gate, told = asyncio.Event(), list[Rank]()
    tenant = await boot(env={"WAIT": gate.wait})
    sandbox = tenant.sandbox
    await tenant.do(LATER)
    await rests(sandbox, until)
    sandbox._precedence._tell = told.append
    sandbox.tend()
    assert not sandbox._precedence._looking
    before = sandbox.cpu_seconds()
    gate.set()
    await until(lambda: sandbox.cpu_seconds() > before + 0.2)
    sandbox.tend()
    await until(lambda: told)
    assert told[0] is BEHIND, "and on a busy machine a little from time to time"
    await sandbox.close("enough")


async def test_who_waits_with_computing_until_nobody_looks_is_found_out_at_its_next_call(
    tenant: Any, until: Until
) -> None:
    """Else it could have a core between its calls, for as long as those come; a little is nobody's concern."""
    sandbox = tenant.sandbox
    for used, strays in ((0.01, False), (3600.0, True)):
        await tenant.do("def main(): pass")
        used += sandbox._watch.seen
        sandbox._watch._cpu = lambda used=used: used
        sandbox._watch.seen_at -= 1  # of a moment nothing is asked: nobody can have used much in it
        await tenant.do("def main(): pass")
        assert sandbox._precedence._strays is strays
    await until(lambda: sandbox._precedence._rank is BEHIND)
    await sandbox.close("enough")


async def test_threads_that_sleep_are_not_all_looked_at(tenant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program may have dozens, and the host looks every few milliseconds; one that uses a core is seen."""
    process, looked = tenant.sandbox._process, list[int]()
    cpu = 1.0
    monkeypatch.setattr(process, "cpu_seconds", lambda: cpu)
    monkeypatch.setattr(process, "threads", lambda: 30)

    def threads(_: int | None = None) -> list[str]:  # without when somebody asks whether it waits
        looked.append(1)
        return [str(process.pid)]

    monkeypatch.setattr(process, "_threads", threads)
    for _ in range(5):
        assert process.wanted_seconds() >= 1.0
    assert len(looked) == 1
    cpu = 1.001
    assert process.wanted_seconds() >= 1.001
    assert len(looked) == 2


async def test_a_thread_that_has_ended_takes_nothing_of_it_along(tenant: Any) -> None:
    """What was waited for has been waited for: a long life that ends would look like a rest."""
    process = tenant.sandbox._process
    process._waits, process._waited = {"1": 10**12}, 10**12
    assert process.wanted_seconds() >= 1000


async def test_nothing_is_done_to_a_process_that_has_ended(tenant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number may be another's by now."""
    told: list[object] = []
    monkeypatch.setattr("os.setpriority", lambda *what: told.append(what))
    process = tenant.sandbox._process
    process.rank(BEHIND)
    assert len(told) == 1
    process.kill()
    await tenant.sandbox.close("enough")
    process.rank(BEHIND)
    assert len(told) == 1


def turns_of(pid: int) -> list[str]:
    """In nanoseconds; nothing where the kernel does not say."""
    told = Path(f"/proc/{pid}/sched")
    lines = told.read_text().splitlines() if told.exists() else []
    return [line.rpartition(":")[2].strip() for line in lines if line.startswith("se.slice")]


async def test_a_sandbox_has_a_core_for_short_turns(tenant: Any) -> None:
    """So that whoever only answers waits for a tenth of a millisecond and not for three, where the kernel knows how."""
    assert turns_of(tenant.sandbox.pid) in (["100000"], [])
