"""What guests leave unread: bounded in all, at the cost of who has read nothing for the longest."""

from __future__ import annotations

import math

from cloister.ipc.unread import A_WHILE, LONG, MUCH, Unread


class Guest:
    """One that has something unread."""

    def __init__(self, all_of_them: Unread, taken: float, behind: float = math.inf) -> None:
        self.taken, self.behind = taken, behind
        self._size, self._all, self.left = 0, all_of_them, False

    def unread(self) -> int:
        """How much."""
        return self._size

    def have(self, size: int) -> None:
        """So much more."""
        self._size += size
        self._all.more(self, size)

    def give_up(self) -> None:
        """It leaves."""
        self.left = True
        size, self._size = self._size, 0
        self._all.less(self, size)


def test_who_has_read_nothing_for_the_longest_leaves_first() -> None:
    """And nobody more than have to."""
    now = 100.0
    unread = Unread(lambda: now, 10 * MUCH)
    guests = [Guest(unread, now - A_WHILE - waited) for waited in (1, 3, 2)]
    for guest in guests:
        guest.have(3 * MUCH)
    assert not any(guest.left for guest in guests)
    late = Guest(unread, now)
    late.have(3 * MUCH)
    assert [guest.left for guest in (*guests, late)] == [False, True, False, False]


def test_who_reads_or_has_little_unread_stays() -> None:
    """Whatever the others do."""
    now = 100.0
    unread = Unread(lambda: now, 4 * MUCH)
    reads, little, idle = Guest(unread, now - A_WHILE / 2), Guest(unread, 0.0), Guest(unread, 1.0)
    reads.have(2 * MUCH)
    little.have(MUCH)
    idle.have(2 * MUCH)
    assert [guest.left for guest in (reads, little, idle)] == [False, False, True]
    assert unread.refuses(reads, 2 * MUCH)
    assert not unread.refuses(little, 2 * MUCH)
    assert not unread.refuses(reads, MUCH)


def test_who_reads_so_little_that_it_never_comes_to_an_end_leaves_too() -> None:
    """After those who read nothing; whoever has had much unread for the longest is the first."""
    now = 100.0
    unread = Unread(lambda: now, 9 * MUCH)
    lately, long, longest = (Guest(unread, now, now - LONG - waited) for waited in (-1, 1, 2))
    for guest in (lately, long, longest):
        guest.have(3 * MUCH)
    idle = Guest(unread, now - A_WHILE - 1, now - 1)
    idle.have(3 * MUCH)
    assert [guest.left for guest in (lately, long, longest, idle)] == [False, False, False, True]
    for _ in range(3):
        Guest(unread, now, now).have(3 * MUCH)
    assert [guest.left for guest in (lately, long, longest)] == [False, True, True]
