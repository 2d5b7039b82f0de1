"""What failed is left alone for a while, and what a version stood for is known again: `Backoff` and `Constancy`."""

from __future__ import annotations

from typing import Any

import pytest

from cloister.loader import Data, Json, LoadFailed, Text, VersionChanged, WorkerCode
from cloister.loader.backoff import Backoff
from cloister.loader.constancy import Constancy, Difference, Print

A = "x = 1\n"


def code(modules: dict[str, Any] | None = None, **options: Any) -> WorkerCode:
    """Some code with these modules beside the main one."""
    return WorkerCode(main_module="main.py", modules={"main.py": A, **(modules or {})}, **options)


def delays(backoff: Backoff[str], count: int) -> list[float]:
    """How long a key is left alone after each failure in a row."""
    found = []
    for _ in range(count):
        backoff.failed("t", OSError("x"), 100.0)
        last = backoff.last("t")
        assert last is not None
        found.append(last.until - 100.0)
    return found


def test_each_failure_in_a_row_doubles_the_wait_up_to_the_longest() -> None:
    """And however many there are, it stays there."""
    assert delays(Backoff(0.05, 0.3, 10), 5) == pytest.approx([0.05, 0.1, 0.2, 0.3, 0.3])
    assert delays(Backoff(0.05, 30.0, 10), 2000)[-1] == 30.0


def test_what_loads_is_forgiven() -> None:
    """The next failure is the first one again."""
    backoff: Backoff[str] = Backoff(1.0, 30.0, 10)
    delays(backoff, 3)
    backoff.forget("t")
    assert backoff.last("t") is None
    assert delays(backoff, 1) == [1.0]


def test_rare_failures_cost_nothing_and_quiet_forgives() -> None:
    """The first ones are free, and each is forgiven by and by, from when it might have been tried again."""
    backoff: Backoff[str] = Backoff(1.0, 4.0, 10, free=2, forgiven_s=10.0)

    def fail(now: float) -> float:
        backoff.failed("t", OSError("x"), now)
        last = backoff.last("t")
        assert last is not None
        return last.until - now

    assert [fail(0.0) for _ in range(6)] == [0.0, 0.0, 1.0, 2.0, 4.0, 4.0]
    assert backoff.waiting(3.9) == 1
    assert backoff.waiting(4.0) == 0
    assert fail(13.0) == 4.0  # it has been quiet for less than it takes
    assert fail(17.0 + 20.0) == 1.0  # two of four are forgiven
    assert fail(38.0 + 40.0) == 0.0
    assert [fail(78.0 + 10.0 * number) for number in range(1, 9)] == [0.0] * 8  # one in ten seconds is rare


def test_what_has_gone_wrong_for_long_is_forgiven_as_fast_as_what_just_became_bad() -> None:
    """Beyond the longest wait it weighs no more."""
    backoff: Backoff[str] = Backoff(1.0, 4.0, 10, free=2, forgiven_s=10.0)
    delays(backoff, 1000)
    last = backoff.last("t")
    assert last is not None
    assert (last.count, last.weight) == (1000, 4)


def test_no_more_failures_are_remembered_than_there_is_room_for() -> None:
    """A million broken tenants are no way to fill the host's memory."""
    backoff: Backoff[int] = Backoff(1.0, 30.0, 100)
    for number in range(1000):
        backoff.failed(number, OSError("x"), 0.0)
    assert len(backoff) == 100
    assert backoff.last(999) is not None


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ({"a.py": A}, {"a.py": "y = 2\n"}, "changed a.py"),
        ({"a.py": A}, {"b.py": A}, "added b.py; removed a.py"),
        ({"a": Text("1")}, {"a": Data(b"1")}, "changed a"),
        ({"a": Json({"b": 1})}, {"a": Json({"b": 2})}, "changed a"),
        ({"a": Data(b"1"), "b": Data(b"2")}, {"a": Data(b"2"), "b": Data(b"1")}, "changed a, b"),
    ],
)
def test_a_difference_names_the_modules(old: dict[str, Any], new: dict[str, Any], words: str) -> None:
    """Those that changed, came or went; what they hold is told to nobody."""
    assert str(Difference.between(Print.of(code(old)), Print.of(code(new)))) == words


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"compatibility_date": "2026-01-01"}, "other compatibility_date"),
        ({"compatibility_flags": ("a",)}, "other compatibility_flags"),
        ({"preload": ("json",)}, "other preload"),
        ({"preload": ("json",), "compatibility_flags": ("a",)}, "other compatibility_flags, preload"),
    ],
)
def test_what_is_no_module_differs_too(option: dict[str, Any], words: str) -> None:
    """All that the digest covers, each by its name."""
    assert str(Difference.between(Print.of(code()), Print.of(code(**option)))) == words


def test_another_main_module_is_a_difference() -> None:
    """Even where no module differs."""
    modules = {"main.py": A, "other.py": A}
    old, new = (WorkerCode(main_module=name, modules=modules) for name in modules)
    assert str(Difference.between(Print.of(old), Print.of(new))) == "other main_module"


def test_a_difference_of_thousands_names_a_few() -> None:
    """And says how many more there are; what it knows is all of it."""
    many = {f"{number:04}{'x' * 200}.py": A for number in range(5000)}
    difference = Difference.between(Print.of(code()), Print.of(code(many)))
    assert len(difference.added) == 5000
    assert len(str(difference)) < 1000
    assert str(difference).startswith("added 0000xxx")
    assert str(difference).endswith("… and 4,992 more")


def test_bindings_and_limits_are_no_difference() -> None:
    """They are live, and come anew with each boot. Nor is the order of flags or modules."""
    one = code({"a.py": A, "b.py": A}, compatibility_flags=("x", "y"), env={"A": 1})
    other = code({"b.py": A, "a.py": A}, compatibility_flags=("y", "x"), env={"B": object()})
    assert one.digest == other.digest
    assert Print.of(one) == Print.of(other)


def test_a_version_stands_for_one_code() -> None:
    """Other code under its name is refused, again and again, and the first goes on being right."""
    constancy: Constancy[str] = Constancy(10)
    constancy.hold("key", "t", "7", code({"a.py": A}))
    for _ in range(2):
        with pytest.raises(VersionChanged, match=r"version '7' of 't'.*changed a\.py.*new version") as caught:
            constancy.hold("key", "t", "7", code({"a.py": "y = 2\n"}))
    assert caught.value.difference.changed == ("a.py",)
    assert isinstance(caught.value, LoadFailed)
    constancy.hold("key", "t", "7", code({"a.py": A}))


def test_without_a_version_other_code_is_noted_once() -> None:
    """The first time it is there."""
    constancy: Constancy[str] = Constancy(10)
    assert constancy.note("t", code()) is None
    assert str(constancy.note("t", code({"a.py": A}))) == "added a.py"
    assert constancy.note("t", code({"a.py": A})) is None
