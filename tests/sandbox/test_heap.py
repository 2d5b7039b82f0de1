"""Where a child's memory comes to lie, as far as it can be seen without a child."""

from __future__ import annotations

import os
import types
from collections.abc import Callable
from pathlib import Path

from cloister.sandbox.guest import heap


def _outer(number: int) -> Callable[[], int]:
    def inner() -> int:
        return number + 1

    return inner


def _other(number: int, *, by: int = 2) -> int:
    return number * by


def test_code_that_is_made_anew_does_what_it_did() -> None:
    """Functions within functions too, whose code is a constant of the one around them; and nobody else's changes."""
    outer, other = _outer.__code__, _other.__code__
    (inner,) = (each for each in outer.co_consts if isinstance(each, types.CodeType))
    heap.gather([inner, other])
    assert _outer.__code__ is not outer, "what is around a piece holds it"
    assert _other.__code__ is not other
    assert (_outer.__code__, _other.__code__) == (outer, other)
    assert _outer(4)() == 5
    assert _other(4) == 8
    again = _other.__code__
    heap.gather([_outer.__code__])
    assert _other.__code__ is again


def test_code_within_is_made_anew_with_what_is_around_it() -> None:
    """So that a function that is made later has the new one."""
    (before,) = (each for each in _outer.__code__.co_consts if isinstance(each, types.CodeType))
    heap.gather([before])
    assert _outer(1).__code__ is not before
    (after,) = (each for each in _outer.__code__.co_consts if isinstance(each, types.CodeType))
    assert _outer(1).__code__ is after


def test_what_is_given_back_is_the_kernels_again() -> None:
    """What lies between things that are still used, too: the C library gives back by itself only what comes last."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    taken = [bytes(3000) for _ in range(10_000)]
    last = bytes(3000)
    before = resident()
    del taken
    heap.give_back()
    assert resident() < before - 20_000_000
    assert len(last) == 3000
