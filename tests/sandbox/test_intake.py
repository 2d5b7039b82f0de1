"""What a sandbox sends: slowed down to its share, whatever it is, and ended for what nobody waits for. No clock."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cloister.ipc.codec import MARKS
from cloister.ipc.messages import Call, Cancel, Failure, Goodbye, Hello, Message, Note, Release, Result
from cloister.sandbox.guest.output import LONG, MAX_LINE, MAX_LINES
from cloister.sandbox.intake import LONGEST, MESSAGE, UNAWAITED, Intake
from cloister.sandbox.meter import Meter

MIB = 1 << 20
RATE = 12 * MIB  # two thousand messages, and three MiB that nobody waits for


class Sender:
    """An intake, the time, and what has come of it."""

    def __init__(self, *, holds: bool = True) -> None:
        self.now = 0.0
        self.held: list[float] = []
        self.ended: list[str] = []
        self._holds = holds
        self.intake = Intake(RATE, lambda: self.now, hold=self._hold, end=self.ended.append)

    def _hold(self, seconds: float) -> bool:
        self.held.append(seconds)
        return self._holds

    def wait(self) -> None:
        """For as long as it is held."""
        if self.held:
            self.now += self.held[-1]
            self.held.clear()

    def say(self, kind: type[Message], count: int = 1, size: int = 100) -> None:
        """So many messages, waiting whenever that is asked for. A note is a line of a log."""
        for _ in range(count):
            self.intake.message(MARKS[kind], size, line=kind is Note)
            self.wait()


def test_a_meter_says_how_long_it_takes_until_what_was_drawn_has_come() -> None:
    """What was lacking is owed, and comes in first."""
    now = [0.0]
    meter = Meter(100, lambda: now[0], most=50)
    assert [meter.draw(50), meter.draw(10), meter.draw(10)] == [0.0, 0.1, 0.2]
    now[0] = 0.1
    assert meter.draw(10) == pytest.approx(0.2)
    now[0] = 1000.0
    assert [meter.draw(50 + 20), meter.draw(1)] == [0.2, 0.21], "a rest is no more credit than it holds"


@pytest.mark.parametrize("kind", [Call, Release])
def test_messages_are_taken_at_a_rate_and_as_many_at_once_as_may_wait_for_an_answer(kind: type[Message]) -> None:
    """Beyond, whoever sends them has to wait; what counts is how many they are."""
    sender = Sender()
    for _ in range(1024):
        sender.intake.message(MARKS[kind], 10)
    assert sender.held == []
    sender.intake.message(MARKS[kind], 10)
    assert sender.held == [pytest.approx(MESSAGE / RATE)]


@pytest.mark.parametrize("kind", [Note, Cancel])
def test_a_burst_of_what_nobody_waits_for_is_taken_at_a_pace(kind: type[Message]) -> None:
    """However many may come at once, the host has most of its time for the others; and nobody is ended for it."""
    sender = Sender()
    sender.say(kind, 32)
    assert sender.now == 0.0
    sender.say(kind, 400)
    assert sender.now == pytest.approx(400 / 16_000)
    sender.now += 1
    sender.say(kind, 32)
    assert (sender.held, sender.ended) == ([], [])


@pytest.mark.parametrize("kind", [Note, Cancel])
def test_who_cannot_be_held_back_is_not_ended_for_the_pace_nor_given_more(kind: type[Message]) -> None:
    """What it may send in all is what counts there."""
    sender = Sender(holds=False)
    sent = 0
    while not sender.ended:
        sender.intake.message(MARKS[kind], 100, line=kind is Note)
        sent += 1
    share = RATE / 4 / (UNAWAITED + 100)
    assert sent == int(share * (1.25 if kind is Note else 1)) + 1


def test_calls_and_what_is_let_go_of_are_slowed_down_and_nothing_worse() -> None:
    """However long it goes on: no more of them than may be in flight wait, and what is let go of has been granted."""
    sender = Sender()
    sender.say(Call, 100_000, size=200)
    sender.say(Release, 100_000, size=17)
    assert sender.ended == []
    assert sender.now == pytest.approx((200_000 - 1024) * MESSAGE / RATE)


def test_answers_count_their_bytes_and_nothing_else() -> None:
    """The host has asked for them, and takes as many as it asks for."""
    sender = Sender()
    for mark in (MARKS[Result], MARKS[Failure]):
        assert Intake.refusal(mark, 16 * MIB) is None
    for _ in range(12):
        sender.intake.arrived(MIB)
    assert sender.held == []
    sender.intake.arrived(MIB)
    assert sender.held == [pytest.approx(1 / 12)]


def test_who_goes_on_with_what_nobody_waits_for_is_ended() -> None:
    """Although it waits whenever it has to; a quarter of all that it may send can be of that kind."""
    sender = Sender()
    sender.say(Note, 10_000)
    assert sender.ended[0] == (
        "sent more than 3,145,728 bytes in a second that nobody waits for, where a message counts 4,096 besides"
    )
    at_once = RATE / 4 * 1.25 / (100 + UNAWAITED)
    sender = Sender()
    sender.say(Note, int(at_once))
    for _ in range(10_000):
        sender.now += (100 + UNAWAITED) / (RATE / 4)
        sender.say(Note)
    assert sender.ended == []


@pytest.mark.parametrize("mark", [MARKS[Cancel], MARKS[Note]], ids=["taken back", "in the background"])
def test_what_comes_to_nothing_is_slowed_down_to_a_smaller_share(mark: int) -> None:
    """A program may give up as many calls as it likes, and have as much begin and end after its answers."""
    sender = Sender()
    for _ in range(10_000):
        sender.intake.message(mark, 100)
        sender.wait()
    assert sender.ended == []
    assert sender.now == pytest.approx(10_000 * (100 + UNAWAITED) / (RATE / 4) - 1, rel=0.01)


def test_a_guest_that_prints_without_end_keeps_below_it() -> None:
    """As many lines as its own end lets through, at the worst moments: all of two seconds' at once."""
    for length in (10, LONG - 1, 3 * LONG, MAX_LINE):
        sender = Sender()
        sender.intake.bound(64 * MIB)
        lines = MAX_LINES // (1 + length // LONG)
        for second in (0.999, 1.0, 2.999, 3.0, *map(float, range(4, 60))):
            sender.now = max(sender.now, second)
            sender.say(Note, lines, size=length + 50)
        assert sender.ended == []


