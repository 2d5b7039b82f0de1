"""When the threads of all sandboxes are counted: when there are many more on the machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from cloister.sandbox import LimitExceeded, SandboxError
from cloister.sandbox.crowds import EVERY, MANY, Crowds, on_this_machine, pause
from cloister.sandbox.footprint import Footprint
from cloister.sandbox.policy import Limits


def crowds(*numbers: int | Exception) -> Crowds:
    found: Iterator[int | Exception] = iter(numbers)

    def threads() -> int:
        number = next(found)
        if isinstance(number, Exception):
            raise number
        return number

    return Crowds(threads)


def test_many_more_at_once_are_a_crowd_and_few_are_none() -> None:
    """However many there were."""
    several = crowds(1000, 1000 + MANY - 1, 1000 + MANY)
    assert [several.grown() for _ in range(3)] == [False, False, True]


def test_many_that_come_little_by_little_are_a_crowd() -> None:
    """As many as come in a second would be too many in a minute."""
    several = crowds(*range(1000, 1000 + 2 * MANY + 1, MANY // 8))
    assert [several.grown() for _ in range(17)].count(True) == 2


def test_they_are_counted_once_for_each_growth() -> None:
    """Whose they are is known then, and counting costs the more the more sandboxes there are."""
    several = crowds(1000, 2000, 2000, 2001)
    assert [several.grown() for _ in range(4)] == [False, True, False, False]


def test_those_that_have_gone_make_no_room_for_others() -> None:
    """What counts is how many there were at least."""
    several = crowds(5000, 1000, 1000 + MANY)
    assert [several.grown() for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize("error", [FileNotFoundError(), ValueError(), IndexError()])
def test_where_nobody_knows_how_many_there_are_nothing_is_a_crowd(error: Exception) -> None:
    """They are counted when each is looked at."""
    several = crowds(1000, error, 1000 + MANY)
    assert [several.grown() for _ in range(3)] == [False, False, True]


def test_the_kernel_says_how_many_there_are() -> None:
    """Of all processes, this one's among them."""
    assert on_this_machine() > 1


def test_a_host_does_not_spend_its_time_with_counting() -> None:
    """Threads that come and go within what each may have are a crowd again and again, and there may be thousands of
    sandboxes."""
    assert pause(0.0) == EVERY
    assert pause(1.0) >= 4.0


def test_of_a_crowd_the_threads_are_counted_and_nothing_else() -> None:
    """The tables of its pages, which take ten times as long to look at, do not grow with it."""

    class Crowded:
        def threads(self) -> int:
            return 33

    ended: list[SandboxError] = []
    process: Any = Crowded()
    footprint = Footprint(process, None, ended.append)
    footprint.bound(Limits(threads=32))
    footprint.count()
    assert [(type(end), str(end)) for end in ended] == [(LimitExceeded, "the sandbox exceeded 32 threads")]
