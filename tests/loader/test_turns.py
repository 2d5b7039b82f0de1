"""Who is next where tenants take turns: `FairQueue` by weight, and `Turns`, which bounds what goes on at once."""

from __future__ import annotations

import asyncio
import itertools
import weakref
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.loader import LoaderError, NoCapacity, Quota
from cloister.loader.fair import FairQueue
from cloister.loader.tenants import Tenant
from cloister.loader.turns import Calls, Turns

LONG = 1000.0


def filled(lengths: dict[str, int], weights: dict[str, float] | None = None) -> FairQueue[str, tuple[str, int]]:
    """A queue in which each owner has so many items."""
    queue: FairQueue[str, tuple[str, int]] = FairQueue()
    for owner, length in lengths.items():
        for number in range(length):
            queue.push(owner, (owner, number), (weights or {}).get(owner, 1.0))
    return queue


def order(queue: FairQueue[str, tuple[str, int]]) -> list[tuple[str, int]]:
    """All items in the order of their turns."""
    found = []
    while (turn := queue.pop()) is not None:
        found.append(turn[1])
    return found


def tenant(name: str, **quota: float) -> Tenant:
    """A record of its own."""
    return Tenant(name, Quota(**quota), 0.0)  # type: ignore[arg-type]


def never() -> LoaderError:
    """For waits that do not last."""
    return NoCapacity("waited for ever")


def test_a_long_line_costs_the_others_one_turn_each() -> None:
    """Ten thousand of one and one each of three: these are among the first four, whenever they came."""
    queue = filled({"greedy": 10_000, "a": 1, "b": 1, "c": 1})
    assert {owner for owner, _ in order(queue)[:4]} == {"greedy", "a", "b", "c"}


def test_each_line_keeps_its_order() -> None:
    """Within one owner, first come is first served."""
    found = order(filled({"a": 5, "b": 5}))
    for owner in "ab":
        assert [number for name, number in found if name == owner] == list(range(5))


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from("abcd"), st.sampled_from([0.5, 1.0, 2.0, 3.0, 7.0]), min_size=2))
def test_turns_are_had_by_weight(weights: dict[str, float]) -> None:
    """While all have something, each has had its share, give or take a turn."""
    queue = filled(dict.fromkeys(weights, 400), weights)
    had: Counter[str] = Counter()
    for number in itertools.count(1):
        turn = queue.pop()
        assert turn is not None
        had[turn[0]] += 1
        if max(had.values()) == 400:
            break
        for owner, weight in weights.items():
            share = number * weight / sum(weights.values())
            assert abs(had[owner] - share) <= len(weights)


def test_who_comes_back_at_once_has_no_more_turns_than_who_stays() -> None:
    """One item at a time or all at once is the same: neither saves turns up nor jumps the queue."""
    queue = filled({"patient": 50})
    queue.push("hasty", ("hasty", 0))
    had: Counter[str] = Counter()
    for number in range(40):
        turn = queue.pop()
        assert turn is not None
        had[turn[0]] += 1
        if turn[0] == "hasty":
            queue.push("hasty", ("hasty", number + 1))
    assert abs(had["hasty"] - had["patient"]) <= 1


def test_who_was_away_has_saved_nothing_up() -> None:
    """After a hundred turns of others, it has its share and not a hundred turns in a row."""
    queue = filled({"a": 200, "b": 1})
    for _ in range(101):
        queue.pop()
    for number in range(50):
        queue.push("b", ("b", number))
    assert Counter(owner for owner, _ in order(queue)[:20])["b"] <= 11


def test_who_may_not_is_passed_over_until_it_is_woken() -> None:
    """And loses nothing by it."""
    queue = filled({"a": 2, "b": 1})
    assert queue.pop(lambda owner: owner != "a") == ("b", ("b", 0))
    assert queue.pop() is None
    queue.wake("a")
    assert order(queue) == [("a", 0), ("a", 1)]