@pytest.mark.parametrize("size", [0, 100_000])
def test_calls_that_come_to_nobody_are_slowed_down_so_too(size: int) -> None:
    """A program that does not stop at an error gets as many as it likes, but not as fast as calls that are answered."""
    sender = Sender()
    for _ in range(10_000):
        sender.say(Call, size=size)
        sender.intake.arrived(size)
        sender.wait()
        sender.intake.refused(size)
        sender.wait()
    assert sender.ended == []
    assert sender.now >= 10_000 * (size + UNAWAITED) / (RATE / 4) - 1


def test_one_command_is_a_heartbeat_and_many_are_a_flood() -> None:
    """They are answered, and cost as much as a message."""
    sender = Sender()
    for _ in range(100_000):
        sender.intake.commands(1)
    assert (sender.held, sender.ended) == ([], [])
    sender.intake.commands(1000)
    assert len(sender.ended) == 1


def test_what_costs_the_host_more_than_its_bytes_is_charged_for() -> None:
    """Pieces of a byte, values of many elements, chains of many calls."""
    charges: list[tuple[Callable[[Intake], None], int]] = [
        (lambda intake: intake.arrived(1), RATE // 2048),
        (lambda intake: intake.read(16 + 4096), 12),
        (lambda intake: intake.chain(1 + 2048), 12),
    ]
    for charge, times in charges:
        sender = Sender()
        for _ in range(times):
            charge(sender.intake)
        assert sender.held == []
        charge(sender.intake)
        assert len(sender.held) == 1
    sender = Sender()
    for _ in range(1_000_000):
        sender.intake.read(16)
        sender.intake.chain(1)
    assert sender.held == []


def test_who_cannot_be_held_back_is_ended_instead() -> None:
    """Where something else moves the bytes, which does not wait."""
    sender = Sender(holds=False)
    sender.say(Call, 1025)
    assert sender.ended == ["sent more than 12,582,912 bytes in a second, where a message counts 6,144 besides"]


def test_a_message_that_is_too_long_for_its_kind_is_known_by_its_head() -> None:
    """Before any of it is kept. Only calls and answers carry what tenants send."""
    for kind in (Hello, Cancel, Release, Note, Goodbye):
        assert Intake.refusal(MARKS[kind], LONGEST) is None
        assert Intake.refusal(MARKS[kind], LONGEST + 1) == f"a {kind.__name__} of 65,537 bytes"
    assert Intake.refusal(99, LONGEST + 1) == "a frame of an unknown kind of 65,537 bytes"
    assert Intake.refusal(MARKS[Call], 16 * MIB) is None


def test_another_rate_begins_anew() -> None:
    """A blank sandbox gets its tenant's limits."""
    sender = Sender()
    sender.intake.bound(2 * MIB)
    sender.intake.arrived(2 * MIB)
    assert sender.held == []
    sender.intake.arrived(MIB)
    assert sender.held == [0.5]


def test_what_it_is_answered_with_counts_as_what_it_sends() -> None:
    """Beyond what its call has paid for: a short call may ask for much."""
    sender = Sender()
    for _ in range(1000):
        sender.intake.answered(MESSAGE)
    assert sender.now == 0.0
    for _ in range(4):
        sender.intake.answered(6 * MIB + MESSAGE)
        sender.wait()
    assert sender.now == pytest.approx(1.0)


def test_visits_count_as_messages() -> None:
    """Whoever has been given a function can have it answer without end."""
    sender = Sender()
    for _ in range(3000):
        sender.intake.visited(1)
        sender.wait()
    assert sender.now == pytest.approx((3000 - 1024) / (RATE / MESSAGE), rel=0.01)


def test_nobody_is_ended_for_what_others_ask_of_it_or_for_what_it_was_given() -> None:
    """Where it cannot be slowed down, it is not, and owes nothing."""
    sender = Sender(holds=False)
    for _ in range(3000):
        sender.intake.visited(2)
        sender.intake.answered(MIB)
    sender.intake.message(MARKS[Call], 100)
    sender.intake.arrived(8192)
    assert not sender.ended
