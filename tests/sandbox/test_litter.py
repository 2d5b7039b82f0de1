"""Garbage that is collected while nobody waits."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from cloister.sandbox.litter import collect_young

MOST = 1000


@pytest.fixture
def collected() -> Iterator[list[int]]:
    """The generations that are collected from now on, by a collector that will not come by itself."""
    thresholds, was_on = gc.get_threshold(), gc.isenabled()
    generations: list[int] = []

    def hear(phase: str, about: dict[str, int]) -> None:
        if phase == "start":
            generations.append(about["generation"])

    gc.collect()
    gc.enable()
    gc.set_threshold(MOST, 3, 3)
    gc.callbacks.append(hear)
    yield generations
    gc.callbacks.remove(hear)
    gc.set_threshold(*thresholds)
    (gc.enable if was_on else gc.disable)()


def test_young_objects_are_looked_at_before_the_collector_comes_by_itself(collected: list[int]) -> None:
    """Not while there are few of them."""
    kept: list[list[int]] = [[] for _ in range(MOST // 4)]
    collect_young()
    assert collected == []
    kept += [[] for _ in range(MOST // 2)]
    collect_young()
    assert collected == [0]


def test_those_that_were_young_have_their_turn(collected: list[int]) -> None:
    """As often as the collector would look at them."""
    for _ in range(5):
        kept: list[list[int]] = [[] for _ in range(MOST * 3 // 4)]
        collect_young()
        del kept
    assert collected == [0, 0, 0, 0, 1]


def test_when_all_may_be_due_it_is_left_to_the_collector(collected: list[int]) -> None:
    """Which knows when that is worth its while; or else what is old would never be looked at."""
    for _ in range(100):
        kept: list[list[int]] = [[] for _ in range(MOST * 3 // 4)]
        collect_young()
        del kept
    assert collected.count(1) == 4
    assert gc.get_count()[2] > 3
    kept = [[] for _ in range(MOST * 2)]
    assert len(collected) > 20, "it has come by itself"
    del kept


@pytest.mark.parametrize("switch_off", [gc.disable, lambda: gc.set_threshold(0)])
def test_who_has_switched_it_off_is_obeyed(collected: list[int], switch_off: object) -> None:
    """Either way that there is."""
    assert callable(switch_off)
    switch_off()
    kept: list[list[int]] = [[] for _ in range(MOST * 2)]
    collect_young()
    assert collected == []
    del kept