def test_a_crowd_that_comes_once_costs_each_turn_the_same_and_is_forgotten() -> None:
    """A million tenants may come one after the other, while others wait and the lowest mark stays where it is."""

    class Owner:
        looked_up = 0

        def __hash__(self) -> int:
            type(self).looked_up += 1
            return id(self)

    queue: FairQueue[Owner, int] = FairQueue()
    seen: weakref.WeakSet[Owner] = weakref.WeakSet()
    crowd = 20_000
    for number in range(crowd + 100):
        owner = Owner()
        seen.add(owner)
        queue.push(owner, number)
        if number >= 100:
            assert queue.pop() is not None
    del owner
    assert type(next(iter(seen))).looked_up < 30 * crowd
    assert len(seen) < crowd / 2


def test_a_turn_that_was_in_vain_is_had_again_first() -> None:
    """It goes back to the front of its line, and its line to the front of all."""
    queue = filled({"a": 3, "b": 3})
    turn = queue.pop()
    assert turn is not None
    queue.push(turn[0], turn[1], first=True)
    assert queue.pop() == turn


def test_what_is_removed_has_no_turn() -> None:
    """And leaves nothing behind, however often."""
    queue = filled({"a": 2})
    assert queue.remove("a", ("a", 0))
    assert not queue.remove("a", ("a", 0))
    assert not queue.remove("nobody", ("a", 0))
    assert (len(queue), order(queue)) == (1, [("a", 1)])
    for number in range(10_000):
        owner = f"t{number}"
        queue.push(owner, (owner, 0))
        queue.remove(owner, (owner, 0))
    assert len(queue._heap) + len(queue._left) < 500


async def test_at_most_so_many_are_inside_and_the_rest_come_in_by_turns() -> None:
    """Two at once; who leaves lets the next one in."""
    turns, one, other = Turns(2), tenant("one"), tenant("other")
    await turns.enter(one, LONG, never)
    await turns.enter(one, LONG, never)
    waiting = [asyncio.ensure_future(turns.enter(who, LONG, never)) for who in (one, one, other)]
    await asyncio.sleep(0)
    assert (turns.inside, turns.waiting) == (2, 3)
    turns.leave(one)
    turns.leave(one)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [task.done() for task in waiting] == [True, False, True]
    turns.leave(one)
    await asyncio.gather(*waiting)
    assert (turns.inside, turns.waiting, one.waiting) == (2, 0, 0)


async def test_who_waits_too_long_is_told_so_and_takes_nobodys_turn() -> None:
    """The refusal is the caller's own."""
    turns, who = Turns(1), tenant("t")
    await turns.enter(who, LONG, never)
    with pytest.raises(NoCapacity, match="in vain"):
        await turns.enter(who, 0.0, lambda: NoCapacity("in vain"))
    late = asyncio.ensure_future(turns.enter(who, LONG, never))
    await asyncio.sleep(0)
    turns.leave(who)
    await late
    assert (turns.inside, turns.waiting) == (1, 0)


async def test_a_turn_that_comes_for_somebody_who_has_given_up_goes_to_the_next() -> None:
    """Cancelled before its turn, or at the very moment of it."""
    turns, who = Turns(1), tenant("t")
    await turns.enter(who, LONG, never)
    gone, moment, last = (asyncio.ensure_future(turns.enter(who, LONG, never)) for _ in range(3))
    await asyncio.sleep(0)
    gone.cancel()
    turns.leave(who)  # the turn of the second, who gives up before it has noticed
    moment.cancel()
    await last
    assert (turns.inside, turns.waiting, who.waiting) == (1, 0, 1 if not gone.done() else 0)
    turns.leave(who)
    assert turns.inside == 0


async def test_a_tenant_at_its_own_ceiling_keeps_nobody_else_out() -> None:
    """Its calls wait; the others' come in, and its own when one of its own has left."""
    calls, busy, other = Calls(10), tenant("busy", concurrency=1), tenant("other")
    await calls.enter(busy, LONG, never)
    waiting = asyncio.ensure_future(calls.enter(busy, LONG, never))
    await asyncio.sleep(0)
    await calls.enter(other, LONG, never)
    calls.leave(other)
    await asyncio.sleep(0)
    assert not waiting.done()
    calls.leave(busy)
    await waiting
    assert (calls.inside, busy.calls, other.calls) == (1, 1, 0)
