"""Large frames on their way: bounded in all, at the cost of who keeps others out for the longest."""

from __future__ import annotations

from collections.abc import Callable

from cloister.ipc.arriving import A_WHILE, LONG, Arriving

MIB = 1 << 20


class Time:
    """Told by the test; what is to be called later is called when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0
        self.later: list[Callable[[], None]] = []

    def arriving(self, most: int) -> Arriving:
        """Of this time."""
        return Arriving(lambda: self.now, lambda _, what: self.later.append(what), most)

    def pass_by(self, seconds: float) -> None:
        """And whoever wanted to look does."""
        self.now += seconds
        later, self.later = self.later, []
        for look in later:
            look()


class Guest:
    """One that begins large frames."""

    def __init__(self, time: Time, arriving: Arriving, *, held: bool = False) -> None:
        self._time, self._arriving, self._held = time, arriving, held
        self.inside = self.ended = False
        self.began = 0.0

    def begin(self, size: int) -> bool:
        """Whether there is room."""
        self.began = self._time.now
        self.inside = self._arriving.begin(self, size)
        return self.inside

    def unfinished_for(self) -> float:
        """Since it began."""
        return self._time.now - self.began

    def held_for(self) -> float:
        """As the test says."""
        return 1.0 if self._held else 0.0

    def let_in(self) -> None:
        """It has room."""
        self.inside, self.began = True, self._time.now

    def cut_short(self) -> None:
        """It is ended."""
        self.ended = True
        self._arriving.end(self)


def test_who_finds_no_room_waits_its_turn() -> None:
    """Also behind one that is larger: else that one would wait for ever."""
    time = Time()
    arriving = time.arriving(10 * MIB)
    first, large, small = (Guest(time, arriving) for _ in range(3))
    assert first.begin(6 * MIB)
    assert not large.begin(5 * MIB)
    assert not small.begin(MIB)
    arriving.end(first)
    assert (large.inside, small.inside) == (True, True)


def test_who_is_silent_leaves_when_others_wait_the_longest_silent_first() -> None:
    """And nobody more than have to; who sends something stays."""
    time = Time()
    arriving = time.arriving(10 * MIB)
    longest, lately, sends = (Guest(time, arriving) for _ in range(3))
    for guest in (longest, lately, sends):
        assert guest.begin(3 * MIB)
        time.pass_by(0.1)
    time.pass_by(2 * A_WHILE)
    assert not longest.ended
    arriving.go_on(sends)
    late = Guest(time, arriving)
    assert not late.begin(3 * MIB)
    time.pass_by(A_WHILE / 2)
    assert late.inside
    assert [guest.ended for guest in (longest, lately, sends)] == [True, False, False]
    assert not Guest(time, arriving).begin(3 * MIB)
    time.pass_by(A_WHILE / 2)
    assert [guest.ended for guest in (lately, sends)] == [True, False]


def test_who_sends_too_little_to_come_to_an_end_leaves_too() -> None:
    """However often it sends something."""
    time = Time()
    arriving = time.arriving(4 * MIB)
    slow, waits = Guest(time, arriving), Guest(time, arriving)
    assert slow.begin(3 * MIB)
    assert not waits.begin(3 * MIB)
    passed = 0.0
    while not slow.ended:
        arriving.go_on(slow)
        time.pass_by(A_WHILE / 2)
        passed += A_WHILE / 2
    assert LONG < passed <= LONG + A_WHILE
    assert waits.inside


def test_who_is_not_listened_to_is_not_to_blame() -> None:
    """It is the host that keeps it from going on."""
    time = Time()
    arriving = time.arriving(4 * MIB)
    held, waits = Guest(time, arriving, held=True), Guest(time, arriving)
    assert held.begin(3 * MIB)
    assert not waits.begin(3 * MIB)
    for _ in range(20):
        time.pass_by(A_WHILE)
    assert not held.ended


def test_nobody_is_looked_at_while_nobody_waits() -> None:
    """A host at rest does nothing."""
    time = Time()
    arriving = time.arriving(4 * MIB)
    first, waits = Guest(time, arriving), Guest(time, arriving)
    first.begin(3 * MIB)
    assert time.later == []
    waits.begin(3 * MIB)
    assert len(time.later) == 1
    arriving.end(waits)
    time.pass_by(10 * A_WHILE)
    assert time.later == []
    assert not first.ended
