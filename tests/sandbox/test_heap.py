"""Where a child's memory comes to lie, as far as it can be seen without a child."""

from __future__ import annotations

import dis
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path

from cloister.sandbox.guest import heap, layout


def _outer(number: int) -> Callable[[], int]:
    def inner() -> int:
        return number + 1

    return inner


def _other(number: int, *, by: int = 2) -> int:
    return number * by


def _plain(number: int) -> int:
    return number


def _call(number: int) -> int:
    return _plain(number)


def test_code_that_is_made_anew_does_what_it_did() -> None:
    """Functions within functions too, whose code is a constant of the one around them; and nobody else's changes."""
    outer, other = _outer.__code__, _other.__code__
    (inner,) = (each for each in outer.co_consts if isinstance(each, types.CodeType))
    layout.gather([inner, other])
    assert _outer.__code__ is not outer, "what is around a piece holds it"
    assert _other.__code__ is not other
    assert (_outer.__code__, _other.__code__) == (outer, other)
    assert _outer(4)() == 5
    assert _other(4) == 8
    again = _other.__code__
    layout.gather([_outer.__code__])
    assert _other.__code__ is again


def test_pieces_of_all_sizes_lie_beside_one_another() -> None:
    """In their order: the small ones are not sorted into pools of their sizes."""
    layout.fill_chunks()  # of which there would be room for one or the other
    functions = [_outer, _other, _call, test_what_is_given_back_is_the_kernels_again, Path.exists, Path.rename]
    layout.gather([function.__code__ for function in functions])
    places = [(id(function.__code__), sys.getsizeof(function.__code__)) for function in functions]
    assert places == sorted(places)
    (first, _), (last, size) = places[0], places[-1]
    assert last + size - first < 2 * sum(size for _, size in places)


def test_a_function_whose_code_was_made_anew_is_still_called_the_short_way() -> None:
    """Or else each call of it would be looked at anew, and the caller's code be written to."""
    layout.gather([_plain.__code__])
    for _ in range(1000):
        _call(3)
    assert "CALL_PY_EXACT_ARGS" in {each.opname for each in dis.get_instructions(_call, adaptive=True)}


def test_after_the_holes_are_filled_new_objects_lie_beside_the_heads_of_their_pools() -> None:
    """One page for both, where there would be two with a pool that is half full."""
    kept = layout.fill_holes()
    for size in range(256, 513, 16):  # smaller ones come and go with whatever is done
        kept.append(bytes(size - layout._HEADER))
        assert id(kept[-1]) % layout._POOL < 4096, size


def test_code_within_is_made_anew_with_what_is_around_it() -> None:
    """So that a function that is made later has the new one."""
    (before,) = (each for each in _outer.__code__.co_consts if isinstance(each, types.CodeType))
    layout.gather([before])
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
