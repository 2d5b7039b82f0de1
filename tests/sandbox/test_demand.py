"""How many spares there should be: pure arithmetic on times that come in."""

from __future__ import annotations

import random

import pytest

from cloister.sandbox.demand import HALF_LIFE, MOMENT, Demand, most_here


def test_in_quiet_it_is_the_number_that_was_asked_for() -> None:
    """From the beginning, and for as long as takes are rare."""
    demand = Demand(4, 32)
    assert demand.wanted(0) == 4
    for second in range(0, 300, 2):
        demand.taken(second)
        assert demand.wanted(second) == 4


def test_a_burst_is_followed_at_once() -> None:
    """As many as were taken within a moment, and no more than the most there may be."""
    demand = Demand(4, 32)
    for _ in range(20):
        demand.taken(100)
    assert demand.wanted(100) == 20
    for _ in range(20):
        demand.taken(100)
    assert demand.wanted(100) == 32


def test_it_comes_down_slowly_and_all_the_way() -> None:
    """Half in each half-life, never up without a take, and to where it was."""
    demand = Demand(4, 32)
    for _ in range(32):
        demand.taken(0)
    wanted = [demand.wanted(second / 10) for second in range(600)]
    assert wanted == sorted(wanted, reverse=True)
    assert wanted[0] == 32
    assert wanted[round(HALF_LIFE * 10)] == 16
    assert wanted[round(HALF_LIFE * 20)] == 8
    assert wanted[-1] == 4


@pytest.mark.parametrize("rate", [1, 10, 50, 200])
def test_a_steady_rate_has_what_is_taken_in_a_moment(rate: int) -> None:
    """Whatever the intervals: evenly spread, or by chance."""
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    for evenly in (True, False):
        demand, now = Demand(1, 1000), 0.0
        for _ in range(rate * 20):
            now += 1 / rate if evenly else chance.expovariate(rate)
            demand.taken(now)
        assert rate * MOMENT * 0.8 <= demand.wanted(now) <= rate * MOMENT * 1.6 + 8, f"seed {seed}"


def test_where_no_spares_are_asked_for_there_are_none() -> None:
    """However many are taken."""
    demand = Demand(0, 32)
    for _ in range(100):
        demand.taken(0)
    assert demand.wanted(0) == 0


def test_more_may_be_asked_for_than_it_would_rise_to() -> None:
    """Then that is the number, always."""
    demand = Demand(8, 2)
    for _ in range(100):
        demand.taken(0)
    assert demand.wanted(0) == demand.wanted(1000) == 8


def test_a_time_that_was_passed_already_is_taken_for_now() -> None:
    """Nothing grows back."""
    demand = Demand(1, 32)
    for _ in range(10):
        demand.taken(100)
    assert demand.wanted(110) == 5
    assert demand.wanted(50) == 5


def test_every_machine_can_have_some() -> None:
    """At least one, and a number that somebody could count."""
    assert 1 <= most_here() <= 16_384
