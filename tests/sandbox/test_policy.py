"""Limits and policies are checked when they are made; and how a process ended, in words."""

from __future__ import annotations

import dataclasses
import signal
from typing import Any

import pytest

from cloister.sandbox import Limits, Policy
from cloister.sandbox.exits import CUT_OFF, NOT_CONFINED, OUT_OF_MEMORY
from cloister.sandbox.process import describe


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Limits)])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "100", float("inf")])
def test_a_limit_is_a_whole_number_above_zero(field: str, value: Any) -> None:
    """The message names the field and what was given."""
    with pytest.raises(ValueError, match=rf"Limits\.{field} must be a whole number above zero, not"):
        Limits(**{field: value})


def test_time_may_be_unlimited_and_memory_may_not() -> None:
    """An interpreter needs some memory, and the host has only so much."""
    assert Limits(cpu_ms=None, wall_ms=None).cpu_ms is None
    with pytest.raises(ValueError, match="memory_bytes must be a whole number"):
        Limits(memory_bytes=None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 16,777,216"):
        Limits(memory_bytes=(16 << 20) - 1)


def test_the_lower_limit_wins_in_each_respect() -> None:
    """Also against none at all."""
    one = Limits(cpu_ms=10, wall_ms=None, memory_bytes=64 << 20)
    other = Limits(cpu_ms=None, wall_ms=500, memory_bytes=32 << 20)
    assert one.lower_of(other) == other.lower_of(one) == Limits(cpu_ms=10, wall_ms=500, memory_bytes=32 << 20)
    assert one.lower_of(None) is one
    assert Limits(cpu_ms=None, wall_ms=None).lower_of(Limits(cpu_ms=None, wall_ms=None)).cpu_ms is None


def test_a_durable_run_has_no_wall_limit() -> None:
    """Everything else stays."""
    assert Limits(cpu_ms=5).without_wall() == Limits(cpu_ms=5, wall_ms=None)


@pytest.mark.parametrize("isolation", ["", "none", "Strict", None])
def test_isolation_is_one_of_two_words(isolation: Any) -> None:
    """A typing mistake must not be taken for the weaker of them."""
    with pytest.raises(ValueError, match="'strict' or 'standard', not"):
        Policy(isolation=isolation)


@pytest.mark.parametrize("field", ["most_spares", "rotate_after_sandboxes", "rotate_after_s"])
@pytest.mark.parametrize("value", [-1, 1.5, "3", True])
def test_a_policy_counts_in_whole_numbers(field: str, value: Any) -> None:
    """Or not at all; zygotes serve for one sandbox at least, and there may be no spares."""
    with pytest.raises(ValueError, match=rf"Policy\.{field} must be None or a whole number from"):
        Policy(**{field: value})
    unlimited: dict[str, Any] = {field: None}
    assert getattr(Policy(**unlimited), field) is None


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, "exited with 0"),
        (3, "exited with 3"),
        (255, "exited with 255"),
        (NOT_CONFINED, f"exited with {NOT_CONFINED}"),
        (CUT_OFF, "closed its connection"),
        (OUT_OF_MEMORY, "had no memory left to answer with; it may use 0 MiB"),
        (-signal.SIGKILL, "was killed by SIGKILL"),
        (-signal.SIGSEGV, "was killed by SIGSEGV"),
        (-signal.SIGSYS, "was killed by SIGSYS: it made a system call that nothing needs"),
        (-(signal.SIGRTMIN + 3), f"was killed by signal {signal.SIGRTMIN + 3}"),
    ],
)
def test_how_a_process_ended_in_words(status: int, words: str) -> None:
    """Exit codes, signals by name, and those that have none."""
    assert describe(status, memory_bytes=1, killed_for_memory=False) == words


def test_memory_and_confinement_have_their_own_words() -> None:
    """The exit code of a child that could not be confined means that only before it has said hello."""
    assert describe(-9, memory_bytes=128 << 20, killed_for_memory=True) == "exceeded 128 MiB of memory"
    words = describe(NOT_CONFINED, memory_bytes=1, killed_for_memory=False, confined=False)
    assert words == "could not be confined, and was ended before it knew anything"
