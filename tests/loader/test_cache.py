"""`PinnedLRU`: what is in use stays, what was used longest ago goes first, and there are never too many."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cloister.loader.cache import PinnedLRU


class Entry:
    """Whatever a loader keeps: known by identity."""


def filled(*keys: str, size: int = 3) -> PinnedLRU[str, Entry]:
    """A cache in which these keys are idle, the first used longest ago."""
    cache: PinnedLRU[str, Entry] = PinnedLRU(size)
    for key in keys:
        entry = Entry()
        cache.add(key, entry)
        cache.unpin(key, entry)
    return cache


def leaves_first(cache: PinnedLRU[str, Entry]) -> list[str]:
    """The keys of the idle entries in the order in which they leave a full cache."""
    order = []
    while (leaver := cache.make_room()[1]) is not None:
        order.append(leaver[0])
        cache.add(f"after {leaver[0]}", Entry())
    return order


def test_the_least_recently_used_leaves_first() -> None:
    """Using an entry moves it to the end of the queue."""
    cache = filled("a", "b", "c")
    entry = cache.pin("a")
    assert entry is not None
    cache.unpin("a", entry)
    assert leaves_first(cache) == ["b", "c", "a"]


def test_nothing_in_use_can_leave() -> None:
    """With all in use there is no room, and nobody has to go for there to be."""
    cache = filled("a", "b", size=2)
    cache.pin("a")
    cache.pin("b")
    assert cache.make_room() == (False, None)
    assert cache.pinned == 2


def test_an_entry_is_in_use_until_its_last_user_lets_go() -> None:
    """Pins are counted."""
    cache = filled("a", size=1)
    entry = cache.pin("a")
    assert entry is not None
    assert cache.pin("a") is entry
    cache.unpin("a", entry)
    assert cache.make_room() == (False, None)
    cache.unpin("a", entry)
    assert cache.make_room() == (True, ("a", entry))


def test_adding_without_room_is_a_mistake() -> None:
    """The bound holds even against the one who keeps it."""
    cache = filled("a", size=1)
    with pytest.raises(OverflowError):
        cache.add("b", Entry())


def test_letting_go_of_what_was_removed_brings_nothing_back() -> None:
    """Nor does it touch what has the same key by now."""
    cache = filled(size=1)
    old, new = Entry(), Entry()
    cache.add("a", old)
    assert cache.remove("a", old)
    assert not cache.remove("a", old)
    cache.add("a", new)
    cache.unpin("a", old)
    assert cache.pinned == 1
    assert not cache.remove("a", old)
    assert cache.pin("a") is new


@settings(max_examples=150, stateful_step_count=40, deadline=None, database=None)
class Model(RuleBasedStateMachine):
    """The cache beside a plain list: idle keys in order of use, and a count of pins for the others."""

    keys = st.sampled_from("abcde")

    @initialize(size=st.integers(1, 4))
    def begin(self, size: int) -> None:
        self.cache: PinnedLRU[str, Entry] = PinnedLRU(size)
        self.entries: dict[str, Entry] = {}
        self.idle: list[str] = []
        self.pins: dict[str, int] = {}

    @rule(key=keys)
    def pin(self, key: str) -> None:
        found = self.cache.pin(key)
        assert found is self.entries.get(key)
        if found is not None:
            if key in self.idle:
                self.idle.remove(key)
            self.pins[key] = self.pins.get(key, 0) + 1

    @precondition(lambda self: self.pins)
    @rule(data=st.data())
    def unpin(self, data: Any) -> None:
        key = data.draw(st.sampled_from(sorted(self.pins)))
        self.cache.unpin(key, self.entries[key])
        self.pins[key] -= 1
        if not self.pins[key]:
            del self.pins[key]
            self.idle.append(key)

    @rule(key=keys)
    def boot(self, key: str) -> None:
        """What a loader does for a key that it has not got."""
        if key in self.entries:
            return
        fits, leaver = self.cache.make_room()
        if len(self.entries) < self.cache.maxsize:
            assert (fits, leaver) == (True, None)
        elif self.idle:
            gone = self.idle.pop(0)
            assert (fits, leaver) == (True, (gone, self.entries.pop(gone)))
        else:
            assert (fits, leaver) == (False, None)
        if fits:
            self.entries[key] = Entry()
            self.pins[key] = 1
            self.cache.add(key, self.entries[key])

    @rule(key=keys)
    def remove(self, key: str) -> None:
        """An eviction by name, or a death: in use or not."""
        entry = self.entries.pop(key, None)
        assert self.cache.remove(key, entry or Entry()) is (entry is not None)
        self.pins.pop(key, None)
        if key in self.idle:
            self.idle.remove(key)

    @rule(key=keys)
    def a_stale_user_lets_go(self, key: str) -> None:
        self.cache.unpin(key, Entry())

    @invariant()
    def the_cache_is_what_the_model_says(self) -> None:
        if not hasattr(self, "cache"):
            return
        assert len(self.cache) <= self.cache.maxsize
        assert dict(self.cache) == self.entries
        assert self.cache.pinned == len(self.pins)


test_the_cache_behaves_like_its_model = Model.TestCase
